"""Data sources by name. Nothing downloads."""

from collections.abc import Callable

from cnnjax.spelling import nearest
from train.data.split import Split
from train.errors import DataError

SOURCES = ("mnist5k", "npz:FILE", "folder:DIR", "tfds:NAME", "synthetic:HxWxC/K")


def load(source: str, split: str) -> Split:
    """The named split of a source; DataError says what is wrong with it."""
    from train.data.sources import arrays, folder, tfds

    kind, _, rest = source.partition(":")
    readers: dict[str, Callable[[str, str], Split]] = {
        "mnist5k": arrays.mnist5k,
        "npz": arrays.npz,
        "synthetic": arrays.synthetic,
        "folder": folder.folder,
        "tfds": tfds.prepared,
    }
    if kind not in readers:
        raise DataError(f"data.source={source!r} is unknown; {nearest(source, SOURCES)}")
    return readers[kind](rest, split)
