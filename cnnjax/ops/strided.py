"""Every n-th row or column of a map, so written that its gradient is fast on a CPU too.

The gradient of a strided slice, or of slices that overlap, is padding: XLA on a CPU asks of each cell whether it belongs
there, one by one and not by vector. The gradient of a split is a concatenation, and that of a concatenation a split: copies.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


def phases(x: jax.Array, stride: int, axis: int) -> list[jax.Array]:
    """x[i::stride] along `axis` for each i below `stride`, all of one length: zeros stand behind what is shorter."""
    if stride == 1:
        return [x]
    count = -(-x.shape[axis] // stride)
    behind = [(0, count * stride - size if i == axis else 0, 0) for i, size in enumerate(x.shape)]
    blocks = lax.pad(x, jnp.zeros((), x.dtype), behind)
    blocks = blocks.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return [lax.squeeze(phase, [axis + 1]) for phase in lax.split(blocks, [1] * stride, axis + 1)]


def windows(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """A window's first places along `axis`, its second ones, and so on: (…, size, …) to as many maps (…, size', …)."""
    # Results by slices, which XLA reads in place; tangents, and with them the gradient, by copies.
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
    """What `windows` gives, by copies of the map."""
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        return _sliced(x, window, stride, axis)
    maps = []
    for first, phase in enumerate(phases(x, stride, axis)[:window]):
        shifts = range(len(range(first, window, stride)))  # of this phase, slices begin at 0, 1, …
        edges = sorted({0, phase.shape[axis], *shifts, *(count + shift for shift in shifts)})
        pieces = lax.split(phase, [stop - start for start, stop in itertools.pairwise(edges)], axis)
        inside = [
            [piece for piece, start in zip(pieces, edges) if shift <= start < count + shift]
            for shift in shifts
        ]
        maps.append([lax.concatenate(part, axis) for part in inside])
    return [maps[i % stride][i // stride] for i in range(window)]
