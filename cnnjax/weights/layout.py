"""From a publisher's tensors to our variables: names, and the order of axes.

All sources share one mechanism. A leaf's path in our tree (`mixed5b/branch1x1/conv/kernel`),
rewritten by an ordered list of rules, is the name of the tensor that fills it. The files beside
this one hold the rules of each source and model.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Rule = tuple[str, str | Callable[[re.Match], str]]
Tensors = dict[str, np.ndarray]

# How frameworks name the tensors of a module. These rules end every list.
TORCH: tuple[Rule, ...] = (
    ("/(kernel|scale)$", "/weight"),
    ("/(mean|var)$", r"/running_\1"),
    ("/", "."),
)
COLOURS = 3
BOOKKEEPING = r"num_batches_tracked$|^n_averaged$"  # of BatchNorm, and of averaged models
KERAS: tuple[Rule, ...] = (
    ("bn/scale$", "bn/gamma"),
    ("bn/bias$", "bn/beta"),
    ("/mean$", "/moving_mean"),
    ("/var$", "/moving_variance"),
)
SLIM: tuple[Rule, ...] = (
    *KERAS,
    ("/bn/", "/BatchNorm/"),
    ("(/conv)?/kernel$", "/weights"),
    ("(/conv)?/bias$", "/biases"),
)


def chain(ours: str, published: str, *ends: str) -> tuple[Rule, ...]:
    """Rules for a sequence of layers: ours are numbered from 1, the publisher's end in `ends`."""
    return tuple((f"{ours}{number}/", f"{published}{end}/") for number, end in enumerate(ends, 1))


class WeightsError(ValueError):
    """A file does not hold what it should. The message is one sentence for the user."""


class WeightsWarning(UserWarning):
    """Something about a file that the user should know but that does not prevent its use."""


class Map(NamedTuple):
    """How a source's file corresponds to one of our models.

    Attributes:
        rules: from a leaf's path to the tensor's name.
        classifier: the name of the classifier's bias, one value for each class.
        options: fields of our model that these weights need.
        aux: prefix of the auxiliary heads' names; None if our model has no option for the heads.
        top: our modules that are missing from a file without a classifier.
        flattened: dense layers that read a map flattened as (channels, rows, columns).
        background: 1001 classes mean that class 0 is not one of ImageNet's.
        ignored: pattern of tensors that have no place in our model.
        kinds: modules that the publisher has as another kind of layer than we: "dense" for a
            convolution over the whole map, "1x1" for a dense layer, "depthwise" for a grouped
            convolution. Reading needs no telling, writing does.
    """

    rules: tuple[Rule, ...]
    classifier: str
    options: dict[str, Any] = {}
    aux: str | None = None
    top: tuple[str, ...] = ("head",)
    flattened: dict[str, tuple[int, int, int]] = {}
    background: bool = False
    ignored: str = "$^"
    kinds: dict[str, str] = {}

    def options_of(self, tensors: Tensors) -> dict[str, Any]:
        """The fields of our model that the weights of a file need."""
        if self.aux is None:
            return dict(self.options)
        return self.options | {"aux": any(name.startswith(self.aux) for name in tensors)}


class Source(NamedTuple):
    """A publisher of weights.

    Attributes:
        formats: the formats of its files: keys of `read.READERS`.
        maps: for each of our models that it publishes weights of.
        axes: brings a tensor to our order of axes, given our shape.
        prepare: changes the file's tensors before their names are looked up.
        ignored: pattern of bookkeeping tensors, which are not part of any model.
    """

    formats: tuple[str, ...]
    maps: dict[str, Map]
    axes: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: str = "$^"


def rename(path: str, rules: tuple[Rule, ...]) -> str:
    """Applies the rules one after the other, each to the result of the one before."""
    for pattern, new in rules:
        path = re.sub(pattern, new, path)
    return path


def from_torch(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """OIHW to HWIO, and (out, in) to (in, out).

    torch's dense layers read channels, rows, columns. Some of them are convolutions here.
    """
    if x.ndim == 2 and len(shape) == 4 and x.size == math.prod(shape):
        h, w, i, o = shape
        x = x.reshape(o, i, h, w)
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def from_tensorflow(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """TensorFlow's order of axes is ours."""
    return x


def fold(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turns the kernel of a convolution over the whole map into that of a dense layer, or back.

    Only input axes are joined or split. Other tensors are returned as they are.
    """
    same_values = x.size == math.prod(shape) and x.shape[-1:] == shape[-1:]
    return x.reshape(shape) if same_values and x.ndim not in (1, len(shape)) else x


def unfill(leaves: Tensors, source: Source, map: Map) -> Tensors:
    """The publisher's tensors of our leaves: the inverse of `fill`.

    Args:
        leaves: by path, without the collection (`params/`).
        source: the publisher.
        map: how its names correspond to ours.
    """
    torch = source.axes is from_torch
    tensors: Tensors = {}
    for path, x in leaves.items():
        module, _, leaf = path.rpartition("/")
        kind = map.kinds.get(module) if leaf == "kernel" else None
        if module in map.flattened and leaf == "kernel":
            c, h, w = map.flattened[module]
            x, kind = x.reshape(h, w, c, -1), "dense"
        if kind == "1x1":
            x = x[None, None]
        elif kind == "depthwise":
            x = x.reshape(*x.shape[:2], COLOURS, -1)
        if torch and x.ndim > 1:
            x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        if kind == "dense":
            x = x.reshape(len(x), -1) if torch else x.reshape(-1, x.shape[-1])
        tensors[rename(path, map.rules)] = np.ascontiguousarray(x, np.float32)
    return tensors


def _some(names: list[str]) -> str:
    """The first name, and how many more there are."""
    return repr(names[0]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def fill(
    tensors: Tensors,
    shapes: dict[str, tuple[int, ...]],
    source: Source,
    map: Map,
    drop: int,
    what: str,
) -> Tensors:
    """Fills our leaves from a file's tensors.

    Args:
        tensors: the file's tensors by name.
        shapes: the shapes of our leaves by path, without the collection (`params/`).
        source: the publisher.
        map: how its names correspond to ours.
        drop: how many classes to cut off the front of tensors with one value for each class.
        what: the beginning of error messages.

    Returns:
        Our leaves by path, float32.

    Raises:
        WeightsError: a tensor is missing, left over, of another shape or not finite.
    """
    names = {path: rename(path, map.rules) for path in shapes}
    left = [name for name in tensors if not re.search(f"{source.ignored}|{map.ignored}", name)]
    missing = [name for name in names.values() if name not in tensors]
    known = set(names.values())
    extra = [name for name in left if name not in known]
    if missing and len(missing) == len(names):
        content = f"holds none of its tensors, but {_some(left)}" if left else "is empty"
        raise WeightsError(f"{what}: it {content}")
    if missing:
        others = f" and {_some(extra)} left over" if extra else ""
        raise WeightsError(f"{what}: tensor {_some(missing)} is missing{others}")
    if extra:
        raise WeightsError(f"{what}: tensor {_some(extra)} has no place in it")

    classes = tensors[map.classifier].shape[0] if map.classifier in tensors else None
    flat: Tensors = {}
    for path, shape in shapes.items():
        name, module = names[path], path.rpartition("/")[0]
        x = tensors[name]
        if module in map.flattened and x.ndim == 2:
            c, h, w = map.flattened[module]
            if x.shape[1] == c * h * w:
                x = x.reshape(-1, c, h, w)
        x = fold(source.axes(x, shape), shape)
        if drop and x.shape[-1] == classes and x.shape[-1] == shape[-1] + drop:
            x = fold(x[..., drop:], shape)
        if x.shape != shape:
            raise WeightsError(
                f"{what}: tensor {name!r} of shape {tensors[name].shape} "
                f"does not fit {path} of shape {shape}"
            )
        if not np.isfinite(x).all():
            raise WeightsError(f"{what}: tensor {name!r} holds values that are not finite")
        flat[path] = np.ascontiguousarray(x, np.float32)
    return flat
