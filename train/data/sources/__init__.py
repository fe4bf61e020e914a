"""Data sources by name. Nothing is downloaded."""

import importlib.util
import os
from collections.abc import Callable

from cnnjax.spelling import choice
from train.data.split import Split
from train.errors import DataError


def load(source: str, split: str) -> Split:
    """A split of a named source.

    Args:
        source: mnist5k, npz:FILE, folder:DIR, csv:FILE, tfds:NAME, synthetic:HxWxC/K, or data of
            the user's own: package.module:name, file.py:name.
        split: name of the split, in any case; `arrays.SPLITS` lists synonyms. Validation stands for
            test, or test for validation, if the source has one of them only. Of TFDS sets and of
            sources in memory also a slice: train[:400], train[90%:].

    Raises:
        DataError: the source or the split is missing, empty, unreadable or inconsistent.

    >>> split = load("synthetic:28x28x1/10", "train")
    >>> len(split), split.image_shape, split.class_names[:2]
    (2048, (28, 28, 1), ('grating0', 'grating1'))
    """
    from train.data.sources import arrays, folder, table, tfds

    readers: dict[str, Callable[[str, str], Split]] = {
        "mnist5k": arrays.mnist5k,
        "npz": arrays.npz,
        "folder": folder.folder,
        "csv": table.table,
        "tfds": tfds.prepared,
        "synthetic": arrays.synthetic,
    }
    kind, _, argument = source.partition(":")
    if kind not in readers and not argument and os.path.isdir(source):
        raise DataError(f"data.source={source!r} is a folder: did you mean folder:{source}?")
    if kind not in readers and argument and is_module(kind):
        from train.data.sources import objects

        readers[kind] = lambda _, name: objects.named(source, name)
    reader = readers[choice("data.source", kind, readers, DataError)]
    whole, part = arrays.sliced(split) if kind != "tfds" else (split, None)
    result = reader(argument, whole)
    if part is not None:
        result = arrays.take(result, part, f"{source} {split}")
    if not len(result):
        raise DataError(f"the split {split!r} of {source} has no examples")
    return result


def is_module(place: str) -> bool:
    """Whether it is a Python file or an importable module."""
    try:
        return place.endswith(".py") or importlib.util.find_spec(place) is not None
    except (ImportError, ValueError):
        return False
