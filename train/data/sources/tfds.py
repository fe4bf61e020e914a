"""Data sets prepared by TensorFlow Datasets: ArrayRecord is read at random, TFRecord in sequence.

They are looked up in TFDS_DATA_DIR, by default ~/tensorflow_datasets, or by path: `tfds:mnist`,
`tfds:imagenet2012:5.1.0`, `tfds:/data/photos`. Nothing is downloaded or prepared here.

Both formats are here, since all but the reading is the same.
"""

import contextlib
import functools
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train import files
from train.data.sources.arrays import synonym
from train.data.split import Split, Stream
from train.errors import DataError

# Sets with some of ImageNet's classes, evaluated on these alone: Hendrycks et al. 2019 and 2020.
OF_SOME_CLASSES = ("imagenet_a", "imagenet_r")
CHECKSUMS = "checksums.json"  # of a packed set's descriptions; ArrayRecord checks its own content
SHUFFLE_BUFFER = 2048  # encoded images of a TFRecord stream


def data_dir() -> epath.Path:
    """The folder of prepared data sets."""
    return epath.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared(name: str, split: str) -> Split:
    """A split of a prepared data set. TFDS is imported only after the set has been found.

    Raises:
        DataError: the set or the split does not exist, the set is damaged, or it has no image or
            class label.
    """
    if not name:
        raise DataError("tfds: needs a name or a folder, as in tfds:mnist")
    path = find(name)
    check_files(path)
    import tensorflow_datasets

    with damage_named(path):
        builder = tensorflow_datasets.builder_from_directory(path)
    return open_split(builder, split, f"tfds:{name}")


def descriptions(path: epath.Path) -> dict[str, int]:
    """The CRC-32 of each text file of a prepared data set: its features, its class names."""
    texts = [file for file in path.iterdir() if file.suffix in (".json", ".txt")]
    return {file.name: zlib.crc32(file.read_bytes()) for file in texts if file.name != CHECKSUMS}


def seal(path: epath.Path) -> None:
    """Writes the checksums that `check_files` compares."""
    files.write(path / CHECKSUMS, json.dumps(descriptions(path)))


def check_files(path: epath.Path) -> None:
    """Raises DataError where a description is not the one that was packed. Old sets have no seal.

    ArrayRecord itself notices a flipped bit among the images.
    """
    with damage_named(path):
        if not (path / CHECKSUMS).exists():
            return
        sealed, found = json.loads((path / CHECKSUMS).read_text()), descriptions(path)
        for name in sealed:
            if found.get(name) != sealed[name]:
                raise DataError(f"{path / name} is damaged: it is not the file that was packed")


@contextlib.contextmanager
def damage_named(path: epath.PathLike) -> Iterator[None]:
    """Any error as a DataError: TFDS and ArrayRecord have no class for damaged files."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read: {reason}") from None


def find(name: str) -> epath.Path:
    """The folder of a prepared data set: of the newest version, or of the one that is named.

    Args:
        name: NAME, NAME/CONFIG, NAME:VERSION or a path.

    Raises:
        DataError: there is none, or it has several configurations.
    """
    base, _, version = name.partition(":")
    is_path = "/" in base and epath.Path(base).expanduser().is_dir()
    root = epath.Path(base).expanduser() if is_path else data_dir() / base
    versions = [path for path in versions_below(root) if version in ("", path.name)]
    families = {path.parent for path in versions}
    if len(families) == 1:
        return max(versions, key=_version_number)
    if families:
        choices = ", ".join(sorted(str(path.relative_to(root.parent)) for path in families))
        raise DataError(f"tfds:{name} has several configurations: name one of {choices}")
    if is_path:
        raise DataError(f"{base} holds no data set prepared by TFDS: no dataset_info.json")
    if "/" in base:
        raise DataError(f"{base} does not exist")
    raise DataError(
        f"tfds:{name} is not prepared in {data_dir()} (see TFDS_DATA_DIR); {_how(base)}"
    )


def _version_number(path: epath.Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in path.name.split(".")]


def _how(name: str) -> str:
    """How to get a data set that is not there: a similar name, and the command that prepares it."""
    if name == "imagenet2012":
        return "prepare it with: python -m train.data prepare imagenet2012 --tars=DIR"
    paths = data_dir().iterdir() if data_dir().is_dir() else ()
    present = sorted(path.name for path in paths if path.is_dir())
    similar = f"{nearest(name, present)}; or " if present else ""
    return f"{similar}prepare it with: tfds build {name} --file_format=array_record"


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
    """A split of a TFDS builder.

    Args:
        builder: of the data set.
        split: a name or a slice such as train[:90%].
        source: how messages call the data set.

    Raises:
        DataError: the set has no such split, or no image or class label.
    """
    from tensorflow_datasets import features as kinds

    features = dict(builder.info.features.items())

    def first(matches) -> str:
        return next((key for key, feature in features.items() if matches(feature)), "")

    image = first(lambda feature: isinstance(feature, kinds.Image))
    label = first(lambda feature: isinstance(feature, kinds.ClassLabel))
    several = first(
        lambda feature: (
            isinstance(feature, kinds.Sequence) and isinstance(feature.feature, kinds.ClassLabel)
        )
    )
    if not image or not label:
        raise DataError(f"{source} needs an image and a class label; it has {', '.join(features)}")
    name, bracket, rest = split.partition("[")
    if builder.info.splits:
        split = synonym(name, builder.info.splits, source) + bracket + rest
    kind = Records if builder.info.file_format.value == "array_record" else TFRecords
    return kind(builder, split, source, image, label, several)


class Prepared(Split):
    """What both file formats have in common.

    Args:
        builder: of the data set.
        split: of the builder.
        source: how messages call the data set.
        image, label: names of its features.
        several: name of a feature with several class labels; empty: it has none.
    """

    def __init__(
        self, builder: Any, split: str, source: str, image: str, label: str, several: str = ""
    ):
        super().__init__()
        features = builder.info.features
        self.class_names = tuple(features[label].names)
        self.image_shape = tuple(features[image].shape)
        self._builder, self._split = builder, split
        self._image, self._label, self._several = image, label, several
        self._name = f"{source}, {split}"

    # Read when they are first asked for: the base class has them as plain values.

    @functools.cached_property
    def counted(self) -> np.ndarray | None:  # type: ignore[override]
        """For sets of `OF_SOME_CLASSES`, the classes that occur in the whole split."""
        if self._builder.name not in OF_SOME_CLASSES:
            return None
        whole, bracket, _ = self._split.partition("[")
        split = open_split(self._builder, whole, "") if bracket else self
        return np.unique(split.labels)

    @functools.cached_property
    def accepted(self) -> list[np.ndarray] | None:  # type: ignore[override]
        """All labels of each image, for sets with several (ImageNet ReaL, Beyer et al. 2020)."""
        if not self._several:
            return None
        return [np.asarray(labels, np.int32) for labels in self.values(self._several)]

    def values(self, feature: str) -> Iterator[Any]:
        """One feature of every example, in order."""
        raise NotImplementedError

    def _damage_named(self) -> contextlib.AbstractContextManager[None]:
        return damage_named(self._name)

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
        decoders = {self._image: tfds.decode.SkipDecoding()}
        with self._damage_named():
            self._source = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._source)

    def values(self, feature: str) -> Iterator[Any]:
        for part in np.array_split(np.arange(len(self)), -(-len(self) // 1024)):
            yield from (record[feature] for record in self._records(part.tolist()))

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = self._records([int(i) for i in indices])
        payloads = np.empty(len(records), object)
        payloads[:] = [record[self._image] for record in records]
        return payloads, np.array([record[self._label] for record in records], np.int32)

    def _records(self, indices: list[int]) -> list[dict[str, Any]]:
        """Records by their places. DataError: the file is damaged."""
        with self._damage_named():
            return self._source.__getitems__(indices)


class TFRecords(Prepared, Stream):
    """TFRecord: read in sequence, shuffled by file and in a buffer of encoded images."""

    def __init__(self, builder: Any, split: str, source: str, *features: str):
        super().__init__(builder, split, source, *features)
        splits = builder.info.splits
        known = split in splits
        self._length = splits[split].num_examples if known else int(self._read().cardinality())

    def __len__(self) -> int:
        return self._length

    def values(self, feature: str) -> Iterator[Any]:
        with self._damage_named():
            yield from self._records().map(lambda record: record[feature]).as_numpy_iterator()

    def _read(self, shuffle_seed: int | None = None) -> Any:
        """tf.data of (image, label, name)."""
        records = self._records(shuffle_seed)
        return records.map(
            lambda record: (record[self._image], record[self._label], record["tfds_id"])
        )

    def _records(self, shuffle_seed: int | None = None) -> Any:
        """tf.data of the records with encoded images; a seed shuffles the files."""
        from train.data.tf import tf  # before TFDS, to keep TensorFlow off the accelerators

        import tensorflow_datasets as tfds  # isort: skip

        options = tf.data.Options()
        options.deterministic = True
        reading = tfds.ReadConfig(
            shuffle_seed=shuffle_seed, options=options, try_autocache=False, add_tfds_id=True
        )
        return self._builder.as_dataset(
            split=self._split,
            decoders={self._image: tfds.decode.SkipDecoding()},
            shuffle_files=shuffle_seed is not None,
            read_config=reading,
        )

    def items(self) -> Iterator[tuple[bytes, int]]:
        with self._damage_named():
            for image, label, _ in self._read().as_numpy_iterator():
                yield image, label

    def shuffled(self, seed: int, position: int) -> Iterator[tuple[bytes, int, str]]:
        """As `Stream.shuffled`; skips earlier records of the epoch without decoding them."""
        first, offset = divmod(position, len(self))
        for epoch in itertools.count(first):
            key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1)
            records = self._read(key).shuffle(
                SHUFFLE_BUFFER, seed=key, reshuffle_each_iteration=False
            )
            records = records.skip(offset if epoch == first else 0)
            with self._damage_named():
                for image, label, name in records.as_numpy_iterator():
                    yield image, label, name.decode()
