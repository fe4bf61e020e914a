"""What every model of the registry comes to, computed once: tracing all of them takes ten seconds, a table must not.

`python -m cnnjax.counts` computes counts.json anew from the modules; a test holds it to them.
"""

import json
from pathlib import Path

FILE = Path(__file__).parent / "counts.json"


def compute() -> dict[str, dict[str, int]]:
    """name -> parameters, multiply_adds and receptive_field, traced from the modules."""
    from cnnjax.registry import MODELS

    fields = ("parameters", "multiply_adds", "receptive_field")
    return {
        name: {field: getattr(spec, field) for field in fields} for name, spec in MODELS.items()
    }


def load() -> dict[str, dict[str, int]]:
    """The same from counts.json."""
    return json.loads(FILE.read_text())


if __name__ == "__main__":
    FILE.write_text(
        "{\n"
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in compute().items())
        + "\n}\n"
    )
