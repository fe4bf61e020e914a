"""Data sets that TensorFlow Datasets has prepared: ArrayRecord is read at random, TFRecord from the front.

They are looked for in TFDS_DATA_DIR, ~/tensorflow_datasets by default, or at the path itself: `tfds:mnist`,
`tfds:imagenet2012:5.1.0`, `tfds:/data/photos`. Nothing is downloaded or prepared from here.
"""

import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train.data.sources.arrays import synonym
from train.data.split import Split, Stream
from train.errors import DataError

# ImageNet's thousand classes, images of some of them, and answers from those alone: Hendrycks et al. 2019 and 2020.
OF_SOME_CLASSES = ("imagenet_a", "imagenet_r")
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
        return max(
            versions,
            key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split(".")],
        )
    if families:
        choices = ", ".join(sorted(str(path.relative_to(root.parent)) for path in families))
        raise DataError(f"tfds:{name} has several configurations: name one of {choices}")
    if "/" in base:
        raise DataError(
            f"{base} holds no data set that TFDS prepared: no dataset_info.json"
            if own_path
            else f"{base} does not exist"
        )
    if base == "imagenet2012":
        how = "prepare it with: python -m train.data prepare imagenet2012 --tars=DIR"
    else:
        there = (
            sorted(path.name for path in data_dir().iterdir() if path.is_dir())
            if data_dir().is_dir()
            else []
        )
        similar = f"{nearest(base, there)}; or " if there else ""
        how = f"{similar}prepare it with: tfds build {base} --file_format=array_record"
    raise DataError(f"tfds:{name} is not prepared in {data_dir()} (see TFDS_DATA_DIR); {how}")


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
    """A split of a TFDS builder that has one image and one class label."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image = next(
        (key for key, kind in features.items() if isinstance(kind, tfds.features.Image)), None
    )
    label = next(
        (key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)), None
    )
    if image is None or label is None:
        raise DataError(f"{source} needs an image and a class label; it has {', '.join(features)}")
    part, bracket, rest = split.partition("[")  # train[:90%]
    if builder.info.splits:
        split = synonym(part, builder.info.splits, source) + bracket + rest
    kind = Records if builder.info.file_format.value == "array_record" else TFRecords
    several = next((key for key, each in features.items() if isinstance(each, tfds.features.Sequence)
                    and isinstance(each.feature, tfds.features.ClassLabel)), "")  # fmt: skip
    return kind(builder, split, source, image, label, several)


class Prepared(Split):
    """What both kinds of files have in common: a builder, and the names of its features."""

    def __init__(
        self, builder: Any, split: str, source: str, image: str, label: str, several: str = ""
    ):
        super().__init__()
        self.class_names, self.image_shape = described(builder, image, label)
        self._builder, self._split, self._image, self._label, self._several = (
            builder,
            split,
            image,
            label,
            several,
        )
        self._name = f"{source}, {split}"

    @functools.cached_property
    def counted(self) -> np.ndarray | None:  # type: ignore[override]
        """Of sets that have images of some of their classes: those. A part of the split has the classes of the whole."""
        if self._builder.name not in OF_SOME_CLASSES:
            return None
        whole, bracket, _ = self._split.partition("[")
        split = open_split(self._builder, whole, "") if bracket else self
        return np.unique(split.labels)

    @functools.cached_property
    def accepted(self) -> list[np.ndarray] | None:  # type: ignore[override]
        """Of sets with several labels for an image (ImageNet ReaL, Beyer et al. 2020): all of them."""
        if not self._several:
            return None
        return [np.asarray(labels, np.int32) for labels in self.values(self._several)]

    def values(self, feature: str) -> Iterator[Any]:
        """One feature of every example, in their order."""
        raise NotImplementedError

    @property
    def labels(self) -> np.ndarray:
        return np.array([*self.values(self._label)], np.int32)

    def name(self, index: int | str) -> str:
        return f"example {index} of {self._name}"


class Records(Prepared):
    """ArrayRecord: any example in constant time."""

    def __init__(self, builder: Any, split: str, source: str, *features: str):
        import tensorflow_datasets as tfds

        super().__init__(builder, split, source, *features)
        try:
            self._source = builder.as_data_source(
                split, decoders={self._image: tfds.decode.SkipDecoding()}
            )
        except ValueError as error:
            raise DataError(f"{source}, split {split!r}: {error}") from None

    def __len__(self) -> int:
        return len(self._source)

    def values(self, feature: str) -> Iterator[Any]:
        for part in np.array_split(np.arange(len(self)), -(-len(self) // 1024)):
            yield from (record[feature] for record in self._source.__getitems__(part.tolist()))

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = self._source.__getitems__([int(i) for i in indices])
        payloads = np.empty(len(records), object)
        payloads[:] = [record[self._image] for record in records]
        return payloads, np.array([record[self._label] for record in records], np.int32)


class TFRecords(Prepared, Stream):
    """TFRecord: read from the front, shuffled by file and in a buffer of encoded images."""

    def __init__(self, builder: Any, split: str, source: str, *features: str):
        super().__init__(builder, split, source, *features)
        known = split in builder.info.splits
        self._length = (
            builder.info.splits[split].num_examples if known else int(self._read().cardinality())
        )

    def __len__(self) -> int:
        return self._length

    def values(self, feature: str) -> Iterator[Any]:
        return self._records().map(lambda record: record[feature]).as_numpy_iterator()

    def _read(self, shuffle_seed: int | None = None) -> Any:
        """tf.data of (image, label, name)."""
        records = self._records(shuffle_seed)
        return records.map(
            lambda record: (record[self._image], record[self._label], record["tfds_id"])
        )

    def _records(self, shuffle_seed: int | None = None) -> Any:
        """tf.data of the records, images still encoded; with a seed, the files come in an order that it tells."""
        from train.data.tf import tf  # first, for it keeps TensorFlow off the accelerators

        import tensorflow_datasets as tfds  # isort: skip

        options = tf.data.Options()
        options.deterministic = True
        return self._builder.as_dataset(
            split=self._split,
            decoders={self._image: tfds.decode.SkipDecoding()},
            shuffle_files=shuffle_seed is not None,
            read_config=tfds.ReadConfig(
                shuffle_seed=shuffle_seed, options=options, try_autocache=False, add_tfds_id=True
            ),
        )

    def items(self) -> Iterator[tuple[bytes, int]]:
        return ((image, label) for image, label, _ in self._read().as_numpy_iterator())

    def shuffled(self, seed: int, position: int) -> Iterator[tuple[bytes, int, str]]:
        """Going forward to a position reads the records of its pass up to there, but decodes none."""
        epoch, offset = divmod(position, len(self))
        for number in itertools.count(epoch):
            key = int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
            records = self._read(key).shuffle(
                SHUFFLE_BUFFER, seed=key, reshuffle_each_iteration=False
            )
            for image, label, name in records.skip(
                offset if number == epoch else 0
            ).as_numpy_iterator():
                yield image, label, name.decode()


def described(builder: Any, image: str, label: str) -> tuple[tuple[str, ...], tuple]:
    """(class names, image shape) of a builder's features."""
    features = builder.info.features
    return tuple(features[label].names), tuple(features[image].shape)
