"""From somebody's tensors to our variables: which tensor is which leaf, and how its axes lie.

One mechanism for all sources: a leaf's path in our tree (`mixed5b/branch1x1/conv/kernel`), rewritten by an ordered list of
rules, is the name of the tensor that fills it. The rules of each source and model are the tables in the files beside
this one.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Rule = tuple[str, str | Callable[[re.Match], str]]
Tensors = dict[str, np.ndarray]

# How frameworks name what a module holds: the last rules of every list.
TORCH: tuple[Rule, ...] = (
    ("/(kernel|scale)$", "/weight"),
    ("/(mean|var)$", r"/running_\1"),
    ("/", "."),
)
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


def chain(ours: str, theirs: str, *ends: str) -> tuple[Rule, ...]:
    """Rules for a sequence of layers: ours are numbered from 1, theirs end in `ends`."""
    return tuple((f"{ours}{number}/", f"{theirs}{end}/") for number, end in enumerate(ends, 1))


class WeightsError(ValueError):
    """A file that does not hold what it is said to hold. The message is one sentence for the user."""


class WeightsWarning(UserWarning):
    """Something about a file that the user should know, and that does not stop the import."""


class Map(NamedTuple):
    """How one source's file of one of our models corresponds to it."""

    rules: tuple[Rule, ...]
    classifier: str  # the tensor that has one value for each class
    options: dict[str, Any] = {}  # of our model, which these weights need
    aux: str | None = (
        None  # how the names of auxiliary heads begin; None where our model has no option for them
    )
    top: tuple[str, ...] = ("head",)  # our modules that files without a classifier lack
    flattened: dict[
        str, tuple[int, int, int]
    ] = {}  # dense layers that read a map flattened as channels, rows, columns
    background: bool = False  # 1001 classes mean a class 0 that is none of ImageNet's
    ignored: str = "$^"  # tensors that have no place in our model


class Source(NamedTuple):
    """One publisher: what files it has, and a map for each of our models that it publishes weights of."""

    formats: tuple[str, ...]
    maps: dict[str, Map]
    axes: Callable[
        [np.ndarray, tuple[int, ...]], np.ndarray
    ]  # to our order of axes, given our shape
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: str = "$^"  # bookkeeping: never part of a model


def rename(path: str, rules: tuple[Rule, ...]) -> str:
    """Applies every rule in turn, each to what the one before has made."""
    for pattern, new in rules:
        path = re.sub(pattern, new, path)
    return path


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries with their paths."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `leaves`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


# ---------------------------------------------------------------------------------------------- axes


def from_torch(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """OIHW to HWIO and (out, in) to (in, out). A dense layer that is a convolution here reads channels, rows, columns."""
    if x.ndim == 2 and len(shape) == 4 and x.size == math.prod(shape):
        h, w, i, o = shape
        x = x.reshape(o, i, h, w)
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def from_tensorflow(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """TensorFlow's axes are ours."""
    return x


def fold(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution over the whole map as the dense layer that it is, or back: only the input axes are joined or split."""
    if (
        x.ndim != len(shape)
        and x.ndim > 1
        and x.size == math.prod(shape)
        and x.shape[-1] == shape[-1]
    ):
        return x.reshape(shape)
    return x


def _some(names: list[str]) -> str:
    return repr(names[0]) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def fill(
    tensors: Tensors,
    wanted: dict[str, tuple[int, ...]],
    source: Source,
    map: Map,
    drop: int,
    what: str,
) -> Tensors:
    """Our leaves, by path, each from its tensor. `wanted` are their shapes, without the collection in the path.

    `drop` classes are cut off the front of everything that has one value for each class. WeightsError names the tensor
    that is missing, left over or of another shape.
    """
    names = {path: rename(path, map.rules) for path in wanted}
    left = [name for name in tensors if not re.search(f"{source.ignored}|{map.ignored}", name)]
    missing = [name for name in names.values() if name not in tensors]
    known = set(names.values())
    extra = [name for name in left if name not in known]
    if missing and len(missing) == len(names):
        raise WeightsError(
            f"{what}: it holds none of its tensors, but {_some(left)}"
            if left
            else f"{what}: it is empty"
        )
    if missing:
        raise WeightsError(
            f"{what}: tensor {_some(missing)} is missing"
            + (f" and {_some(extra)} left over" if extra else "")
        )
    if extra:
        raise WeightsError(f"{what}: tensor {_some(extra)} has no place in it")

    classes = tensors[map.classifier].shape[0] if map.classifier in tensors else None
    flat: Tensors = {}
    for path, shape in wanted.items():
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
                f"{what}: tensor {name!r} of shape {tensors[name].shape} does not fit {path} of shape {shape}"
            )
        if not np.isfinite(x).all():
            raise WeightsError(f"{what}: tensor {name!r} holds values that are not finite")
        flat[path] = np.ascontiguousarray(x, np.float32)
    return flat
