"""Every n-th row or column of a map, so written that its gradient is fast on a CPU too."""

import jax
import jax.numpy as jnp
from jax import lax


def phases(x: jax.Array, stride: int, axis: int) -> list[jax.Array]:
    """x[i::stride] along `axis` for each i below `stride`, all of one length: zeros stand behind what is shorter.

    Split from blocks, because the gradient of a split is a concatenation: a copy. That of a strided slice is padding, and XLA
    asks of each cell whether it belongs there, one by one and not by vector.
    """
    if stride == 1:
        return [x]
    count = -(-x.shape[axis] // stride)
    behind = [(0, count * stride - size if i == axis else 0, 0) for i, size in enumerate(x.shape)]
    blocks = lax.pad(x, jnp.zeros((), x.dtype), behind)
    blocks = blocks.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return [lax.squeeze(phase, [axis + 1]) for phase in lax.split(blocks, [1] * stride, axis + 1)]


def split(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """A window's first places along `axis`, its second ones, and so on: (…, size, …) to as many maps (…, size', …)."""
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        return [lax.slice_in_dim(x, 0, 0, axis=axis)] * window
    places = [divmod(i, stride) for i in range(window)]
    maps = phases(x, stride, axis)
    return [lax.slice_in_dim(maps[phase], start, start + count, axis=axis) for start, phase in places]


def strided(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """What `split` gives, without its copy of the map, for where there is no gradient."""
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        return [lax.slice_in_dim(x, 0, 0, axis=axis)] * window
    return [lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(window)]
