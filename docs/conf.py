"""How Sphinx builds the documentation: sphinx-build -W docs build/docs

The reference is made from the docstrings, and from the comments beside constants and fields.
"""

import ast
import re
from pathlib import Path

import sphinx.pycode.parser
from sphinx.ext.napoleon import Config, GoogleDocstring

import cnnjax

project = html_title = 'cnnjax'
author = copyright = 'The cnnjax authors'
version = release = cnnjax.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode']
html_theme = 'furo'
html_show_sphinx = False
html_static_path = html_css_files = ['site.css']
myst_heading_anchors = 4
default_role = 'code'
autodoc_default_options = {'members': True, 'ignore-module-all': True}
autodoc_inherit_docstrings = False  # flax's say nothing about a network
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 90
# Any comment beside a constant or a field describes it, not only those that begin with '#:'.
sphinx.pycode.parser.comment_re = re.compile(r'^\s*#:? ?(.*)\r?\n?$')


def write_reference(app):
    """Writes a page for every module into docs/reference/, which git ignores."""
    package = Path(cnnjax.__file__).parent
    names = {'.'.join(path.relative_to(package.parent).with_suffix('').parts).removesuffix(
        '.__init__'): path for path in sorted(package.rglob('*.py'))}
    folder = Path(app.srcdir) / 'reference'
    folder.mkdir(exist_ok=True)
    for page in set(folder.iterdir()) - {folder / f'{name}.rst' for name in names}:
        page.unlink()
    for name in names:
        below = [other for other in names if other.rpartition('.')[0] == name]
        lines = [name, '=' * len(name), '', f'.. automodule:: {name}', '']
        for other in below:
            about = ast.get_docstring(ast.parse(names[other].read_text())) or ''
            about = described(about.partition('\n\n')[0]).replace('\n', ' ')
            lines += [f':doc:`{other}`', f'    {about}', '']
        if below:
            lines += ['.. toctree::', '   :hidden:', '', *(
                f'   {other.rpartition(".")[2]} <{other}>' for other in below)]
        text, page = '\n'.join(lines) + '\n', folder / f'{name}.rst'
        if not page.exists() or page.read_text() != text:  # Sphinx reads again what has changed
            page.write_text(text)


def described(text):
    """Plain text in reStructuredText: stars and bars mean themselves, an indented part is code."""
    return '\n\n'.join(
        f'::\n\n{part}' if part.startswith('    ') else re.sub(
            r'(`[^`]*`)|([\\*|]|_(?!\w))', lambda found: found[1] or '\\' + found[2], part)
        for part in text.split('\n\n'))


def process_docstring(app, what, name, thing, options, lines):
    text = described(thing.__doc__ or '' if what == 'module' else '\n'.join(lines))
    if text.startswith('Alias for field'):  # Python's words for a field without a comment
        text = ''
    if what not in ('attribute', 'data'):
        text = str(GoogleDocstring(text, Config(), app, what, name, thing, options))
    lines[:] = text.split('\n')


def process_signature(app, what, name, thing, options, signature, returned):
    """Leaves out the two fields that flax adds to every network."""
    return signature and re.sub(r',? ?parent: .*(?=\))', '', signature), returned


def process_include(app, path, document, content):
    """Links of a file that stands above docs/ and is included in a page of the same name."""
    def from_here(link):
        page = link[1].lower()
        return f']({page}' if (Path(app.srcdir) / page).is_file() else f'](../{link[1]}'

    content[0] = re.sub(r'\]\((?!https?:|#)([^)]*)', from_here, content[0])


def setup(app):
    app.connect('builder-inited', write_reference)
    app.connect('autodoc-process-docstring', process_docstring)
    app.connect('autodoc-process-signature', process_signature)
    app.connect('include-read', process_include)
