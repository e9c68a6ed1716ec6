"""The documentation builds without a warning: no broken link, and a page for every module."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_site_builds_strictly(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going',
                           '-d', tmp_path / 'read', 'docs', tmp_path / 'site'],
                          cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    made = {path.stem for path in (tmp_path / 'site' / 'reference').glob('*.html')}
    modules = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
               for path in (ROOT / 'cnnjax').rglob('*.py')}
    assert made == modules
    page = (tmp_path / 'site' / 'reference' / 'cnnjax.images.units.html').read_text()
    assert 'the number of units of every chunk' in page  # of an argument
    assert 'units at a time' in page  # the comment beside a constant
