"""What pyproject.toml cannot say: the README for a package index, where the pictures and files that
it links to are not at hand."""

import re
from pathlib import Path

from setuptools import setup

text = Path(__file__).with_name('README.md').read_text()
text = re.sub(r'!\[[^\]]*\]\((?!https?:)[^)]*\)\n*', '', text)  # pictures go
text = re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text)  # links become their text
setup(long_description=text, long_description_content_type='text/markdown')
