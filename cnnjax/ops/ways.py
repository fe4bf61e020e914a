"""Other ways to compute a convolution of maps (N, H, W, C) with a kernel (kh, kw, C, C').

convolve.py chooses among them; README.md has their measured rates.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.strided import phases, windows


def banded(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """A matrix product of blocks of rows by the kernel's banded matrix. Stride 1, no padding.

    A block is about as wide as the kernel. This doubles the multiplications and copies each row of
    the image twice, but the product is dense. It is meant for a handful of channels.
    """
    n, h, w, c_in = x.shape
    kh, kw, _, c_out = kernel.shape
    oh, ow = h - kh + 1, w - kw + 1
    block = max(b for b in range(1, kw + 1) if ow % b == 0)
    wide = block + kw - 1  # inputs of a block
    # Repeated rows of length wide + 1, cut into rows of length wide, shift by one each time.
    padded = jnp.pad(kernel, ((0, 0), (0, wide + 1 - kw), (0, 0), (0, 0)))
    band = jnp.tile(padded, (1, block, 1, 1))[:, : block * wide]
    band = band.reshape(kh, block, wide, c_in, c_out).transpose(0, 2, 3, 1, 4)
    blocks = jnp.stack([x[:, :, i : i + wide] for i in range(0, ow, block)], axis=2)
    blocks = blocks.reshape(n, h, -1, wide * c_in)
    rows = jnp.concatenate(windows(blocks, kh, 1, axis=1), axis=-1)
    matrix = band.reshape(-1, block * c_out)
    out = jnp.dot(rows.reshape(-1, kh * wide * c_in), matrix, precision=precision)
    return out.reshape(n, oh, ow, c_out)


def covered(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, precision: Any
) -> jax.Array:
    """A dense layer from all pixels to all results. Any stride and padding.

    The weight between a pixel and a result is the tap of the kernel that connects them. It is meant
    for maps with fewer pixels than the kernel, which would mostly slide over padding.
    """
    n, *size, c_in = x.shape
    kh, kw, _, c_out = kernel.shape
    out = [
        (m + sum(sides) - k) // s + 1 for m, sides, k, s in zip(size, padding, (kh, kw), strides)
    ]
    before = [max(0, (o - 1) * s - low) for o, s, (low, _) in zip(out, strides, padding)]
    after = [max(0, low + m - k) for m, (low, _), k in zip(size, padding, (kh, kw))]
    wide = jnp.pad(kernel, [*zip(before, after), (0, 0), (0, 0)])

    def taps_of(axis: int, place: int, taps: jax.Array) -> jax.Array:
        """The taps between the input and one row or column of the result."""
        first = before[axis] + padding[axis][0] - place * strides[axis]
        return lax.slice_in_dim(taps, first, first + size[axis], axis=axis)

    rows = [taps_of(0, i, wide) for i in range(out[0])]
    weights = jnp.stack(
        [jnp.stack([taps_of(1, j, row) for j in range(out[1])], -2) for row in rows], -3
    )
    pixels = math.prod(size) * c_in
    result = jnp.dot(x.reshape(n, pixels), weights.reshape(pixels, -1), precision=precision)
    return result.reshape(n, *out, c_out)


def folded(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """An image and a kernel that at stride 1 give the result of these at `stride`. No padding.

    Squares of pixels become channels. (N, H, W, C) and (kh, kw, C, C') turn into
    (N, about H / stride, about W / stride, stride² C) and a kernel with as many channels.
    """
    kh, kw, c_in, c_out = kernel.shape
    mh, mw = -(-kh // stride), -(-kw // stride)
    kernel = jnp.pad(kernel, ((0, mh * stride - kh), (0, mw * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(mh, stride, mw, stride, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
    n, height, width, _ = x.shape
    h, w = (height - kh) // stride + mh, (width - kw) // stride + mw
    # Negative edges cut off rows and columns that no window reaches.
    edges = (0, 0, 0), (0, h * stride - height, 0), (0, w * stride - width, 0), (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    x = x.reshape(n, h, stride, w, stride, c_in).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h, w, -1), kernel.reshape(mh, mw, -1, c_out)


def by_phases(x: jax.Array, kernel: jax.Array, strides: Any, conv: Callable) -> jax.Array:
    """A strided convolution as a sum of convolutions of every s-th row and column. No padding.

    `conv(map, taps)` computes one of them, at stride 1 without padding.
    """
    (sh, sw), (kh, kw) = strides, kernel.shape[:2]
    oh, ow = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    maps = [phases(rows, sw, 2) for rows in phases(x, sh, 1)]

    def phase(i: int, j: int) -> jax.Array:
        taps = kernel[i::sh, j::sw]
        return conv(maps[i][j][:, : oh + taps.shape[0] - 1, : ow + taps.shape[1] - 1], taps)

    places = [(i, j) for i in range(min(sh, kh)) for j in range(min(sw, kw))]
    return functools.reduce(jnp.add, [phase(i, j) for i, j in places])


def overhung(x: jax.Array, kernel: jax.Array, conv: Callable) -> jax.Array:
    """A convolution with results beyond the edge, which are then cut off. Stride 1, no padding.

    XLA does not hand such a convolution, or the gradient of its kernel, to YNNPACK.
    `conv(x, kernel, padding)` computes it.
    """
    kh, kw, _, _ = kernel.shape
    # Along a column (7x1) the overhang would slow the kernel's gradient down.
    beyond = ((0, kh), (0, 0)) if kw > 1 else ((0, 0), (0, 1))
    return conv(x, kernel, beyond)[:, : x.shape[1] - kh + 1, : x.shape[2] - kw + 1]
