"""Data of the user's own: whatever has a length and gives (image, label) by index.

A torch or Hugging Face data set, a grain source, a pandas table of paths, two arrays.

One file, because most of it says in a sentence what an object of another kind lacks.
"""

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from cnnjax.images import in_mode
from train import files
from train.data.sources.arrays import check_labels, hold_out, is_table, numbers, synonym
from train.data.split import Arrays, Split
from train.errors import DataError
from train.own import load

IN_MEMORY = 2**28  # bytes of images of one size up to which they are read at the start
IMAGES = ("image", "img", "pixel_values", "images", "x", "path", "file", "filename")
LABELS = ("label", "labels", "target", "class", "y", "fine_label")
Label = int | str | tuple[int, ...]  # a class, or a zero or one for each
GREY = ("1", "L", "LA", "I", "I;16", "F")  # modes of images without colours


def named(reference: str, split: str) -> Split:
    """A split of what `data.source=package.module:name` leads to.

    That is a function of the split's name, a mapping from names to data, or data, of which a fifth
    of each class is held out as "test".

    Raises:
        DataError: it is no data, or has no such split.
    """
    found = load(reference, "data.source")
    if isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__")):
        with failure_named(f"data.source={reference}"):
            chosen, learnt = found(split), None if split == "train" else found("train")
        known = wrap(learnt, reference).class_names if learnt is not None else ()
        return wrap(chosen, reference, known)
    if isinstance(found, Mapping) and not set(found) & {*IMAGES, *LABELS}:
        name = synonym(split, list(found), reference)
        first = name == "train" or "train" not in found
        known = () if first else wrap(found["train"], reference).class_names
        return wrap(found[name], reference, known)
    parts = dict(zip(("train", "test"), halves(wrap(found, reference))))
    return parts[synonym(split, tuple(parts), reference)]


def wrap(source: Any, name: str = "the data", known: tuple[str, ...] = ()) -> Split:
    """Data as a split.

    Args:
        source: a `Split`, (images, labels) as arrays, a pandas table, or anything with `__len__`
            and `__getitem__`. An example is (image, label), or a mapping with keys such as "image"
            and "label". An image is uint8 (H, W), (H, W, 1) or (H, W, 3), a PIL image, the path or
            the bytes of a file. A label is an integer from 0, or the name of a class; for several
            labels an image, a row of zeros and ones, one for each class.
        name: for messages.
        known: the classes of the training data, for data to evaluate on; by default its own.

    Returns:
        A split. Images of one size that fit into a quarter of a GiB are read at once; others when
        they are needed.

    Raises:
        DataError: `source` is none of these.
    """
    if isinstance(source, Split):
        return source
    if isinstance(source, Mapping):
        source = part(source, IMAGES, 0, name), part(source, LABELS, 1, name)
    if isinstance(source, tuple) and len(source) == 2 and is_column(source[1]):
        images, labels = source
        if len(images) != len(labels):
            raise DataError(f"{name} has {len(images)} images and {len(labels)} labels")
        source = list(zip(images, labels))
    if hasattr(source, "iloc"):
        source = source.to_dict("records")
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        kind = type(source).__name__
        raise DataError(f"{name} is a {kind}, which has no length or gives no example by its index")
    if not len(source):
        raise DataError(f"{name} has no examples")
    first = pixels(read(source, 0, name), name)
    if isinstance(first, np.ndarray) and math.prod(first.shape) * len(source) <= IN_MEMORY:
        each = (read(source, i, name) for i in range(len(source)))
        examples = [(pixels(example, name), label(example, name)) for example in each]
        if all(isinstance(x, np.ndarray) and x.shape == first.shape for x, _ in examples):
            numbers, names = classes([y for _, y in examples], source, name, known)
            return Arrays(np.stack([x for x, _ in examples]), numbers, names)
    return Objects(source, name, known)


def halves(split: Split) -> tuple[Split, Split]:
    """Four fifths and a fifth of each class."""
    held = hold_out(split.labels, 0.2)
    if not held.any():
        raise DataError("a fifth of each class cannot be held out: each has one image")
    if isinstance(split, Arrays):
        images, labels, names = split.images, split.labels, split.class_names
        return (
            Arrays(images[~held], labels[~held], names),
            Arrays(images[held], labels[held], names),
        )
    return Part(split, np.flatnonzero(~held)), Part(split, np.flatnonzero(held))


class Objects(Split):
    """Examples that are read when they are needed; images that are no files become PNG."""

    labels_at_hand = True

    def __init__(self, source: Any, name: str, known: tuple[str, ...] = ()):
        super().__init__()
        self._source, self._name = source, name
        self._labels, self.class_names = classes(labels_of(source, name), source, name, known)
        some = [pixels(read(source, i, name), name) for i in range(min(16, len(source)))]
        shapes = {x.shape for x in some if isinstance(x, np.ndarray)}
        files = any(isinstance(x, bytes) for x in some)
        channels = 3 if files else max(shape[2] for shape in shapes)
        self.image_shape = (
            (None, None, channels) if files or len(shapes) > 1 else next(iter(shapes))
        )

    def __len__(self) -> int:
        return len(self._source)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        payloads = np.empty(len(indices), object)
        for row, index in enumerate(indices):
            payloads[row] = as_file(pixels(read(self._source, int(index), self._name), self._name))
        return payloads, self._labels[indices]


class Part(Split):
    """Some of the examples of another split."""

    labels_at_hand = True

    def __init__(self, whole: Split, places: np.ndarray):
        super().__init__()
        self._whole, self._places = whole, places
        self.class_names, self.image_shape = whole.class_names, whole.image_shape

    def __len__(self) -> int:
        return len(self._places)

    @property
    def labels(self) -> np.ndarray:
        return self._whole.labels[self._places]

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._whole.fetch(self._places[indices])


def is_column(values: Any) -> bool:
    """Whether these are labels, one or a row an example, and not an example."""
    try:
        return np.ndim(values) in (1, 2) and not isinstance(values, str | bytes)
    except ValueError:  # an image and its label
        return False


def read(source: Any, index: int, name: str) -> Any:
    """An example. DataError: the data's own code fails."""
    with failure_named(f"{name}: example {index}"):
        return source[index]


@contextlib.contextmanager
def failure_named(what: str) -> Iterator[None]:
    """Errors of the user's own code as a sentence."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what} cannot be read: {type(error).__name__}: {error}") from error


def part(example: Any, keys: Sequence[str], place: int, name: str) -> Any:
    """The image (place 0) or the label (place 1) of an example."""
    if isinstance(example, Mapping):
        found = next((key for key in keys if key in example), None)
        if found is None:
            kinds = ", ".join(map(str, example))
            raise DataError(f"{name}: an example has {kinds}, but none of {', '.join(keys)}")
        return example[found]
    if isinstance(example, tuple | list) and len(example) >= 2:
        return example[place]
    kind = type(example).__name__
    raise DataError(f"{name}: an example must be (image, label) or a mapping, got a {kind}")


def pixels(example: Any, name: str) -> np.ndarray | bytes:
    """The image of an example: uint8 (H, W, C), or the content of a file."""
    image = part(example, IMAGES, 0, name)
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return files.read(epath.Path(image).expanduser())
        except OSError as error:
            raise DataError(f"{name}: {image} cannot be read: {error.strerror or error}") from None
    if isinstance(image, Image.Image):
        image = in_mode(image, 1 if image.mode in GREY else 3)
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    shape = array.shape
    if len(shape) == 3 and shape[2] > 4 and shape[0] in (1, 3):
        raise DataError(
            f"{name}: an image of shape {shape} looks like (C, H, W), channels first; it must be "
            "(H, W, C)"
        )
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise DataError(f"{name}: an image must be (H, W), (H, W, 1) or (H, W, 3), got {shape}")
    if array.dtype != np.uint8:
        raise DataError(
            f"{name}: images must be uint8 in 0..255, got {array.dtype}; scaling and normalising "
            "are options of a run (data.mean, data.std)"
        )
    return array


def label(example: Any, name: str) -> Label:
    """The label of an example, as it is given."""
    value = part(example, LABELS, 1, name)
    if isinstance(value, str):
        return value
    number = np.asarray(value)
    if is_table((1, *number.shape)) and number.dtype.kind in "biuf" and set(number) <= {0, 1}:
        return tuple(number.astype(int).tolist())
    if number.shape or not np.issubdtype(number.dtype, np.integer):
        raise DataError(
            f"{name}: a label must be an integer or the name of a class, or a row of zeros and "
            f"ones for several labels an image, got {value!r}"
        )
    return int(number)


def labels_of(source: Any, name: str) -> list[Label]:
    """The label of every example.

    torchvision's `targets` and the columns of the hub's data sets save reading the images.
    """
    column = getattr(source, "targets", None)
    columns = getattr(source, "column_names", None)
    if isinstance(columns, list) and (known := [key for key in LABELS if key in columns]):
        column = source[known[0]]
    if column is None or len(column) != len(source):
        return [label(read(source, i, name), name) for i in range(len(source))]
    return [label((None, value), name) for value in column]


def classes(
    given: Sequence[Label], source: Any, name: str, known: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels (N,) or (N, K) int32, names of the classes).

    The names are `known` where these are given.
    """
    lengths = {len(value) if isinstance(value, tuple) else 0 for value in given}
    if len(lengths) > 1:
        raise DataError(f"{name}: rows of labels must have one length, got {sorted(lengths)}")
    texts = {value for value in given if isinstance(value, str)}
    if texts and len(texts) < len(set(given)):
        raise DataError(f"{name}: some labels are numbers, and some are names: {min(texts)!r}")
    own = tuple(sorted(texts)) or names_of(source)
    if known and own and not set(own) <= set(known):
        raise DataError(f"{name} has the class {min(set(own) - set(known))!r}, training has not")
    if texts:
        names = known or own
        places = {text: place for place, text in enumerate(names)}
        return np.array([places[str(value)] for value in given], np.int32), names
    if known and own and own != known:
        raise DataError(f"{name} has the classes {own}, training has {known}")
    names = known or own
    check_labels(name, "an example", np.array(given, np.int64), names or None)
    return np.array(given, np.int32), names or numbers(name, [np.array(given)])


def names_of(source: Any) -> tuple[str, ...]:
    """The names of the classes where data knows them, as those of torchvision and the hub do."""
    found = getattr(source, "class_names", None) or getattr(source, "classes", None)
    features: Any = getattr(source, "features", None)
    if isinstance(features, Mapping):
        for key in LABELS:
            found = found or getattr(features.get(key), "names", None)
    return tuple(map(str, found or ()))


def as_file(image: np.ndarray | bytes) -> bytes:
    """An image as the content of a file, without loss."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    mode = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(mode).save(file, "PNG", compress_level=1)
    return file.getvalue()
