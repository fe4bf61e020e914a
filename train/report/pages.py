"""The report of a run: its sections in the order of the page, and what they are made of."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from train import cli, data, files, logs
from train.classifier import Classifier, from_run
from train.config import flatten, to_dict
from train.evaluate import statistics
from train.evaluate.answers import Answers
from train.evaluate.evaluation import answer
from train.progress import accuracy, waiting
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
    print(f"{accuracy(numbers, config.data.eval_split)}\nopen {path}", file=sys.stderr, flush=True)
    return {
        "report": str(path),
        "step": int(classifier.label),
        "top1": numbers["top1"],
        "examples": numbers["examples"],
    }


def headline(evaluation: Evaluation) -> dict[str, str]:
    numbers, count = evaluation.numbers, evaluation.numbers["examples"]
    low, high = numbers["top1_interval"]
    wrong = count - sum(row["right"] for row in numbers["classes"])
    return {
        "top-1 accuracy": f"{numbers['top1']:.2%}",
        "95 % interval": f"{low:.1%} – {high:.1%}",
        "mistakes": f"{wrong:,} of {count:,}",
        "step": f"{int(evaluation.classifier.label):,}",
        "classes": f"{len(numbers['classes']):,}",
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


def weakest_classes(evaluation: Evaluation) -> str:
    classes = [row for row in evaluation.numbers["classes"] if row["examples"]]
    weakest = sorted(classes, key=lambda row: row["top1"])[:20]
    rows = []
    for row in weakest:
        low, high = statistics.wilson(row["right"], row["examples"])
        numbers = [row["examples"], row["right"], f"{row['top1']:.1%}", f"{low:.0%} – {high:.0%}"]
        rows.append([row["name"], *numbers])
    return tabular(
        "Classes",
        f"The {len(rows)} with the lowest accuracy, and Wilson's interval of 95 %.",
        ["class", "examples", "right", "top-1", "interval"],
        rows,
    )


def calibration(evaluation: Evaluation) -> str:
    numbers = evaluation.numbers
    if "reliability" not in numbers:
        return ""
    text = f"Expected calibration error {numbers['ece']:.2%}."
    if "temperature" in numbers:
        text += (
            f" A temperature of {numbers['temperature']:.2f}, fitted on one half, changes that of "
            f"the other half from {numbers['ece_held_out']:.2%} to "
            f"{numbers['ece_held_out_with_temperature']:.2%}."
        )
    return section(
        "Calibration",
        text,
        figures.plot_reliability(numbers["reliability"]),
        "Accuracy against confidence, and how many examples there are of each confidence",
    )


def mistakes(evaluation: Evaluation) -> str:
    answers = evaluation.answers
    fig = figures.plot_mistakes(
        evaluation.probabilities, answers.labels, answers.classes, evaluation.read
    )
    if fig is None:
        return ""
    return section(
        "Most confident mistakes",
        "Predicted class with its probability, above the true one.",
        fig,
        "The misclassified images with the highest probabilities",
    )


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
    right = probabilities.argmax(-1) == labels
    wrong = np.flatnonzero(~right)[:4]
    return Sample(
        images,
        names=[answers.classes[label] for label in labels],
        probabilities=probabilities,
        batches=batches or [classifier.preprocess(images)],
        few=np.concatenate([wrong, np.flatnonzero(right)[: 8 - len(wrong)]]),
    )


def attention(classifier: Classifier, sample: Sample, classes: tuple[str, ...]) -> str:
    images, probabilities = sample.images[sample.few], sample.probabilities[sample.few]
    return section(
        "Where it looks",
        "Above: what the network answered. Grad-CAM: where the last map speaks for that answer. "
        "Occlusion: how far the answer's probability falls when a grey square covers the place; "
        "the number is the largest fall.",
        figures.plot_attention(classifier, images, probabilities, classes),
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
    falls = contributions(classifier.model, classifier.variables, images)
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
    rows = [[key, value] for key, value in flatten(to_dict(run.config)).items()]
    return tabular("Config", "Every option of the run.", ["option", "value"], rows)
