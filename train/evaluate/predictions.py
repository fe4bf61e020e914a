"""Each image's answer as CSV or Parquet, and the comparison of two such files."""

import csv
import io
from typing import Any

import numpy as np
from etils import epath

from train import cli, data, files
from train.data.split import in_words
from train.errors import DataError, UserError
from train.evaluate import statistics
from train.evaluate.answers import Answers


def table(answers: Answers, split: data.Split, k: int = 5) -> list[dict[str, Any]]:
    """A row for each image: file, label, and the k most probable classes with probabilities.

    With several labels an image, these are the column `labels`, as in cat|dog.
    Bytes of names that are not UTF-8 are written as escapes.
    """
    names, k = [cli.printable(name) for name in answers.classes], min(k, len(answers.classes))
    best = np.argsort(-answers.log_probabilities, axis=-1, kind="stable")[:, :k]
    rows = []
    for row, (example, label, places) in enumerate(zip(answers.examples, answers.labels, best)):
        values: dict[str, Any] = {"file": cli.printable(split.name(int(example)))}
        values["labels" if answers.multi_label else "label"] = in_words(label, names)
        for rank, place in enumerate(places, 1):
            values[f"class{rank}"] = names[place]
            values[f"probability{rank}"] = float(np.exp(answers.log_probabilities[row, place]))
        rows.append(values)
    return rows


def write_predictions(path: epath.Path, answers: Answers, split: data.Split) -> None:
    """Writes `table` as CSV or Parquet, by the end of the file's name."""
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
    """McNemar's test of two networks, by their files of `--predictions` on the same images.

    Returns:
        `examples`, both networks' `top1`, and what `statistics.mcnemar` returns.

    Raises:
        DataError: a file is not what `--predictions=csv` writes, or the images or labels differ.
    """
    a, b = _read_predictions(first), _read_predictions(second)
    different = [
        name for name in {**a, **b} if name not in a or name not in b or a[name][0] != b[name][0]
    ]
    if different:
        raise DataError(
            f"{first} and {second} have different images or labels: {', '.join(different[:3])}, "
            f"{len(different)} in all"
        )
    right = np.array([(a[name][1], b[name][1]) for name in a])
    return {
        "examples": len(right),
        "top1": right.mean(0).tolist(),
        **statistics.mcnemar(right[:, 0], right[:, 1]),
    }


def _read_predictions(path: str) -> dict[str, tuple[str, bool]]:
    """File of an image -> (label, whether the first answer is right)."""
    try:
        content = files.read(epath.Path(path).expanduser()).decode()
        return {
            row["file"]: (row["labels"], row["class1"] in row["labels"].split("|"))
            if "labels" in row
            else (row["label"], row["label"] == row["class1"])
            for row in csv.DictReader(io.StringIO(content, newline=""))
        }
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no CSV file of --predictions: {error}") from None
