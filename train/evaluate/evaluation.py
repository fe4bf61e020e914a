"""One evaluation: the answers of networks to a split, every number of them, and the files.

One file, because one command, a watch and a comparison write the same result.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from cnnjax.spelling import choice
from train import cli, data, files
from train.classifier import Classifier, from_run, match_classes
from train.data.counts import majority
from train.errors import CheckpointError, DataError, UserError, json_line
from train.evaluate import protocols, statistics
from train.evaluate.answers import Answers, as_counted, ask, combine, select_classes
from train.evaluate.predictions import write_predictions
from train.progress import accuracy, against_majority, waiting
from train.run import Run

LONG = ("reliability", "classes", "confusion", "mistakes")  # in the file, not in the JSON line


def answer(
    classifiers: Sequence[Classifier],
    split: data.Split,
    protocol: str = "center",
    *,
    scales: tuple[int, ...] = (),
    average: str = "probabilities",
    subset: bool = False,
    batch: int = 0,
    devices: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Answers:
    """The mean answer of one or several networks to a split, over the classes that count.

    The arguments are those of `evaluate_all`; `progress` is called with the number of examples
    that a network has begun to answer.
    """
    chosen, answers = protocols.find(protocol), []
    for classifier in classifiers:
        columns = match_classes(split.class_names, classifier, subset=subset)
        if classifier.multi_label != split.multi_label:
            known, given = (
                "several labels" if x.multi_label else "one label" for x in (classifier, split)
            )
            raise DataError(
                f"{classifier.data.source} does not fit {classifier.label}: the network gives an "
                f"image {known}, the data {given}"
            )
        height, width, _ = classifier.image_shape
        # This raises unless the channels fit.
        data.image_shape(split, dataclasses.replace(classifier.data, size=height))
        if height != width and chosen.crop:
            raise UserError(
                f"--protocol={protocol} cuts squares, but {classifier.label} reads images of "
                f"{height}x{width}"
            )
        transform = classifier.data.transform
        crop = protocols.bind(chosen, height, scales, transform)
        if height != width and split.image_shape[:2] != (height, width):
            crop = partial(_one_crop, protocols.squeeze(height, width, transform))
        member = ask(
            sliding(classifier) if protocol == "dense" else classifier,
            split,
            crop,
            mirror=chosen.mirror,
            average=average,
            batch=batch,
            devices=devices,
            progress=progress,
        )
        answers.append(select_classes(member, columns, len(split.class_names)))
    return as_counted(combine(answers, average), split)


def _one_crop(scale: Callable, image: np.ndarray) -> list[np.ndarray]:
    return [scale(image)[None]]


def sliding(classifier: Classifier) -> Classifier:
    """The network with its classifier sliding over images of any size.

    Raises:
        UserError: it cannot, because its dense layers have a weight for each cell of the map.
    """
    if hasattr(classifier.model, "dense"):
        return classifier._replace(model=classifier.model.clone(dense=True))
    if classifier.name.startswith("inception"):  # global averages take any size
        return classifier
    raise UserError(
        f"{classifier.name} cannot slide over larger images: its dense layers have a weight for "
        "each cell of the map"
    )


def evaluate(
    workdir: str,
    step: str = "latest",
    split_name: str = "",
    protocol: str = "center",
    **options: Any,
) -> dict:
    """Evaluates one checkpoint of a run; `options` are those of `evaluate_all`."""
    return evaluate_all(*from_runs([workdir], step, split_name), protocol=protocol, **options)


def from_runs(
    workdirs: Sequence[str],
    steps: str = "latest",
    split_name: str = "",
    *,
    source: str = "",
    raw: bool = False,
    dtype: str = "",
) -> tuple[list[Classifier], data.Split, str, epath.Path]:
    """What `evaluate_all` needs to evaluate checkpoints of runs.

    Args:
        workdirs: the run folders.
        steps: checkpoints of each run: "latest", "best", numbers, with commas between them.
        split_name: the split; by default the evaluation split of the first run.
        source: the data; by default that of the first run.
        raw, dtype: as `from_run` takes them.

    Returns:
        (classifiers, split, its name, folder for the results).
    """
    runs = [Run(workdir) for workdir in workdirs]
    split = runs[0].load_split(split_name, source)
    classifiers = [
        from_run(run, step, raw=raw, dtype=dtype, source=source)
        for run in runs
        for step in steps.split(",")
    ]
    split_name = split_name or runs[0].config.data.eval_split
    return classifiers, split, split_name, results_folder(runs[0], source)


def results_folder(run: Run, source: str = "") -> epath.Path:
    """Where the results of a run are written: each source other than its own has a folder."""
    return run.folder / "eval" / re.sub(r"[^\w.-]+", "_", source)


def evaluate_all(
    classifiers: Sequence[Classifier],
    split: data.Split,
    split_name: str,
    folder: epath.Path | None,
    *,
    protocol: str = "center",
    scales: tuple[int, ...] = (),
    average: str = "probabilities",
    subset: bool = False,
    batch: int = 0,
    devices: int = 0,
    predictions: str = "",
) -> dict[str, Any]:
    """Evaluates one network, or several as an ensemble, and writes the results.

    Args:
        classifiers: the networks.
        split: the images.
        split_name: the name of the split, for the results.
        folder: where to write `<protocol>-<label>.json`; None writes nothing.
        protocol: one of `protocols.PROTOCOLS`.
        scales: lengths of the short side, for the protocols with several crops.
        average: what is averaged over crops and networks, "probabilities" or "logits".
        subset: allow data with only some of the networks' classes.
        batch: crops at once; by default the `data.eval_batch_size` of each network.
        devices: how many of the local devices; 0 for all.
        predictions: "csv" or "parquet" writes each image's answer as well.

    Returns:
        The numbers of `statistics.summarize`, what was evaluated (`step`, `split`, `protocol`,
        `views`, `average`, `networks` of an ensemble), `images_per_second`, the counts
        `unreadable` and `unlabelled` unless 0, and the paths `file` and `predictions`.

    Raises:
        DataError: images cannot be read, or the classes of the data are not the network's.
        UserError: an option is unknown, or does not fit the network.
    """
    if predictions:
        choice("--predictions", predictions, ("csv", "parquet"), UserError)
    began, first = time.perf_counter(), jax.process_index() == 0
    told = f"evaluating {len(split):,} {split_name} images, {protocol}"
    with waiting(told, quiet=not first) as progress:
        answers = answer(
            classifiers,
            split,
            protocol,
            scales=scales,
            average=average,
            subset=subset,
            batch=batch,
            devices=devices,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    label = "+".join(dict.fromkeys(classifier.label for classifier in classifiers))
    result: dict[str, Any] = {
        "step": int(label) if label.isdigit() else label,
        "split": split_name,
        "protocol": protocol,
        "views": answers.views,
        "average": average,
    }
    if len(classifiers) > 1:
        result["networks"] = [f"{member.name} {member.label}" for member in classifiers]
    result |= statistics.summarize(answers.log_probabilities, answers.labels, answers.classes)
    result["images_per_second"] = round(len(split) * len(classifiers) / seconds, 1)
    unlabelled = sum(not len(labels) for labels in split.accepted or ())
    unreadable = len(split) - len(answers.examples) - unlabelled
    counts = {"unlabelled": unlabelled, "unreadable": unreadable}
    result |= {name: count for name, count in counts.items() if count}
    if folder is not None and first:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{protocol}-{label}.json"
        files.write(path, json.dumps(result, indent=1))
        result["file"] = str(path)
        if predictions:
            path = folder / f"{protocol}-{label}.{predictions}"
            write_predictions(path, answers, split)
            result["predictions"] = str(path)
    if first:
        print(sentence(result, folder, majority(split)), file=sys.stderr, flush=True)
    return result


def sentence(
    result: dict[str, Any], folder: epath.Path | None, common: tuple[str, float] | None
) -> str:
    """What a result says to people: accuracy, the weakest class, the report if there is one.

    `common` is the most frequent class and its share, if it is clearly more than an even share.
    """
    multi_label = result.get("multi_label", False)
    told = accuracy(result, result["split"], multi_label=multi_label)
    told += against_majority(result, common)
    name, mean = ("average_precision", "map") if multi_label else ("top1", "top1")
    classes = [row for row in result["classes"] if row["examples"] and row[name] is not None]
    if len(classes) > 1:
        weakest = min(classes, key=lambda row: row[name])
        if weakest[name] < result[mean]:
            told += f"\nweakest class: {cli.printable(weakest['name'])}, " + (
                f"average precision {weakest[name]:.3f}"
                if multi_label
                else f"{weakest['right']:,} of {weakest['examples']:,} right ({weakest[name]:.0%})"
            )
    report = folder and folder.parent / "report.html"
    return f"{told}\nopen {report}" if report and report.exists() else told


def watch(
    workdir: str,
    split_name: str = "",
    *,
    every: float = 20.0,
    source: str = "",
    folder: epath.Path | None = None,
    raw: bool = False,
    dtype: str = "",
    **options: Any,
) -> dict:
    """Evaluates each checkpoint of a running job as it comes, until the run's last step.

    Of the run folder only `eval/` is written. Each result but the last is printed as a line of
    JSON.

    Args:
        workdir: the run folder.
        split_name: the split; by default the evaluation split of the run.
        every: seconds between two looks at the folder.
        source: the data; by default that of the run.
        folder: for the results; by default `eval/` of the run folder.
        raw, dtype: as `from_run` takes them.
        **options: those of `evaluate_all`.

    Returns:
        The last result.

    Raises:
        CheckpointError: no checkpoint could be read.
    """
    run, done, last = Run(workdir), set(), None
    split = run.load_split(split_name, source)
    split_name = split_name or run.config.data.eval_split
    folder = folder or results_folder(run, source)
    while run.last_step not in done:
        fresh = [step for step in run.steps() if step not in done]
        for step in fresh:
            done.add(step)
            try:
                classifier = from_run(run, str(step), raw=raw, dtype=dtype, source=source)
            except CheckpointError as error:
                if step in run.steps():
                    raise
                print(f"{error}; the run has deleted it meanwhile", file=sys.stderr, flush=True)
                continue
            if last is not None:
                print(json_line(short(last)), flush=True)
            last = evaluate_all([classifier], split, split_name, folder, **options)
        if not fresh:
            time.sleep(every)
    if last is None:
        raise CheckpointError(f"{workdir} has no checkpoint that could be read")
    return last


def short(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result that fit into one line."""
    return {key: value for key, value in result.items() if key not in LONG}
