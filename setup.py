"""The README for a package index, where the pictures and files beside it are not at hand."""

import re
from pathlib import Path

from setuptools import setup

text = Path(__file__).with_name('README.md').read_text()
text = re.sub(r'<!-- pictures.*<!-- end of the pictures -->\n*', '', text, flags=re.DOTALL)
text = re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text)  # links become their text
setup(long_description=text, long_description_content_type='text/markdown')
