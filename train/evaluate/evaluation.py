"""One evaluation: the answers of networks to a split, every number of them, and the files."""

import csv
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from train import classifier, data
from train.errors import CheckpointError, DataError, UserError
from train.evaluate import answers as inference
from train.evaluate import protocols, statistics
from train.run import Run

SHORT = ("reliability", "classes", "confusion", "mistakes")  # what the JSON line leaves to the file


def answer(
    subjects: Sequence[classifier.Classifier], split: data.Split, protocol: str = "center", *, scales: tuple[int, ...] = (),
    average: str = "probabilities", subset: bool = False, batch: int = 0, devices: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> inference.Answers:  # fmt: skip
    """The mean answer of one or several networks to a split, over those of its classes that count."""
    chosen, answers = protocols.find(protocol), []
    for each in subjects:
        columns = classifier.match_classes(split.class_names, each, subset=subset)
        height, width, _ = data.image_shape(split, each.data)
        if height != width and chosen.look:
            raise UserError(
                f"--protocol={protocol} cuts squares, but {each.label} reads images of {height}x{width}"
            )
        model = each.model
        if protocol == "dense":
            if not hasattr(model, "dense") and not each.name.startswith("inception"):
                raise UserError(
                    f"{each.name} cannot slide over larger images: its dense layers have a place for each cell"
                )
            model = model.clone(dense=True) if hasattr(model, "dense") else model
        look = protocols.bind(chosen, height, scales, each.data.transform)
        found = inference.ask(each._replace(model=model), split, look, mirror=chosen.mirror, average=average,
                              batch=batch, devices=devices, progress=progress)  # fmt: skip
        answers.append(inference.of_classes(found, columns, len(split.class_names)))
    return inference.as_counted(inference.together(answers, average), split)


def evaluate(
    workdir: str,
    step: str = "latest",
    split_name: str = "",
    protocol: str = "center",
    **options: Any,
) -> dict:
    """Evaluates one checkpoint and writes `eval/<protocol>-<step>.json`; `options` are those of `evaluate_all`."""
    return evaluate_all(*from_runs([workdir], step, split_name), protocol=protocol, **options)


def from_runs(
    workdirs: Sequence[str], steps: str = "latest", split_name: str = "", *, source: str = "", raw: bool = False,
    dtype: str = "",
) -> tuple[list[classifier.Classifier], data.Split, str, epath.Path]:  # fmt: skip
    """(subjects, split, its name, folder of the results): every named checkpoint of every run, on `source` or the first one's
    own data."""
    runs = [Run(workdir) for workdir in workdirs]
    split = runs[0].load_split(split_name, source)
    subjects = [
        classifier.from_run(run, number, raw=raw, dtype=dtype, source=source)
        for run in runs
        for number in steps.split(",")
    ]
    folder = runs[0].folder / "eval" / re.sub(r"[^\w.-]+", "_", source)  # other data, other results
    return subjects, split, split_name or runs[0].config.data.eval_split, folder


def evaluate_all(
    subjects: Sequence[classifier.Classifier], split: data.Split, split_name: str, folder: epath.Path | None, *,
    protocol: str = "center", scales: tuple[int, ...] = (), average: str = "probabilities", subset: bool = False,
    batch: int = 0, devices: int = 0, predictions: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Every number of one evaluation, written to `folder` as JSON, and each image's answer as CSV or Parquet on request."""
    if predictions not in ("", "csv", "parquet"):
        raise UserError(f"--predictions is csv or parquet, got {predictions!r}")
    began = time.perf_counter()
    answers = answer(
        subjects, split, protocol, scales=scales, average=average, subset=subset, batch=batch, devices=devices,
        progress=_progress(len(split), protocol),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    label = "+".join(dict.fromkeys(each.label for each in subjects))
    about: dict[str, Any] = {"step": int(label) if label.isdigit() else label, "split": split_name, "protocol": protocol,
                             "views": answers.views, "average": average}  # fmt: skip
    if len(subjects) > 1:
        about["networks"] = [f"{each.name} {each.label}" for each in subjects]
    result = about | statistics.summarize(
        answers.log_probabilities, answers.labels, answers.classes
    )
    result["images_per_second"] = round(len(split) * len(subjects) / seconds, 1)
    unlabelled = sum(not len(right) for right in split.accepted or ())
    missing = {
        "unlabelled": unlabelled,
        "unreadable": len(split) - len(answers.examples) - unlabelled,
    }
    result |= {name: count for name, count in missing.items() if count}
    if folder is not None and jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{protocol}-{label}.json"
        path.write_text(json.dumps(result, indent=1))
        result["file"] = str(path)
        if predictions:
            path = folder / f"{protocol}-{label}.{predictions}"
            write_predictions(path, answers, split)
            result["predictions"] = str(path)
    return result


def watch(
    workdir: str,
    split_name: str = "",
    *,
    every: float = 20.0,
    raw: bool = False,
    dtype: str = "",
    **options: Any,
) -> dict:
    """Evaluates each checkpoint of a running job as it comes, until that of the last step; nothing of the run is changed.

    Prints each result but the last as a line of JSON, and returns the last.
    """
    run, done, last = Run(workdir), set(), None
    split, evaluated_on = run.load_split(split_name), split_name or run.config.data.eval_split
    while run.last_step not in done:
        fresh = [number for number in run.steps() if number not in done]
        for number in fresh:
            done.add(number)
            try:
                seen = classifier.from_run(run, str(number), raw=raw, dtype=dtype)
            except CheckpointError as error:
                if number in run.steps():
                    raise
                print(f"{error}; it was replaced in the meantime", file=sys.stderr, flush=True)
                continue
            if last is not None:
                print(json.dumps(short(last)), flush=True)
            last = evaluate_all([seen], split, evaluated_on, run.folder / "eval", **options)
        if not fresh:
            time.sleep(every)
    if last is None:
        raise CheckpointError(f"{workdir} has no checkpoint that could be read")
    return last


def short(result: dict[str, Any]) -> dict[str, Any]:
    """What is said in one line."""
    return {key: value for key, value in result.items() if key not in SHORT}


def _progress(count: int, protocol: str) -> Callable[[int], None]:
    """A line on a terminal that says how far it is; nothing elsewhere."""
    if not sys.stderr.isatty() or jax.process_index():
        return lambda done: None
    last = [0.0]

    def show(done: int) -> None:
        if time.monotonic() - last[0] > 0.5 or done >= count:
            last[0] = time.monotonic()
            print(
                f"\r{protocol}: {min(done, count):,} of {count:,}",
                end="\n" if done >= count else "",
                file=sys.stderr,
            )

    return show


def table(answers: inference.Answers, split: data.Split, k: int = 5) -> list[dict[str, Any]]:
    """One row an image: its file, its label, and the k likeliest classes with their probabilities."""
    names, k = answers.classes, min(k, len(answers.classes))
    best = np.argsort(-answers.log_probabilities, axis=-1, kind="stable")[:, :k]
    rows = []
    for row, (example, label, places) in enumerate(zip(answers.examples, answers.labels, best)):
        values: dict[str, Any] = {"file": split.name(int(example)), "label": names[label]}
        for rank, place in enumerate(places, 1):
            values[f"class{rank}"] = names[place]
            values[f"probability{rank}"] = float(np.exp(answers.log_probabilities[row, place]))
        rows.append(values)
    return rows


def write_predictions(path: epath.Path, answers: inference.Answers, split: data.Split) -> None:
    rows = table(answers, split)
    if path.suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError(
                "--predictions=parquet needs the package pyarrow: pip install pyarrow"
            ) from None
        with path.open("wb") as file:
            parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        with path.open("w") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def compare(first: str, second: str) -> dict[str, Any]:
    """McNemar's test of two files of predictions of the same images."""
    right = []
    for path in (first, second):
        try:
            with epath.Path(path).open() as file:
                rows = list(csv.DictReader(file))
            right.append(
                {row["file"]: (row["label"], row["label"] == row["class1"]) for row in rows}
            )
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no CSV file of --predictions: {error}") from None
    a, b = right
    different = [
        name for name in {**a, **b} if name not in a or name not in b or a[name][0] != b[name][0]
    ]
    if different:
        raise DataError(f"{first} and {second} are not of the same images and labels: {', '.join(different[:3])}, "
                        f"{len(different)} in all")  # fmt: skip
    pairs = np.array([(a[name][1], b[name][1]) for name in a])
    return {
        "examples": len(pairs), "top1": pairs.mean(0).tolist(), **statistics.mcnemar(pairs[:, 0], pairs[:, 1]),
    }  # fmt: skip
