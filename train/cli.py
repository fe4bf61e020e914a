"""What the commands have in common."""

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """A command's parser: its module's docstring is the description, and nothing is abbreviated."""

    def __init__(self, prog: str, doc: str | None, **options: Any):
        super().__init__(
            prog=prog,
            description=doc,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
