"""Makes `report.html` of a run folder: one self-contained page with curves, confusions, mistakes and filters.

python -m train.report --workdir=runs/lenet [--step=best]
"""

import argparse
import base64
import html
import io
import string
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from train import data, errors, logs
from train.config import flatten, to_dict
from train.evaluate import answer
from train.run import Run
from train.statistics import confusion_matrix
from train.subject import from_run

PAGE = string.Template((Path(__file__).parent / "report.html").read_text())


def figure(fig) -> str:
    """A matplotlib figure as a data URI."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    plt.close(fig)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def section(title: str, text: str, fig, alt: str) -> str:
    return f'<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n<img src="{figure(fig)}" alt="{html.escape(alt)}">\n'


def plot_curves(rows: list[dict[str, Any]]):
    """Loss, accuracy and learning rate over the steps, one line for each split."""
    splits: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        splits[row["split"]].append(row)
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    for ax, name, label in zip(axes, ("loss", "top1", "lr"), ("loss", "error (1 - top-1)", "learning rate")):
        for split, of_split in splits.items():
            points = [(row["step"], 1 - row[name] if name == "top1" else row[name]) for row in of_split if name in row]
            if points:
                ax.plot(*zip(*points), label=split, marker="." if len(points) < 3 else None)
        ax.set(xlabel="step", title=label)
        if name != "lr":
            ax.set_yscale("log")
            ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            ax.legend()
        ax.grid(alpha=0.3, which="both")
    return fig


def plot_confusion(matrix: np.ndarray, names: tuple[str, ...]):
    """Counts as text while they are readable; colour shows the mistakes only, so that the diagonal does not drown them."""
    classes = len(names)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, matrix)
    size = min(12.0, max(4.0, 0.55 * classes))
    fig, ax = plt.subplots(figsize=(size, size), constrained_layout=True)
    ax.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(4, mistakes.max()))
    ax.set(xlabel="predicted", ylabel="true")
    if classes <= 40:
        ax.set_xticks(range(classes), names, rotation=0 if max(map(len, names)) < 4 else 90)
        ax.set_yticks(range(classes), names)
    if classes <= 25:
        for row, column in np.argwhere(matrix):
            strong = mistakes[row, column] > 0.6 * max(4, mistakes.max())
            ax.text(
                column,
                row,
                matrix[row, column],
                ha="center",
                va="center",
                fontsize=9,
                color="white" if strong else "black",
            )
    return fig


def show(ax, image: np.ndarray) -> None:
    """An image of uint8, or of floats in [0, 1]."""
    grey = image.shape[-1] == 1
    top = 255 if image.dtype == np.uint8 else 1
    ax.imshow(image.squeeze(-1) if grey else image, cmap="gray" if grey else None, vmin=0, vmax=top)
    ax.set_xticks([])
    ax.set_yticks([])


def plot_mistakes(
    probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...], read: Callable, count: int = 24
):
    """The wrong answers that the network is surest of, with both names; None where there are none.

    `read` gives the images of some of the examples.
    """
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]
    if not len(wrong):
        return None
    columns = min(8, len(wrong))
    lines = -(-len(wrong) // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(1.5 * columns, 1.85 * lines), constrained_layout=True, squeeze=False
    )
    for ax in axes.flat[len(wrong) :]:
        ax.axis("off")
    for ax, i, image in zip(axes.flat, wrong, read(wrong)):
        show(ax, image)
        name, truth = names[predicted[i]], names[labels[i]]
        ax.set_title(f"{name} ({probabilities[i, predicted[i]]:.0%})\ntrue {truth}", fontsize=9)
    return fig


def first_kernel(params: Any) -> np.ndarray | None:
    """The first convolution's kernel (kh, kw, in, out), if it reads 1 or 3 channels and is larger than 1x1."""
    for name in params:
        value = params[name]
        if not hasattr(value, "shape"):
            found = first_kernel(value)
            if found is not None:
                return found
        elif name == "kernel" and value.ndim == 4 and value.shape[2] in (1, 3) and value.shape[0] > 1:
            return np.asarray(value)
    return None


def plot_filters(kernel: np.ndarray):
    """Each filter on its own scale, zero in the middle grey."""
    count = min(kernel.shape[-1], 96)
    columns = min(16, count)
    lines = -(-count // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(0.75 * columns, 0.8 * lines), constrained_layout=True, squeeze=False
    )
    for ax in axes.flat[count:]:
        ax.axis("off")
    for ax, i in zip(axes.flat, range(count)):
        filter_ = kernel[..., i]
        show(ax, 0.5 + 0.5 * filter_ / max(np.abs(filter_).max(), 1e-9))
    return fig


def write_report(workdir: str, step: str = "latest") -> dict[str, Any]:
    """Evaluates a checkpoint on the run's evaluation split and writes `report.html`."""
    run = Run(workdir)
    split = run.load_split()
    seen = from_run(run, step, split=split)
    number, variables = int(seen.label), seen.variables
    answers = answer([seen], split)
    probabilities, labels, places = np.exp(answers.log_probabilities), answers.labels, answers.examples
    matrix = confusion_matrix(labels, probabilities.argmax(-1), len(split.class_names))
    right = int(matrix.trace())
    rows = logs.read(run.folder)

    sections = []
    if rows:
        sections.append(
            section(
                "Training",
                "What metrics.jsonl holds; training values are means since the row before.",
                plot_curves(rows),
                "Curves of loss, error and learning rate over the training steps",
            )
        )
    sections.append(
        section(
            "Confusion matrix",
            "Counts on the evaluation split; the colour shows mistakes only.",
            plot_confusion(matrix, split.class_names),
            f"Confusion matrix: {right} of {len(labels)} examples on the diagonal",
        )
    )
    mistakes = plot_mistakes(
        probabilities, labels, split.class_names, lambda rows: data.read(split, places[rows], run.config.data)
    )
    if mistakes:
        sections.append(
            section(
                "Most confident mistakes",
                "Predicted class with its probability, above the true one.",
                mistakes,
                "The misclassified images of which the network was surest",
            )
        )
    kernel = first_kernel(variables["params"])
    if kernel is not None:
        size = f"{kernel.shape[-1]} filters of {kernel.shape[0]}x{kernel.shape[1]}"
        sections.append(
            section("First layer", f"{size}, each on its own scale; grey is zero.", plot_filters(kernel), size)
        )
    options = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in flatten(to_dict(run.config)).items()
    )
    sections.append(f"<h2>Config</h2>\n<table>{options}</table>\n")

    headline = {
        "top-1 accuracy": f"{right / len(labels):.2%}",
        "mistakes": f"{len(labels) - right:,} of {len(labels):,}",
        "step": f"{number:,}",
        "classes": f"{len(split.class_names):,}",
    }
    numbers = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in headline.items())
    title = f"{run.config.model.name} on {run.config.data.source}"
    page = PAGE.substitute(
        title=html.escape(title),
        subtitle=f"Checkpoint of step {number}, evaluated on the {run.config.data.eval_split} split.",
        numbers=numbers,
        sections="".join(sections),
    )
    path = run.folder / "report.html"
    path.write_text(page)
    return {"report": str(path), "step": number, "top1": right / len(labels), "examples": len(labels)}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m train.report",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="a run folder")
    parser.add_argument("--step", default="latest", help="latest, best or a number")
    args = parser.parse_args(argv)
    return write_report(args.workdir, args.step)


if __name__ == "__main__":
    sys.exit(errors.run(main))
