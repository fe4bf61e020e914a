"""Tables of image files: a CSV with the columns path, label and, if there are splits, split.

A label is a class or, with a "|" somewhere in the column, several: cat|dog.
"""

import csv
import io
import re

import numpy as np
from etils import epath

from train import files
from train.data.sources.arrays import hold_out, synonym
from train.data.sources.folder import Files
from train.errors import DataError

PATHS = ("path", "file", "filename", "image", "image_path")
LABELS = ("label", "labels", "class", "category", "target")


def table(path: str, split: str) -> Files:
    """The examples of a split of `csv:FILE`.

    Paths are relative to the file's folder. The classes are the labels of the whole file, in
    alphabetical order, or by their value where all are whole numbers. Without a column "split" a
    fifth of each class is "test".

    If any label of the file has a "|", all of its images have several labels: cat|dog, or none in
    an empty cell.

    Raises:
        DataError: the file cannot be read, lacks a column, or has no such split.
    """
    if not path:
        raise DataError("csv: needs a file, as in csv:photos.csv")
    place = epath.Path(path).expanduser()
    try:
        text = files.read(place).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if double := {name for name in columns if name and columns.count(name) > 1}:
        raise DataError(f"{path} has the column {min(double)} twice")
    paths, labels = (column(path, columns, names) for names in (PATHS, LABELS))
    needed = [paths, labels, *(["split"] if "split" in columns else [])]
    if not rows:
        raise DataError(f"{path} has no rows")
    several = any("|" in (row[labels] or "") for row in rows)
    for number, row in enumerate(rows, start=2):
        for name in needed:
            row[name] = (row[name] or "").strip()
            if not row[name] and not (several and name == labels):
                raise DataError(f"row {number} of {path} has no {name}")
    given = [classes_of(row[labels]) if several else [row[labels]] for row in rows]
    every = [name for of_row in given for name in of_row]
    names = sorted(set(every), key=order(every))
    if not names:
        raise DataError(f"{path} names no class in its column {labels}")
    places = {name: number for number, name in enumerate(names)}
    if several:
        found = np.zeros((len(rows), len(names)), np.int32)
        for number, of_row in enumerate(given):
            found[number, [places[name] for name in of_row]] = 1
    else:
        found = np.array([places[name] for (name,) in given], np.int32)
    if "split" in columns:
        splits = list(dict.fromkeys(row["split"] for row in rows))
        wanted = synonym(split, splits, path)
        chosen = np.flatnonzero([row["split"] == wanted for row in rows])
    else:
        wanted = synonym(split, ("train", "test"), path)
        chosen = np.flatnonzero(hold_out(found, 0.2) == (wanted == "test"))
    return Files(
        str(place.parent), [rows[i][paths] for i in chosen], found[chosen], tuple(names), {}
    )


def column(path: str, columns: list[str], names: tuple[str, ...]) -> str:
    """The column of one of these names."""
    for name in names:
        if name in columns:
            return name
    raise DataError(
        f"{path} needs a column {names[0]}; its first line has {', '.join(columns) or 'none'}"
    )


def classes_of(cell: str) -> list[str]:
    """The classes in a cell of several labels."""
    return [name for part in cell.split("|") if (name := part.strip())]


def order(labels: list[str]):
    """How class names are sorted: 2 before 10 where all are whole numbers."""
    numbers = all(re.fullmatch("-?[0-9]+", label) for label in labels)
    return (lambda label: (int(label), label)) if numbers else str
