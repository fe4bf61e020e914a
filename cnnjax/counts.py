"""The counts of every model, stored in counts.json for the table of `python -m cnnjax`.

To trace all models takes seconds; to read a file does not. `python -m cnnjax.counts` writes the
file, and a test compares it with the modules.
"""

import json
from pathlib import Path

FILE = Path(__file__).parent / "counts.json"


def compute() -> dict[str, dict[str, int]]:
    """{model: {"parameters", "multiply_adds", "receptive_field"}}, traced from the modules."""
    from cnnjax.registry import MODELS

    fields = ("parameters", "multiply_adds", "receptive_field")
    rows = MODELS.items()
    return {name: {field: getattr(spec, field) for field in fields} for name, spec in rows}


def load() -> dict[str, dict[str, int]]:
    """The same, read from counts.json."""
    return json.loads(FILE.read_text())


if __name__ == "__main__":
    lines = (f" {json.dumps(name)}: {json.dumps(row)}" for name, row in compute().items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
