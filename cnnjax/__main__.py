"""The networks, published weights, recipes, and the trainer's commands.

cnnjax                               table of all networks
cnnjax MODEL                         one network, layer by layer (also: cnnjax models MODEL)
cnnjax weights [MODEL]               published weights: location, accuracy, hash
cnnjax import --source=S --model=MODEL FILE OUT.safetensors
                                     converts a published file to our format
cnnjax recipes                       the recipes that come with the package
cnnjax train RECIPE --workdir=DIR    as python -m train; so are evaluate, predict, report, export,
                                     data, benchmark, sweep and lineage
cnnjax completion bash               a script that completes these words (also: zsh)
                                     making it takes seconds, so keep it in a file

`python -m cnnjax` is the same command.
"""

import argparse
import dataclasses
import json
import os
import runpy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import cnnjax
from cnnjax import analysis, counts, trees
from cnnjax.registry import MODELS, create_model, get_spec

COMMANDS = {  # of the trainer, and their modules
    "train": "train",
    "evaluate": "train.evaluate",
    "predict": "train.predict",
    "report": "train.report",
    "export": "train.export",
    "data": "train.data",
    "benchmark": "train.benchmark",
    "sweep": "train.sweep",
    "lineage": "train.lineage",
}


def table(rows: Sequence[tuple[str, ...]], numeric: tuple[int, ...]) -> str:
    """The rows as text in aligned columns; those in `numeric` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = [str.rjust if i in numeric else str.ljust for i in range(len(widths))]
    return "\n".join(
        "  ".join(a(cell, w) for a, cell, w in zip(align, row, widths)).rstrip() for row in rows
    )


def shape(size: tuple[int, ...]) -> str:
    """(32, 32, 1) as "32x32x1"."""
    return "x".join(map(str, size))


def square(size: tuple[int, ...]) -> str:
    """(7, 7) as "7" and (1, 7) as "1x7"."""
    return str(size[0]) if size[0] == size[1] else shape(size)


def models() -> str:
    """The table of all models."""
    head = ("model", "paper", "input", "parameters", "multiply-adds", "receptive field")
    rows: list[tuple[str, ...]] = [head]
    stored = counts.load()
    for name, spec in MODELS.items():
        numbers = (stored[name][key] for key in ("parameters", "multiply_adds", "receptive_field"))
        rows.append((name, spec.paper, shape(spec.input_size), *(f"{n:,}" for n in numbers)))
    return table(rows, numeric=(3, 4, 5))


def layers(name: str) -> str:
    """The table of a model's layers. ValueError: there is no such model."""
    spec = get_spec(name)
    summary = analysis.summarize(create_model(name), spec.input_size)
    rows = [("layer", "kind", "output", "parameters", "multiply-adds", "sees", "stride", "bytes")]
    for layer in summary.layers:
        sees, stride = ("all", "") if layer.field == analysis.WHOLE else map(square, layer.field)
        costs = f"{layer.parameters:,}", f"{layer.multiply_adds:,}"
        memory = f"{layer.activation_bytes:,}"
        rows.append((layer.name, layer.kind, shape(layer.shape), *costs, sees, stride, memory))
    costs = f"{summary.parameters:,}", f"{summary.multiply_adds:,}"
    memory = f"{summary.activation_bytes:,}"
    rows.append(("total", "", "", *costs, f"{summary.receptive_field}", "", memory))
    head = (
        f"{name}: {spec.paper} ({spec.reference}), "
        f"input {shape(spec.input_size)}, {spec.num_classes} classes, one image"
    )
    return f"{head}\n\n{table(rows, numeric=(3, 4, 5, 6, 7))}"


def published(model: str | None) -> str:
    """The table of published weights, of all models or of one. ValueError: no such model."""
    from cnnjax.weights import RECORDS
    from cnnjax.weights.fetch import local

    if model is not None:
        get_spec(model)
    head = "source model file top-1 top-5 input hash here licence where note"
    rows = [tuple(head.split())]
    for record in RECORDS:
        if model in (None, record.model):
            name = f"{record.model}.{record.tag}" if record.tag else record.model
            kind, _, digits = (record.hash or "").partition(":")
            short = f"{kind}:{digits[:8]}" if kind else "-"
            accuracy = str(record.top1 or "-"), str(record.top5 or "-")
            licence = record.licence or "not stated"
            note = "1001 classes, the first is dropped" if record.background else record.note
            row = (record.source, name, record.file, *accuracy, str(record.preprocessing.size))
            here = "yes" if local(record, verify=False) else "no"
            rows.append((*row, short, here, licence, record.where, note))
    return table(rows, numeric=(3, 4, 5))


def import_weights(arguments: list[str]) -> int:
    """Converts a published file to our format, reads the result back and compares.

    Exit codes: 2 for a usage error, 4 for a file that cannot be read or does not fit.
    """
    from cnnjax import weights

    parser = argparse.ArgumentParser(
        prog="cnnjax import", description=import_weights.__doc__, allow_abbrev=False
    )
    parser.add_argument("--source", required=True, help=", ".join(weights.SOURCES))
    parser.add_argument(
        "--model", required=True, help="a model of the table; for timm also MODEL.TAG"
    )
    parser.add_argument(
        "--class-names", metavar="TXT", help="a text file with one class name in each line"
    )
    parser.add_argument("file")
    parser.add_argument("out", help="….safetensors")
    args = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", weights.WeightsWarning)
            pretrained = weights.load(args.file, args.model, args.source)
        for warning in caught:
            print(f"warning: {warning.message}", file=sys.stderr)
        if args.class_names:
            names = Path(args.class_names).read_text(encoding="utf-8").splitlines()
            pretrained = dataclasses.replace(pretrained, class_names=tuple(names))
        weights.save(args.out, pretrained)
        written = trees.flatten(weights.load(args.out).variables)
        converted = trees.flatten(pretrained.variables).items()
        if not all(np.array_equal(written[path], x) for path, x in converted):
            raise weights.WeightsError(
                f"{args.out} reads back differently from what was written: "
                "the disk may be full or damaged"
            )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if type(error) is ValueError else 4
    result = {
        "model": pretrained.name,
        "num_classes": pretrained.model.num_classes,
        "out": args.out,
        **pretrained.origin,
        "parameters": analysis.count_parameters(pretrained.variables["params"]),
    }
    print(f"preprocessing: {pretrained.preprocessing}")
    print(json.dumps(result))
    return 0


def recipes() -> str:
    """The recipes of the package by name, each with its first line."""
    try:
        from train.recipe import known
    except ImportError:
        raise ValueError("recipes need the trainer: pip install 'cnnjax[train,data]'") from None
    return table([(name, line) for name, line in known().items()], numeric=())


def complete(shell: str) -> str:
    """The script that completes the command's words in a shell. ValueError: an unknown shell."""
    from cnnjax import completion

    names = list(MODELS)
    words = {"": ["recipes", *names], "models": names, "weights": names}
    words |= {"import": ["--source", "--model"], "completion": list(completion.SHELLS)}
    try:
        from train.recipe import known
    except ImportError:
        return completion.script(shell, words, {})
    return completion.script(shell, words | {"train": list(known())}, COMMANDS)


def run(command: str) -> None:
    """Runs a command of the trainer as `python -m` does, with the arguments after its name."""
    sys.argv[:2] = [f"cnnjax {command}"]
    try:
        runpy.run_module(COMMANDS[command], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        print(
            f"error: cnnjax {command} needs {error.name}: pip install 'cnnjax[train,data]'",
            file=sys.stderr,
        )
        sys.exit(2)


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        run(sys.argv[1])
    try:
        try:
            return answer()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `cnnjax weights | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13


def answer() -> int:
    """What needs no trainer; the exit code."""
    if sys.argv[1:2] == ["import"]:
        return import_weights(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="cnnjax",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cnnjax {cnnjax.__version__}")
    parser.add_argument("model", nargs="?", help="a network, or one of the words above")
    parser.add_argument("of", nargs="?", metavar="MODEL", help="after `models`, `weights`; a shell")
    args = parser.parse_args()
    if args.of is not None and args.model not in ("models", "weights", "completion"):
        parser.error(f"give one model, not two: {args.model} and {args.of}")
    try:
        if args.model == "weights":
            print(published(args.of))
        elif args.model == "completion":
            print(complete(args.of or "bash"), end="")
        elif args.model == "recipes":
            print(recipes())
        else:
            model = args.of if args.model == "models" else args.model
            print(layers(model) if model else models())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
