"""The report of a run: its sections in the order of the page, and what they are made of.

A function for each section, short ones: together they read as the page does.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from train import cli, data, files, logs
from train.classifier import Classifier, from_run
from train.config import flatten, to_dict
from train.data.counts import counts, majority
from train.data.split import in_words
from train.errors import DataError
from train.evaluate import statistics
from train.evaluate.answers import Answers
from train.evaluate.evaluation import answer
from train.progress import accuracy, against_majority, waiting
from train.report import explain, figures
from train.report.branches import contributions
from train.report.markup import page, section, tabular
from train.run import Run


class Evaluation(NamedTuple):
    """A checkpoint and its answers to the run's evaluation split."""

    run: Run
    split: data.Split
    classifier: Classifier
    answers: Answers
    numbers: dict[str, Any]  # of `statistics.summarize`

    @property
    def probabilities(self) -> np.ndarray:
        return np.exp(self.answers.log_probabilities)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images (M, H, W, C) uint8 of some of the answers."""
        return data.read(self.split, self.answers.examples[rows], self.classifier.data)


class Sample(NamedTuple):
    """Some of the examples, always the same ones, to look into the network with."""

    images: np.ndarray  # (M, H, W, C) uint8
    names: list[str]  # (M,) their classes
    probabilities: np.ndarray  # (M, K)
    batches: list[Any]  # the images as the network reads them, whole batches only
    few: np.ndarray  # eight of the M, wrong answers first


def write_report(workdir: str, step: str = "latest", images: int = 500) -> dict[str, Any]:
    """Evaluates a checkpoint on the run's evaluation split and writes `report.html`.

    Args:
        workdir: the run folder, into which the page is written.
        step: "latest", "best" or a number.
        images: how many examples to look into the network with; 0 leaves those sections out.

    Returns:
        `report`, the path of the page, `step`, `top1` and `examples`.

    Raises:
        CheckpointError: the run has no such checkpoint.
        DataError: the data cannot be read, or has other classes than the run.
        UserError: `workdir` is no run folder.
    """
    run = Run(workdir)
    split, classifier = run.load_split(), from_run(run, step)
    on_terminal = sys.stderr.isatty()
    with waiting(f"evaluating {len(split):,} {run.config.data.eval_split} images") as progress:
        answers = answer([classifier], split, progress=progress)
    answers = answers._replace(classes=tuple(map(cli.printable, answers.classes)))
    numbers = statistics.summarize(answers.log_probabilities, answers.labels, answers.classes)
    evaluation = Evaluation(run, split, classifier, answers, numbers)
    wanted: dict[str, Callable[[], str | list[str]]] = {
        "curves": lambda: training(evaluation),
        "confusions": lambda: confusion(evaluation),
        "classes": lambda: weakest_classes(evaluation),
        "calibration": lambda: calibration(evaluation),
        "mistakes": lambda: mistakes(evaluation),
        "filters": lambda: first_layer(classifier),
    }
    if images:
        sample = draw(evaluation, images)
        wanted |= {
            "where it looks": lambda: attention(classifier, sample, answers.classes),
            "feature maps": lambda: feature_maps(classifier, sample),
            "neighbours": lambda: neighbours(classifier, sample),
            "units": lambda: units(classifier, sample),
            "branches": lambda: branches(classifier, sample),
            "receptive fields": lambda: receptive_fields(classifier, sample),
        }
    wanted["options"] = lambda: options(run)
    sections: list[str] = []
    for number, (name, make) in enumerate(wanted.items(), start=1):
        with waiting(f"report, part {number} of {len(wanted)}: {name}", quiet=not on_terminal):
            made = make()
        sections += made if isinstance(made, list) else [made]

    path, config = run.folder / "report.html", run.config
    title = f"{config.model.name} on {config.data.source}"
    subtitle = (
        f"Checkpoint of step {classifier.label}, evaluated on the {config.data.eval_split} split."
    )
    files.write(path, page(title, subtitle, headline(evaluation), sections))
    told = accuracy(numbers, config.data.eval_split, multi_label=answers.multi_label)
    told += against_majority(numbers, majority(split))
    of = f"checkpoint {classifier.label}" + ("" if step == "latest" else f" ({step})")
    print(f"{of}: {told}\nopen {path}", file=sys.stderr, flush=True)
    return {
        "report": str(path),
        "step": int(classifier.label),
        "top1": numbers["top1"],
        "examples": numbers["examples"],
    }


def headline(evaluation: Evaluation) -> dict[str, str]:
    numbers, count = evaluation.numbers, evaluation.numbers["examples"]
    rest = {
        "step": f"{int(evaluation.classifier.label):,}",
        "classes": f"{len(numbers['classes']):,}",
    }
    if "multi_label" in evaluation.numbers:
        names = {"map": "mean average precision", "auc": "area under the ROC curve"}
        names |= {"f1": "F1", "precision": "precision", "recall": "recall"}
        shown = {told: f"{numbers[name]:.3f}" for name, told in names.items() if name in numbers}
        first = {"images whose most probable class is among their labels": f"{numbers['top1']:.2%}"}
        return first | shown | {"images": f"{count:,}"} | rest
    low, high = numbers["top1_interval"]
    wrong = count - sum(row["right"] for row in numbers["classes"])
    found = {row["name"]: row["top1"] for row in numbers["classes"] if row["examples"]}
    least = min(found, key=lambda name: found[name])
    told = {
        "images right (top-1)": f"{numbers['top1']:.2%}",
        "95 % sure": f"{low:.1%} – {high:.1%}",
        "mistakes": f"{wrong:,} of {count:,}",
    }
    if common := majority(evaluation.split):
        told[f"always answering {short(cli.printable(common[0]))}"] = f"{common[1]:.1%}"
    if len(found) > 1:
        told["balanced accuracy: mean of the classes"] = f"{np.mean(list(found.values())):.1%}"
        told[f"lowest recall: {short(least)}"] = f"{found[least]:.1%}"
    exact = {name: value for name, value in precisions(evaluation).items() if value is not None}
    if len(exact) > 1:
        least = min(exact, key=lambda name: exact[name])
        told[f"lowest precision: {short(least)}"] = f"{exact[least]:.1%}"
    return told | rest


def short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def precisions(evaluation: Evaluation) -> dict[str, float | None]:
    """Of the answers that are a class, the share that is right; None for a class never answered."""
    matrix, numbers = evaluation.numbers.get("confusion"), evaluation.numbers
    if matrix is None:
        return {}
    answered = np.sum(matrix, axis=0)
    return {
        row["name"]: row["right"] / count if count else None
        for row, count in zip(numbers["classes"], answered)
    }


# What the answers say. A section that has nothing to show is "".


def training(evaluation: Evaluation) -> str:
    rows = logs.read(evaluation.run.folder)
    if not rows:
        return ""
    return section(
        "Training",
        "What metrics.jsonl holds; training values are means since the row before.",
        figures.plot_curves({"": rows}),
        "Curves of loss, error and learning rate over the training steps",
    )


def confusion(evaluation: Evaluation) -> str:
    answers, numbers = evaluation.answers, evaluation.numbers
    if "multi_label" in numbers:
        return ""
    if "confusion" not in numbers:
        return tabular(
            "Confusions",
            "The most frequent mistakes on the evaluation split.",
            ["true", "predicted", "examples"],
            numbers["mistakes"],
        )
    matrix = np.array(numbers["confusion"])
    return section(
        "Confusion matrix",
        "Counts on the evaluation split; the colour shows mistakes only.",
        figures.plot_confusion(matrix, answers.classes),
        f"Confusion matrix: {matrix.trace()} of {matrix.sum()} examples on the diagonal",
    )


def several_labels(evaluation: Evaluation) -> str:
    """The classes, where an image may have several."""
    trained, rows = training_counts(evaluation.run), []
    classes = [row for row in evaluation.numbers["classes"] if row["examples"]]
    for row in sorted(classes, key=lambda row: row["average_precision"] or 0.0)[:20]:
        shares = (row[name] for name in ("recall", "precision", "average_precision"))
        rows.append(
            [
                row["name"],
                trained.get(row["name"], "–"),
                *(row[name] for name in ("examples", "answers", "right")),
                *("–" if share is None else f"{share:.1%}" for share in shares),
            ]
        )
    return tabular(
        "Classes",
        f"The {len(rows)} with the lowest average precision. A class is answered from a "
        "probability of 50 % on. Recall: of the images of the class, how many are answered so. "
        "Precision: of the images that are answered so, how many are of the class. Average "
        "precision: the mean precision, whatever the probability from which on it is answered.",
        ["class", "trained on", "evaluated on", "answered", "right", "recall", "precision", "AP"],
        rows,
    )


def weakest_classes(evaluation: Evaluation) -> str:
    if "multi_label" in evaluation.numbers:
        return several_labels(evaluation)
    classes = [row for row in evaluation.numbers["classes"] if row["examples"]]
    weakest = sorted(classes, key=lambda row: row["top1"])[:20]
    trained, exact = training_counts(evaluation.run), precisions(evaluation)
    rows = []
    for row in weakest:
        low, high = statistics.wilson(row["right"], row["examples"])
        own = exact.get(row["name"])
        numbers = [row["examples"], row["right"], f"{row['top1']:.1%}", f"{low:.0%} – {high:.0%}"]
        rows.append(
            [
                row["name"],
                trained.get(row["name"], "–"),
                *numbers,
                "–" if own is None else f"{own:.1%}",
            ]
        )
    return tabular(
        "Classes",
        f"The {len(rows)} with the lowest recall. Recall: of the images of the class, how many are "
        "answered so; we are 95 % sure that it lies in the range. Precision: of the answers that "
        "are the class, how many are right.",
        ["class", "trained on", "evaluated on", "right", "recall", "range", "precision"],
        rows,
    )


def training_counts(run: Run) -> dict[str, int]:
    """How many training images each class has, where these are still there and quickly counted."""
    try:
        of_class = counts(run.load_split(run.config.data.train_split))
    except DataError:
        of_class = None
    if of_class is None:
        return {}
    return {cli.printable(name): int(n) for name, n in zip(run.class_names, of_class)}


def calibration(evaluation: Evaluation) -> str:
    numbers = evaluation.numbers
    if "reliability" not in numbers:
        return ""
    text = (
        "Can the probabilities be believed? Of the answers given with a probability of 90 %, nine "
        "in ten should be right: the bars then end at the line. On average, probability and "
        "accuracy differ by "
        f"{numbers['ece']:.1%} (expected calibration error)."
    )
    if "temperature" in numbers:
        text += (
            f" Dividing the network's scores by {numbers['temperature']:.2f} (its temperature, "
            "fitted on one half of the images) changes that of the other half from "
            f"{numbers['ece_held_out']:.1%} to {numbers['ece_held_out_with_temperature']:.1%}."
        )
    return section(
        "Calibration",
        text,
        figures.plot_reliability(numbers["reliability"]),
        "Accuracy against confidence, and how many examples there are of each confidence",
    )


def mistakes(evaluation: Evaluation) -> str:
    answers, probabilities = evaluation.answers, evaluation.probabilities
    wrong = figures.worst(probabilities, answers.labels)
    if not len(wrong):
        return ""
    pictures = section(
        "Most confident mistakes",
        "Predicted class with its probability, above the true one. Some may be wrong labels.",
        figures.plot_mistakes(
            wrong, probabilities, answers.labels, answers.classes, evaluation.read
        ),
        "The misclassified images with the highest probabilities",
    )
    rows = [
        [number, cli.printable(evaluation.split.name(int(answers.examples[row])))]
        for number, row in enumerate(wrong, start=1)
    ]
    return pictures + tabular("Their files", "By the numbers above.", ["number", "file"], rows)


def first_layer(classifier: Classifier) -> str:
    kernel = figures.first_kernel(classifier.variables["params"])
    if kernel is None:
        return ""
    size = f"{kernel.shape[-1]} filters of {kernel.shape[0]}x{kernel.shape[1]}"
    text = f"{size}, each on its own scale; grey is zero."
    return section("First layer", text, figures.plot_filters(kernel), size)


# What the network looks at, over a sample of the examples.


def draw(evaluation: Evaluation, count: int) -> Sample:
    """A sample of examples, in batches of 100."""
    classifier, answers = evaluation.classifier, evaluation.answers
    rows = np.random.RandomState(0).permutation(len(answers.examples))[:count]
    images = evaluation.read(rows)
    starts = range(0, len(images) // 100 * 100, 100)
    batches = [classifier.preprocess(images[start : start + 100]) for start in starts]
    labels, probabilities = answers.labels[rows], evaluation.probabilities[rows]
    right = figures.is_right(probabilities, labels)
    wrong = np.flatnonzero(~right)[:4]
    return Sample(
        images,
        names=[in_words(label, answers.classes) or "–" for label in labels],
        probabilities=probabilities,
        batches=batches or [classifier.preprocess(images)],
        few=np.concatenate([wrong, np.flatnonzero(right)[: 8 - len(wrong)]]),
    )


def attention(classifier: Classifier, sample: Sample, classes: tuple[str, ...]) -> str:
    images, probabilities = sample.images[sample.few], sample.probabilities[sample.few]
    return section(
        "Where it looks",
        "Above: what the network answered, and the true class. Grad-CAM: where the last map speaks "
        "for that answer; flat: all places alike, and nothing is drawn. Occlusion: how far the "
        "answer's probability falls when a grey square covers the place; the number is the largest "
        "fall.",
        figures.plot_attention(
            classifier, images, probabilities, classes, [sample.names[i] for i in sample.few]
        ),
        "Images with heat maps of Grad-CAM and of occlusion",
    )


def feature_maps(classifier: Classifier, sample: Sample) -> list[str]:
    """The maps of an early and of a middle stage, for one image."""
    image = sample.images[sample.few[-1]]
    network = classifier.model, classifier.variables, classifier.preprocess(image[None])
    shapes = explain.stages(*network)
    names = [name for name, s in shapes.items() if len(s) == 4 and min(s[1:3]) > 1]
    sections = []
    for name in dict.fromkeys((names[0], names[len(names) // 2])):
        (maps,) = explain.feature_maps(*network, name)
        height, width, channels = maps.shape
        text = f"{channels} channels of {height}x{width}; those that vary most."
        fig = figures.plot_maps(maps, image, name)
        sections.append(
            section(f"Feature maps of {name}", text, fig, f"Feature maps of the stage {name}")
        )
    return sections


def neighbours(classifier: Classifier, sample: Sample) -> str:
    features = explain.features(classifier.model, classifier.variables, sample.batches)
    queries = list(range(min(5, len(features))))
    images = sample.images[: len(features)]
    return section(
        "Nearest neighbours",
        "By the angle between the features that the last layer reads.",
        figures.plot_neighbours(images, features, sample.names, queries),
        "Images in the first column and the most similar ones to their right, with their classes",
    )


def units(classifier: Classifier, sample: Sample) -> str:
    stages = explain.activity(classifier.model, classifier.variables, sample.batches)
    rows = [
        [name, a.units, a.dead, a.constant, f"{a.zeros:.1%}", f"{a.mean:.3g}", f"{a.std:.3g}"]
        for name, a in stages.items()
    ]
    count = sum(map(len, sample.batches))
    return tabular(
        "Units",
        f"Channels of each stage over {count} images; a dead one is never above zero.",
        ["stage", "units", "dead", "constant", "zeros", "mean", "deviation"],
        rows,
    )


def branches(classifier: Classifier, sample: Sample) -> str:
    images = sample.batches[0][:32]
    network = classifier.model, classifier.variables
    falls = contributions(*network, images, classifier.probabilities)
    if not falls:
        return ""
    largest = max(falls, key=lambda contribution: contribution.fall)
    name = f"{largest.branch.block} {largest.branch.name}"
    return section(
        "Branches",
        "How far the probability of the network's own answers falls when the output of one branch "
        f"is zero, over {len(images)} images. It falls most for {name}: by {largest.fall:.0%}, and "
        f"{largest.changed:.0%} of the answers change.",
        figures.plot_branches(falls),
        "Bars: what is lost without each branch of each block",
    )


def receptive_fields(classifier: Classifier, sample: Sample) -> str:
    fields = explain.receptive_fields(classifier.model, sample.images.shape[1:])
    return section(
        "Receptive fields",
        "What one cell in the middle of a layer's map sees of the image, in pixels.",
        figures.plot_fields(fields, sample.images[sample.few[-1]]),
        "Squares on an image: the receptive fields of some layers",
    )


def options(run: Run) -> str:
    default = flatten(to_dict(type(run.config)()))
    chosen = flatten(to_dict(run.config))
    own = [[key, value] for key, value in chosen.items() if value != default.get(key)]
    rest = [[key, value] for key, value in chosen.items() if value == default.get(key)]
    command = f"python -m train --config={run.folder}/config.json --workdir=runs/again"
    return tabular(
        "Config",
        f"Options that are not the default. The same run again: {command}",
        ["option", "value"],
        own,
    ) + tabular("Defaults", "All other options.", ["option", "value"], rest)
