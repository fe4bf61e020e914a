"""`python -m cnnjax`: the table of models. `python -m cnnjax MODEL`: one of them, layer by layer."""

import argparse
import sys
from collections.abc import Sequence

from cnnjax import analysis
from cnnjax.registry import MODELS, create_model, get_spec


def table(rows: Sequence[tuple[str, ...]], numeric: tuple[int, ...]) -> str:
    """Columns as wide as their widest cell; the numeric ones end on the same column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = [str.rjust if i in numeric else str.ljust for i in range(len(widths))]
    return "\n".join("  ".join(a(cell, w) for a, cell, w in zip(align, row, widths)).rstrip() for row in rows)


def shape(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def models() -> str:
    rows = [("model", "paper", "input", "parameters", "multiply-adds", "receptive field")]
    for name, spec in MODELS.items():
        rows.append((name, spec.paper, shape(spec.input_size), f"{spec.parameters:,}", f"{spec.multiply_adds:,}",
                     f"{spec.receptive_field}"))
    return table(rows, numeric=(3, 4, 5))


def layers(name: str) -> str:
    spec = get_spec(name)
    summary = analysis.summarize(create_model(name), spec.input_size)
    rows = [("layer", "kind", "output", "parameters", "multiply-adds", "sees", "stride", "bytes")]
    for layer in summary.layers:
        sees, stride = ("all", "") if layer.field == analysis.WHOLE else map(str, layer.field)
        rows.append((layer.name, layer.kind, shape(layer.shape), f"{layer.parameters:,}", f"{layer.multiply_adds:,}", sees,
                     stride, f"{layer.activation_bytes:,}"))
    rows.append(("total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}",
                 f"{summary.receptive_field}", "", f"{summary.activation_bytes:,}"))
    head = f"{name}: {spec.paper} ({spec.reference}), input {shape(spec.input_size)}, {spec.num_classes} classes, one image"
    return f"{head}\n\n{table(rows, numeric=(3, 4, 5, 6, 7))}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cnnjax", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", help="a model of the table: prints its layers")
    args = parser.parse_args()
    try:
        print(layers(args.model) if args.model else models())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
