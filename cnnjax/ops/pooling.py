"""Pooling of maps (N, H, W, C). On a CPU it is made of shifted slices, whose gradient is fast."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.platform import by_platform
from cnnjax.ops.strided import windows

Padding = str | Sequence[tuple[int, int]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deferred:
    """A map, and a non-decreasing function that is still to be applied to each of its numbers.

    Such a function leaves the largest number of a window the largest, so it may come after max
    pooling. There it acts on the smaller map.

    Attributes:
        map: (N, H, W, C).
        function: of the map and the operands.
        operands: arrays, or trees of them.
    """

    map: jax.Array
    function: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})
    operands: tuple

    @property
    def value(self) -> jax.Array:
        return self.function(self.map, *self.operands)


def max_pool(
    x: jax.Array | Deferred,
    window: int,
    stride: int,
    padding: Padding = "VALID",
    *,
    name: str | None = "pool",
) -> jax.Array:
    """Square max pooling: (N, H, W, C) -> (N, H', W', C). Padding never wins.

    Args:
        x: the map. The function of a `Deferred` comes after the pooling where that is faster.
        window: side of the window.
        stride: distance between windows.
        padding: "VALID", "SAME", pairs for rows and columns, or "CEIL". "CEIL" is Caffe's rule: the
            last window may extend beyond the edge, so that no cell is left out.
        name: labels the pooling in traces and tables. None: the module around it is its label.
    """
    if isinstance(x, Deferred):
        pool = partial(max_pool, window=window, stride=stride, padding=padding, name=name)
        return _pool_deferred(x, pool)
    if padding == "CEIL":
        padding = [
            (0, -(size - window) % stride if size > window else window - size)
            for size in x.shape[1:3]
        ]

    def larger(a, b):  # the first of equal values, which alone gets the gradient
        return jnp.where((a >= b) | jnp.isnan(a), a, b)

    shape: dict[str, Any] = dict(window=window, stride=stride, padding=padding)
    with _label(name):
        return by_platform(
            x,
            cpu=partial(_by_axis, start=-jnp.inf, combine=larger, **shape),
            default=partial(_by_linen, pool=nn.max_pool, **shape),
        )


def _pool_deferred(x: Deferred, pool: Callable[[jax.Array], jax.Array]) -> jax.Array:
    function = x.function

    def in_order(x: jax.Array, *operands: Any) -> jax.Array:
        return pool(function(x, *operands))

    def pool_first(x: jax.Array, *operands: Any) -> jax.Array:
        return function(pool(x), *operands)

    return by_platform(x.map, *x.operands, cpu=in_order, default=pool_first)


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: Padding = "VALID",
    *,
    count_pad: bool = False,
    name: str | None = "pool",
) -> jax.Array:
    """Square average pooling: (N, H, W, C) -> (N, H', W', C).

    Args:
        x: the map.
        window: side of the window.
        stride: distance between windows.
        padding: "VALID", "SAME", or pairs for rows and columns.
        count_pad: divide by the whole window at the edges too. torch does so, TensorFlow does not.
        name: labels the pooling in traces and tables. None: the module around it is its label.
    """
    count_pad = count_pad or padding == "VALID"
    shape: dict[str, Any] = dict(window=window, stride=stride, padding=padding)

    def add(x):
        return _by_axis(x, start=0, combine=jnp.add, **shape)

    def by_axis(x):
        return add(x) / (window**2 if count_pad else add(jnp.ones((1, *x.shape[1:3], 1))))

    plain = partial(nn.avg_pool, count_include_pad=count_pad)
    with _label(name):
        return by_platform(x, cpu=by_axis, default=partial(_by_linen, pool=plain, **shape))


def _label(name: str | None) -> contextlib.AbstractContextManager:
    return jax.named_scope(name) if name else contextlib.nullcontext()


def _by_linen(
    x: jax.Array, *, pool: Callable, window: int, stride: int, padding: Padding
) -> jax.Array:
    return pool(x, window_shape=(window, window), strides=(stride, stride), padding=padding)


def _by_axis(
    x: jax.Array, *, window: int, stride: int, padding: Padding, start: float, combine: Callable
) -> jax.Array:
    """Pools along the rows, then down the columns.

    `combine` joins two slices, `start` fills the padding.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (window, window), (stride, stride), padding)
    edges = [(0, 0, 0), *((*sides, 0) for sides in padding), (0, 0, 0)]
    x = lax.pad(x, jnp.asarray(start, x.dtype), edges)
    for axis in (2, 1):  # in this order `larger` chooses among equal values as lax does
        x = functools.reduce(combine, windows(x, window, stride, axis))
    return x


def adaptive_avg_pool(x: jax.Array, size: int, *, name: str = "adaptive_pool") -> jax.Array:
    """Average pooling to a given size: (N, H, W, C) -> (N, size, size, C), by torch's rule.

    Cell i is the mean of the rows floor(i H / size) to ceil((i + 1) H / size). Windows overlap if
    `size` does not divide the map. A map that already has this size is returned as it is.
    """
    with jax.named_scope(name):
        for axis in (1, 2):
            if (length := x.shape[axis]) != size:
                edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
                cells = [
                    lax.slice_in_dim(x, *edge, axis=axis).mean(axis, keepdims=True)
                    for edge in edges
                ]
                x = jnp.concatenate(cells, axis=axis)
        return x


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean over the whole map, in float32: (N, H, W, C) -> (N, C)."""
    with jax.named_scope("global_pool"):
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
