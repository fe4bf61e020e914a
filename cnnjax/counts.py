"""The counts of every model, stored in counts.json for the table of `python -m cnnjax`.

To trace all models takes seconds; to read a file does not. `python -m cnnjax.counts` writes the
file, and a test compares it with the modules.
"""

import json
from pathlib import Path

FILE = Path(__file__).parent / "counts.json"


def compute(name: str) -> dict[str, int]:
    """{"parameters", "multiply_adds", "receptive_field"} of a model, traced from its module."""
    from cnnjax.registry import get_spec

    fields = ("parameters", "multiply_adds", "receptive_field")
    return {field: getattr(get_spec(name), field) for field in fields}


def load() -> dict[str, dict[str, int]]:
    """The same of every model by name, read from counts.json."""
    return json.loads(FILE.read_text())


if __name__ == "__main__":
    from cnnjax.registry import list_models

    lines = (f" {json.dumps(name)}: {json.dumps(compute(name))}" for name in list_models())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
