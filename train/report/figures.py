"""The report's pictures, as matplotlib figures of arrays."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from train.classifier import Classifier
from train.report import explain
from train.report.branches import Contribution

CURVES = (("loss", "loss"), ("top1", "error (1 - top-1)"), ("lr", "learning rate"))


def plot_curves(runs: dict[str, list[dict[str, Any]]]):
    """Loss, accuracy and learning rate over the steps: one line for each split, one colour for each of several runs."""
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for place, (run, rows) in enumerate(runs.items()):
        splits: dict[str, list[dict]] = defaultdict(list)
        for row in rows:
            splits[row["split"]].append(row)
        for number, (split, of_split) in enumerate(splits.items()):
            look = {
                "color": colours[place % len(colours)],
                "linestyle": ("--", "-", ":")[number % 3],
            }
            for ax, (name, _) in zip(axes, CURVES):
                points = [
                    (row["step"], 1 - row[name] if name == "top1" else row[name])
                    for row in of_split
                    if name in row
                ]
                if points:
                    label = f"{run} {split}" if run else split
                    marker = "." if len(points) < 3 else None
                    ax.plot(*zip(*points), label=label, marker=marker, **(look if run else {}))
    for ax, (name, title) in zip(axes, CURVES):
        ax.set(xlabel="step", title=title)
        if name != "lr":
            ax.set_yscale("log")
            ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            if ax.lines:
                ax.legend(fontsize=8)
        ax.grid(alpha=0.3, which="both")
    return fig


def plot_reliability(table: list[dict[str, float]]):
    """How often the network is right, for each degree of being sure; the line is where the two are equal."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    places, width = [row["from"] for row in table], table[0]["to"] - table[0]["from"]
    left.bar(
        places,
        [row["accuracy"] for row in table],
        width,
        align="edge",
        color="#4c78a8",
        edgecolor="white",
    )
    left.plot([0, 1], [0, 1], color="black", linewidth=1)
    left.scatter(
        [row["confidence"] for row in table],
        [row["accuracy"] for row in table],
        s=14,
        color="black",
        zorder=3,
    )
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    right.bar(
        places,
        [row["examples"] for row in table],
        width,
        align="edge",
        color="#4c78a8",
        edgecolor="white",
    )
    right.set(xlim=(0, 1), xlabel="confidence", ylabel="examples", yscale="log")
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
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    read: Callable,
    count: int = 24,
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
        lines,
        columns,
        figsize=(1.5 * columns, 1.85 * lines),
        constrained_layout=True,
        squeeze=False,
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
        elif (
            name == "kernel" and value.ndim == 4 and value.shape[2] in (1, 3) and value.shape[0] > 1
        ):
            return np.asarray(value)
    return None


def plot_filters(kernel: np.ndarray):
    """Each filter on its own scale, zero in the middle grey."""
    count = min(kernel.shape[-1], 96)
    columns = min(16, count)
    lines = -(-count // columns)
    fig, axes = plt.subplots(
        lines,
        columns,
        figsize=(0.75 * columns, 0.8 * lines),
        constrained_layout=True,
        squeeze=False,
    )
    for ax in axes.flat[count:]:
        ax.axis("off")
    for ax, i in zip(axes.flat, range(count)):
        filter_ = kernel[..., i]
        show(ax, 0.5 + 0.5 * filter_ / max(np.abs(filter_).max(), 1e-9))
    return fig


def images_in_rows(rows: list[list[tuple[np.ndarray, str]]], size: float = 1.5):
    """Pictures with a line above each, in rows of equal length."""
    fig, axes = plt.subplots(
        len(rows),
        len(rows[0]),
        figsize=(size * len(rows[0]), (size + 0.3) * len(rows)),
        constrained_layout=True,
        squeeze=False,
    )
    for line, row in zip(axes, rows):
        for ax, (image, title) in zip(line, row):
            if not title:
                ax.axis("off")
                continue
            show(ax, image)
            ax.set_title(title, fontsize=8)
    return fig


def plot_attention(
    seen: Classifier, images: np.ndarray, probabilities: np.ndarray, names: tuple[str, ...]
):
    """Each image, where its last map speaks for the answer (Grad-CAM), and what covering a place costs (occlusion)."""
    x, answers = seen.preprocess(images), probabilities.argmax(-1)
    heat = explain.grad_cam(seen.model, seen.variables, x, answers)
    side = min(images.shape[1:3])
    patch = max(1, side // 5)
    grey = float(np.mean(np.asarray(x)))
    falls = explain.occlusion(
        seen.model,
        seen.variables,
        x,
        answers,
        size=patch,
        stride=max(1, (side - patch) // 9),
        fill=grey,
    )
    return images_in_rows([
        [(image, names[answer]) for image, answer in zip(images, answers)],
        [(explain.overlay(*pair), "Grad-CAM") for pair in zip(images, heat)],
        [(explain.overlay(image, fall), f"occlusion {fall.max():+.0%}") for image, fall in zip(images, falls)],
    ])  # fmt: skip


def plot_maps(maps: np.ndarray, image: np.ndarray, stage: str):
    """The image and the channels (h, w, C) of one stage that vary most, each on its own scale."""
    chosen = np.argsort(-maps.std((0, 1)), kind="stable")[:15]
    tiles = [(image, "image")]
    for channel in chosen:
        one = maps[..., channel]
        low, span = one.min(), max(float(np.ptp(one)), 1e-9)
        tiles.append((((one - low) / span)[..., None].astype(np.float32), f"{stage} {channel}"))
    tiles += [(np.ones((1, 1, 1), np.float32), "")] * (-len(tiles) % 8)
    return images_in_rows([tiles[start : start + 8] for start in range(0, len(tiles), 8)])


def plot_fields(fields: dict[str, int], image: np.ndarray):
    """What one cell in the middle of some of the maps sees, as squares on the image."""
    height, width = image.shape[:2]
    distinct = {size: name for name, size in fields.items() if size > 1}
    chosen = sorted(distinct)
    chosen = [chosen[i] for i in sorted({round(i) for i in np.linspace(0, len(chosen) - 1, 7)})]
    reach = max(height, width, *[size for size in chosen if size <= 3 * max(height, width)])
    fig, ax = plt.subplots(figsize=(6.5, 4.5), constrained_layout=True)
    grey = image.shape[-1] == 1
    ax.imshow(image.squeeze(-1) if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
    colours = matplotlib.colormaps["plasma"](np.linspace(0, 0.9, len(chosen)))
    for size, colour in zip(chosen, colours):
        corner = (width / 2 - size / 2 - 0.5, height / 2 - size / 2 - 0.5)
        label = f"{distinct[size]}: {size}" + ("" if size <= reach else " (beyond the picture)")
        ax.add_patch(
            plt.Rectangle(corner, size, size, fill=False, color=colour, linewidth=2, label=label)
        )
    edge = 0.05 * reach
    ax.set(xlim=(width / 2 - reach / 2 - edge, width / 2 + reach / 2 + edge),
           ylim=(height / 2 + reach / 2 + edge, height / 2 - reach / 2 - edge))  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    ax.axis("off")
    return fig


def plot_neighbours(
    images: np.ndarray, features: np.ndarray, names: list[str], queries: list[int], k: int = 7
):
    """Some images, and those of which the features point most in the same direction."""
    near = explain.neighbours(features, features[queries], k + 1)
    rows = []
    for query, found in zip(queries, near):
        others = [i for i in found if i != query][:k]
        rows.append([(images[query], f"{names[query]}:")] + [(images[i], names[i]) for i in others])
    return images_in_rows(rows, 1.2)


def plot_branches(found: list[Contribution]):
    """A bar for each branch, block by block: how far the probability of the answers falls without it."""
    labels = [f"{each.branch.block}  {each.branch.name}" for each in found]
    blocks = list(dict.fromkeys(each.branch.block for each in found))
    places = [i + 0.6 * blocks.index(each.branch.block) for i, each in enumerate(found)]
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    fig, ax = plt.subplots(figsize=(8, 0.8 + 0.17 * (places[-1] + 1)), constrained_layout=True)
    ax.barh(
        places,
        [each.fall for each in found],
        color=[colours[blocks.index(each.branch.block) % len(colours)] for each in found],
    )
    ax.set_yticks(places, labels, fontsize=7)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    ax.set(xlabel="fall of the answer's probability", ylim=(places[-1] + 1, -1))
    ax.grid(axis="x", alpha=0.3)
    return fig
