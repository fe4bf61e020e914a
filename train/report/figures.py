"""The report's pictures, as matplotlib figures. They are made without pyplot, which has state.

One function a picture.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from train.classifier import Classifier
from train.data.split import in_words
from train.report import explain
from train.report.branches import Contribution
from train.report.explain import flat

CURVES = (("loss", "loss"), ("top1", "error (1 - top-1)"), ("lr", "learning rate"))
BLUE = "#4c78a8"


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns); width and height in inches."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


def colour(place: int) -> str:
    """The colour of the first, second, … line or bar."""
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return colours[place % len(colours)]


def plot_curves(runs: dict[str, list[dict[str, Any]]]) -> Figure:
    """Loss, error and learning rate over the steps: a line for each split of each run.

    With one run, whose name is "", each split has its colour. With several, each run has a colour
    and each split a kind of line.
    """
    fig, axes = subplots(1, 3, 12, 3.2)
    for place, (run, rows) in enumerate(runs.items()):
        splits: dict[str, list[dict]] = defaultdict(list)
        for row in rows:
            splits[row["split"]].append(row)
        for number, (split, of_split) in enumerate(splits.items()):
            line = {"color": colour(place), "linestyle": ("--", "-", ":")[number % 3]}
            for ax, (name, _) in zip(axes.flat, CURVES):
                points = [
                    (row["step"], 1 - row[name] if name == "top1" else row[name])
                    for row in of_split
                    if name in row
                ]
                if points:
                    label = f"{run} {split}" if run else split
                    marker = "." if len(points) < 3 else None
                    ax.plot(*zip(*points), label=label, marker=marker, **(line if run else {}))
    for ax, (name, title) in zip(axes.flat, CURVES):
        ax.set(xlabel="step", title=title)
        if name != "lr":
            if wide(ax):
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
            if ax.lines:
                ax.legend(fontsize=8)
        ax.grid(alpha=0.3, which="both")
    return fig


def wide(ax: Axes, times: float = 10) -> bool:
    """Whether the largest value of a plot is more than `times` the smallest above zero."""
    values = [float(y) for line in ax.lines for y in np.ravel(line.get_ydata()) if y > 0]
    return bool(values) and max(values) > times * min(values)


def plot_reliability(table: list[dict[str, float]]) -> Figure:
    """Accuracy and number of examples for each confidence; the line is perfect calibration."""
    fig, axes = subplots(1, 2, 9, 3.4)
    left, right = axes.flat
    starts, width = [row["from"] for row in table], table[0]["to"] - table[0]["from"]
    confidence, accuracy, examples = (
        [row[name] for row in table] for name in ("confidence", "accuracy", "examples")
    )
    bars: dict[str, Any] = dict(width=width, align="edge", color=BLUE, edgecolor="white")
    left.bar(starts, accuracy, **bars)
    left.plot([0, 1], [0, 1], color="black", linewidth=1)
    left.scatter(confidence, accuracy, s=14, color="black", zorder=3)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    right.bar(starts, examples, **bars)
    right.set(xlim=(0, 1), xlabel="confidence", ylabel="examples", yscale="log")
    return fig


def plot_confusion(matrix: np.ndarray, names: tuple[str, ...]) -> Figure:
    """A confusion matrix; counts are written where they are readable.

    The colour shows the mistakes alone, which are few beside the diagonal.
    """
    classes = len(names)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, matrix)
    size = min(12.0, max(4.0, 0.55 * classes))
    fig, axes = subplots(1, 1, size, size)
    (ax,) = axes.flat
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


def show(ax: Axes, image: np.ndarray) -> None:
    """An image (H, W, C) of uint8, or of floats in [0, 1], without ticks."""
    grey = image.shape[-1] == 1
    top = 255 if image.dtype == np.uint8 else 1
    ax.imshow(image.squeeze(-1) if grey else image, cmap="gray" if grey else None, vmin=0, vmax=top)
    ax.set_xticks([])
    ax.set_yticks([])


def is_right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the most probable class is the label, or one of the labels (N, K)."""
    predicted = probabilities.argmax(-1)
    if labels.ndim == 2:
        return labels[np.arange(len(labels)), predicted] > 0
    return predicted == labels


def worst(probabilities: np.ndarray, labels: np.ndarray, count: int = 24) -> np.ndarray:
    """The rows of the wrong answers with the highest probability, at most `count`."""
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(~is_right(probabilities, labels))
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]


def plot_mistakes(
    wrong: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    read: Callable,
) -> Figure:
    """Wrong answers, with both names and a number.

    Args:
        wrong: (M,) their rows.
        probabilities: (N, K)
        labels: (N,), or (N, K) zeros and ones.
        names: of the K classes.
        read: the images (M, H, W, C) of M of the N examples.
    """
    predicted = probabilities.argmax(-1)
    columns = min(8, len(wrong))
    lines = -(-len(wrong) // columns)
    fig, axes = subplots(lines, columns, 1.5 * columns, 1.85 * lines)
    for ax in axes.flat[len(wrong) :]:
        ax.axis("off")
    for number, (ax, i, image) in enumerate(zip(axes.flat, wrong, read(wrong)), start=1):
        show(ax, image)
        name, truth = names[predicted[i]], in_words(labels[i], names)
        title = f"{number}: {name} ({probabilities[i, predicted[i]]:.0%})\ntrue {truth}"
        ax.set_title(title, fontsize=9)
    return fig


def first_kernel(params: Any) -> np.ndarray | None:
    """The first kernel (kh, kw, C, D) above 1x1 of 1 or 3 channels; None if there is none."""
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


def plot_filters(kernel: np.ndarray) -> Figure:
    """The filters of a kernel (kh, kw, C, D), each on its own scale; grey is zero."""
    count = min(kernel.shape[-1], 96)
    columns = min(16, count)
    lines = -(-count // columns)
    fig, axes = subplots(lines, columns, 0.75 * columns, 0.8 * lines)
    for ax in axes.flat[count:]:
        ax.axis("off")
    for ax, i in zip(axes.flat, range(count)):
        filter_ = kernel[..., i]
        show(ax, 0.5 + 0.5 * filter_ / max(np.abs(filter_).max(), 1e-9))
    return fig


def images_in_rows(rows: list[list[tuple[np.ndarray, str]]], size: float = 1.5) -> Figure:
    """Images with titles, in rows of equal length; where a title is empty nothing is shown."""
    lines, columns = len(rows), len(rows[0])
    fig, axes = subplots(lines, columns, size * columns, (size + 0.3) * lines)
    for line, row in zip(axes, rows):
        for ax, (image, title) in zip(line, row):
            if not title:
                ax.axis("off")
                continue
            show(ax, image)
            ax.set_title(title, fontsize=8)
    return fig


def plot_attention(
    classifier: Classifier,
    images: np.ndarray,
    probabilities: np.ndarray,
    names: tuple[str, ...],
    truth: list[str],
) -> Figure:
    """Images with Grad-CAM and occlusion, both for the class that the network answers.

    Args:
        classifier: the network.
        images: (N, H, W, C) uint8.
        probabilities: (N, K)
        names: of the K classes.
        truth: the class of each image.
    """
    x, answers = classifier.preprocess(images), probabilities.argmax(-1)
    heat = explain.grad_cam(classifier.model, classifier.variables, x, answers)
    side = min(images.shape[1:3])
    patch = max(1, side // 5)
    falls = explain.occlusion(
        classifier.model,
        classifier.variables,
        x,
        answers,
        size=patch,
        stride=max(1, (side - patch) // 9),
        fill=float(np.mean(np.asarray(x))),
        probabilities=classifier.probabilities,
    )
    return images_in_rows(
        [
            [
                (image, f"{names[answer]} ({own[answer]:.0%})\ntrue {true}")
                for image, answer, own, true in zip(images, answers, probabilities, truth)
            ],
            [
                (explain.overlay(image, one), "Grad-CAM" + (": flat" if flat(one) else ""))
                for image, one in zip(images, heat)
            ],
            [occluded(image, fall) for image, fall in zip(images, falls)],
        ]
    )


def occluded(image: np.ndarray, fall: np.ndarray) -> tuple[np.ndarray, str]:
    """An image with the falls of a probability, and the largest in words; alone if it is none."""
    largest = float(fall.max())
    if largest < 0.005:
        return image, "occlusion: no fall"
    return explain.overlay(image, fall), f"occlusion: −{largest:.0%}"


def plot_maps(maps: np.ndarray, image: np.ndarray, stage: str) -> Figure:
    """An image and the channels of its map (h, w, C) that vary most, each on its own scale."""
    chosen = np.argsort(-maps.std((0, 1)), kind="stable")[:15]
    tiles = [(image, "image")]
    for channel in chosen:
        one = maps[..., channel]
        low, span = one.min(), max(float(np.ptp(one)), 1e-9)
        tiles.append((((one - low) / span)[..., None].astype(np.float32), f"{stage} {channel}"))
    tiles += [(np.ones((1, 1, 1), np.float32), "")] * (-len(tiles) % 8)
    return images_in_rows([tiles[start : start + 8] for start in range(0, len(tiles), 8)])


def plot_fields(fields: dict[str, int], image: np.ndarray) -> Figure:
    """The receptive fields of up to seven layers, as squares on an image (H, W, C) uint8."""
    height, width = image.shape[:2]
    layer_of = {size: name for name, size in fields.items() if size > 1}
    sizes = sorted(layer_of)
    sizes = [sizes[i] for i in sorted({round(i) for i in np.linspace(0, len(sizes) - 1, 7)})]
    reach = max(height, width, *[size for size in sizes if size <= 3 * max(height, width)])
    fig, axes = subplots(1, 1, 6.5, 4.5)
    (ax,) = axes.flat
    show(ax, image)
    shades = matplotlib.colormaps["plasma"](np.linspace(0, 0.9, len(sizes)))
    for size, shade in zip(sizes, shades):
        corner = (width / 2 - size / 2 - 0.5, height / 2 - size / 2 - 0.5)
        label = f"{layer_of[size]}: {size}" + ("" if size <= reach else " (beyond the picture)")
        look = dict(fill=False, color=shade, linewidth=2, label=label)
        ax.add_patch(Rectangle(corner, size, size, **look))
    half = 0.55 * reach
    ax.set(
        xlim=(width / 2 - half, width / 2 + half),
        ylim=(height / 2 + half, height / 2 - half),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    ax.axis("off")
    return fig


def plot_neighbours(
    images: np.ndarray, features: np.ndarray, names: list[str], queries: list[int], k: int = 7
) -> Figure:
    """Images in the first column, and to the right of each the k whose features are most similar.

    Args:
        images: (N, H, W, C)
        features: (N, D)
        names: the class of each image.
        queries: which images stand in the first column.
        k: neighbours of each.
    """
    nearest = explain.neighbours(features, features[queries], k + 1)
    rows = []
    for query, found in zip(queries, nearest):
        others = [i for i in found if i != query][:k]
        rows.append([(images[query], f"{names[query]}:")] + [(images[i], names[i]) for i in others])
    return images_in_rows(rows, 1.2)


def plot_branches(contributions: list[Contribution]) -> Figure:
    """A bar for each branch, block by block: how far the answers' probability falls without it."""
    of_bars = [contribution.branch.block for contribution in contributions]
    blocks = list(dict.fromkeys(of_bars))
    numbers = [blocks.index(block) for block in of_bars]
    places = [i + 0.6 * number for i, number in enumerate(numbers)]
    labels = [f"{item.branch.block}  {item.branch.name}" for item in contributions]
    fig, axes = subplots(1, 1, 8, 0.8 + 0.17 * (places[-1] + 1))
    (ax,) = axes.flat
    falls = [contribution.fall for contribution in contributions]
    ax.barh(places, falls, color=[colour(number) for number in numbers])
    ax.set_yticks(places, labels, fontsize=7)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set(xlabel="fall of the answer's probability", ylim=(places[-1] + 1, -1))
    ax.grid(axis="x", alpha=0.3)
    return fig
