"""Data sets that TensorFlow Datasets has prepared: ArrayRecord is read at random, TFRecord from the front.

They are looked for in TFDS_DATA_DIR, ~/tensorflow_datasets by default, or at the path itself: `tfds:mnist`,
`tfds:imagenet2012:5.1.0`, `tfds:/data/photos`. Nothing is downloaded or prepared from here.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from cnnjax.registry import nearest
from train.data.sources.arrays import synonym
from train.data.split import Split, Stream
from train.errors import DataError

SHUFFLE_BUFFER = 2048  # encoded images of a TFRecord stream


def data_dir() -> epath.Path:
    return epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared(name: str, split: str) -> Split:
    """A split of a prepared data set, found without importing anything heavy; so a missing one is told at once."""
    if not name:
        raise DataError("tfds: needs a name or a folder, as in tfds:mnist")
    path = find(name)
    import tensorflow_datasets

    return open_split(tensorflow_datasets.builder_from_directory(path), split, f"tfds:{name}")


def find(name: str) -> epath.Path:
    """The folder of a prepared data set: the newest version, unless one is named."""
    base, _, version = name.partition(":")
    own_path = "/" in base and epath.Path(base).expanduser().is_dir()
    root = epath.Path(base).expanduser() if own_path else data_dir() / base
    versions = [path for path in versions_below(root) if version in ("", path.name)]
    families = {path.parent for path in versions}
    if len(families) == 1:
        return max(versions, key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split(".")])
    if families:
        choices = ", ".join(sorted(str(path.relative_to(root.parent)) for path in families))
        raise DataError(f"tfds:{name} has several configurations: name one of {choices}")
    if name.partition(":")[0] == "imagenet2012":
        how = "prepare it with: python -m train.data prepare imagenet2012 --tars=DIR"
    else:
        there = sorted(path.name for path in data_dir().iterdir() if path.is_dir()) if data_dir().is_dir() else []
        similar = f"{nearest(base, there)}; or " if there else ""
        how = f"{similar}prepare it with: tfds build {base} --file_format=array_record"
    raise DataError(f"tfds:{name} is not prepared in {root if own_path else data_dir()} (see TFDS_DATA_DIR); {how}")


def versions_below(root: epath.Path, depth: int = 3) -> Iterator[epath.Path]:
    """Folders that hold a prepared data set: NAME/VERSION or NAME/CONFIG/VERSION."""
    if not root.is_dir():
        return
    if (root / "dataset_info.json").exists():
        yield root
    elif depth > 1:
        for child in root.iterdir():
            yield from versions_below(child, depth - 1)


def open_split(builder: Any, split: str, source: str) -> Split:
    """A split of a TFDS builder whose features are an image and a class label."""
    from tensorflow_datasets.core.utils.file_utils import file_adapters  # type: ignore[attr-defined]  # noqa: F401
    import tensorflow_datasets as tfds

    raise NotImplementedError
