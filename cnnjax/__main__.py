"""The models, and published weights of them.

python -m cnnjax                     the table of models
python -m cnnjax MODEL               one of them, layer by layer
python -m cnnjax weights [MODEL]     published files of weights: where they are, what they reach
python -m cnnjax import --source=S --model=MODEL FILE OUT.safetensors     one of them as variables of the model
"""

import argparse
import dataclasses
import json
import signal
import sys
import warnings
from collections.abc import Sequence

import numpy as np

from cnnjax import analysis, counts
from cnnjax.registry import MODELS, create_model, get_spec


def table(rows: Sequence[tuple[str, ...]], numeric: tuple[int, ...]) -> str:
    """Columns as wide as their widest cell; the numeric ones end on the same column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = [str.rjust if i in numeric else str.ljust for i in range(len(widths))]
    return "\n".join(
        "  ".join(a(cell, w) for a, cell, w in zip(align, row, widths)).rstrip() for row in rows
    )


def shape(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def square(size: tuple[int, ...]) -> str:
    """One number for a square, 1x7 as it is."""
    return str(size[0]) if size[0] == size[1] else shape(size)


def models() -> str:
    rows: list[tuple[str, ...]] = [
        ("model", "paper", "input", "parameters", "multiply-adds", "receptive field")
    ]
    kept = counts.load()
    for name, spec in MODELS.items():
        numbers = (kept[name][key] for key in ("parameters", "multiply_adds", "receptive_field"))
        rows.append(
            (name, spec.paper, shape(spec.input_size), *(f"{number:,}" for number in numbers))
        )
    return table(rows, numeric=(3, 4, 5))


def layers(name: str) -> str:
    spec = get_spec(name)
    summary = analysis.summarize(create_model(name), spec.input_size)
    rows = [("layer", "kind", "output", "parameters", "multiply-adds", "sees", "stride", "bytes")]
    for layer in summary.layers:
        sees, stride = ("all", "") if layer.field == analysis.WHOLE else map(square, layer.field)
        rows.append(
            (
                layer.name,
                layer.kind,
                shape(layer.shape),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                sees,
                stride,
                f"{layer.activation_bytes:,}",
            )
        )
    rows.append(
        (
            "total",
            "",
            "",
            f"{summary.parameters:,}",
            f"{summary.multiply_adds:,}",
            f"{summary.receptive_field}",
            "",
            f"{summary.activation_bytes:,}",
        )
    )
    size = shape(spec.input_size)
    head = f"{name}: {spec.paper} ({spec.reference}), input {size}, {spec.num_classes} classes, one image"
    return f"{head}\n\n{table(rows, numeric=(3, 4, 5, 6, 7))}"


def published(model: str | None) -> str:
    from cnnjax.weights import RECORDS

    if model is not None:
        get_spec(model)
    rows = [
        ("source", "model", "file", "top-1", "top-5", "input", "hash", "licence", "where", "note")
    ]
    for r in RECORDS:
        if model in (None, r.model):
            name = f"{r.model}.{r.tag}" if r.tag else r.model
            kind, _, digits = (r.hash or "").partition(":")
            note = "1001 classes, the first is dropped" if r.background else r.note
            rows.append((r.source, name, r.file, str(r.top1 or "-"), str(r.top5 or "-"), str(r.preprocessing.size),
                         f"{kind}:{digits[:8]}" if kind else "-", r.licence or "not stated", r.where, note))  # fmt: skip
    return table(rows, numeric=(3, 4, 5))


def import_weights(arguments: list[str]) -> int:
    """Converts a published file to our format, reads it back and compares. Exit codes: 2 usage, 4 the file."""
    from cnnjax import weights

    parser = argparse.ArgumentParser(
        prog="python -m cnnjax import", description=import_weights.__doc__, allow_abbrev=False
    )
    parser.add_argument("--source", required=True, help=", ".join(weights.SOURCES))
    parser.add_argument(
        "--model", required=True, help="a model of the table; of timm also MODEL.TAG"
    )
    parser.add_argument(
        "--class-names",
        metavar="TXT",
        help="a file with the name of each class on a line of its own",
    )
    parser.add_argument("file")
    parser.add_argument("out", help="….safetensors")
    args = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", weights.WeightsWarning)
            pretrained = weights.load(args.file, args.model, args.source)
        for note in notes:
            print(f"warning: {note.message}", file=sys.stderr)
        if args.class_names:
            with open(args.class_names, encoding="utf-8") as lines:
                pretrained = dataclasses.replace(
                    pretrained, class_names=tuple(lines.read().splitlines())
                )
        weights.save(args.out, pretrained)
        written = dict(weights.leaves(weights.load(args.out).variables))
        if not all(
            np.array_equal(written[path], x) for path, x in weights.leaves(pretrained.variables)
        ):
            raise weights.WeightsError(
                f"{args.out} does not hold what was written: is the disk full or damaged?"
            )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if type(error) is ValueError else 4
    result = {
        "model": pretrained.name,
        "num_classes": pretrained.model.num_classes,
        "out": args.out,
        **pretrained.origin,
    }
    print(f"preprocessing: {pretrained.preprocessing}")
    print(
        json.dumps(
            result | {"parameters": analysis.count_parameters(pretrained.variables["params"])}
        )
    )
    return 0


def main() -> int:
    if sys.argv[1:2] == ["import"]:
        return import_weights(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m cnnjax", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("model", nargs="?", help="a model of the table, or `weights`")
    parser.add_argument(
        "of", nargs="?", metavar="MODEL", help="behind `weights`: only those of this model"
    )
    args = parser.parse_args()
    if args.of is not None and args.model != "weights":
        parser.error(f"one model at a time, got {args.model} and {args.of}")
    try:
        if args.model == "weights":
            print(published(args.of))
        else:
            print(layers(args.model) if args.model else models())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(
            signal.SIGPIPE, signal.SIG_DFL
        )  # `python -m cnnjax weights | head` ends quietly
    sys.exit(main())
