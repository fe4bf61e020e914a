"""What the commands have in common."""

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """A command's parser: its module's docstring is the description, and nothing is abbreviated."""

    def __init__(self, prog: str | None = None, doc: str | None = None, **options: Any):
        defaults: dict[str, Any] = {
            "prog": prog,
            "description": doc,
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(**defaults | options)
