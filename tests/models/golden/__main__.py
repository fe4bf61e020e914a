"""Writes the golden lists, all or some: python -m tests.models.golden [MODEL …]"""

import sys

import cnnjax
from tests.models.golden import FOLDER, lines

for name in sys.argv[1:] or cnnjax.list_models():
    (FOLDER / f"{name}.txt").write_text("\n".join(lines(name)) + "\n")
