"""Every n-th row or column of a map, with a gradient that is fast on a CPU too.

The gradient of a strided slice, or of overlapping slices, is a padding. XLA on a CPU computes it
cell by cell, without vector instructions. The gradient of a split is a concatenation and the
reverse, and both are plain copies.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def phases(x: jax.Array, stride: int, axis: int) -> list[jax.Array]:
    """x[i::stride] along `axis` for each i below `stride`, padded at the end to one length."""
    if stride == 1:
        return [x]
    count = -(-x.shape[axis] // stride)
    edges = [(0, count * stride - size if i == axis else 0, 0) for i, size in enumerate(x.shape)]
    blocks = lax.pad(x, jnp.zeros((), x.dtype), edges)
    blocks = blocks.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return [lax.squeeze(phase, [axis + 1]) for phase in lax.split(blocks, [1] * stride, axis + 1)]


def windows(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """The cells at place 0, 1, … of all windows along `axis`: (…, size, …) to `window` maps."""
    # The result is made of slices, which XLA reads in place; tangents and gradients of copies.
    cut = jax.custom_jvp(partial(_sliced, window=window, stride=stride, axis=axis))

    @cut.defjvp
    def derivative(primals, tangents):
        (x,), (dx,) = primals, tangents
        return cut(x), _copied(dx, window, stride, axis)

    return cut(x)


def _sliced(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        return [lax.slice_in_dim(x, 0, 0, axis=axis)] * window
    return [
        lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(window)
    ]


def _copied(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """The result of `windows`, made by copies of the map."""
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        return _sliced(x, window, stride, axis)
    maps = []
    for first, phase in enumerate(phases(x, stride, axis)[:window]):
        shifts = range(len(range(first, window, stride)))  # where this phase's slices begin
        edges = sorted({0, phase.shape[axis], *shifts, *(count + shift for shift in shifts)})
        pieces = lax.split(phase, [stop - start for start, stop in itertools.pairwise(edges)], axis)
        inside = [
            [piece for piece, start in zip(pieces, edges) if shift <= start < count + shift]
            for shift in shifts
        ]
        maps.append([lax.concatenate(part, axis) for part in inside])
    return [maps[i % stride][i // stride] for i in range(window)]
