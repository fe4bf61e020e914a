"""A 3x3 convolution in which four results share their products: 16 multiplications for each channel
instead of 36.

Lavin, Gray: Fast algorithms for convolutional neural networks, 2015, section 4.1, F(2x2, 3x3),
after Winograd: Arithmetic complexity of computations, 1980. A tile of 4x4 pixels gives 2x2 results.
Small matrices transform the pixels, the kernel and the results, along the rows and down the
columns. In between are 16 matrix products, one for each place in the tile.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from cnnjax.ops.strided import windows

# y = RESULT [(KERNEL k) * (IMAGE x)]: two results y, three taps k, four pixels x.
IMAGE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))


def winograd(x: jax.Array, kernel: jax.Array, precision: Any = None) -> jax.Array:
    """The convolution at stride 1 without padding.

    (N, H, W, C) and a kernel (3, 3, C, C') give (N, H - 2, W - 2, C').
    """
    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return _even(x, kernel, precision)[:, :height, :width]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _even(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """The same for images with even sides."""
    return _products(x, kernel, precision)


@functools.partial(_even.defjvp, symbolic_zeros=True)
def _derivative(precision, primals, tangents):
    """The rule for tangents. It recomputes the tiles, which are four times as large as the image.

    The recomputation takes the axes in the other order. Otherwise XLA on a CPU would recognise the
    same computation and keep the tiles of the forward pass in memory.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    again = jax.checkpoint(
        functools.partial(_products, precision=precision, order=(2, 1)), prevent_cse=False
    )
    y = _even(x, kernel, precision)
    parts = [] if isinstance(dx, SymbolicZero) else [_even(dx, kernel, precision)]
    parts += [] if isinstance(dkernel, SymbolicZero) else [again(x, dkernel)]
    return y, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(y)


def _products(
    x: jax.Array, kernel: jax.Array, precision: Any, order: tuple[int, int] = (1, 2)
) -> jax.Array:
    tiles = _along(order, _tiles, x)
    taps = _along((0, 0), lambda k, _: _combine(KERNEL, list(k)), kernel)
    (n, h, w, c_in), c_out = tiles[0][0].shape, kernel.shape[-1]
    # The gradient of a product of matrices needs no copies.
    places = [
        [jnp.dot(t.reshape(-1, c_in), k, precision=precision) for t, k in zip(*row)]
        for row in zip(tiles, taps)
    ]
    columns = [_combine(RESULT, column) for column in zip(*places)]
    result = [_combine(RESULT, row) for row in zip(*columns)]
    square = jnp.stack(
        [jnp.stack([y.reshape(n, h, w, c_out) for y in row], 3) for row in result], 2
    )
    return square.reshape(n, 2 * h, 2 * w, c_out)


def _along(axes: tuple[int, int], transform: Callable, x: jax.Array) -> list[list[jax.Array]]:
    """`transform` splits along both axes, in this order. The result is always indexed by rows."""
    first, second = axes
    parts = [transform(part, second) for part in transform(x, first)]
    return [list(column) for column in zip(*parts)] if first > second else parts


def _tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """The transformed pixels of the tiles along an axis: (…, 2t + 2, …) to four maps (…, t, …).

    Neighbouring tiles share two pixels.
    """
    return _combine(IMAGE, windows(x, 4, 2, axis))


def _combine(matrix: Sequence[Sequence[float]], parts: Sequence[jax.Array]) -> list[jax.Array]:
    """A matrix times a vector of arrays."""
    terms = [
        [part if c == 1 else -part if c == -1 else c * part for c, part in zip(row, parts) if c]
        for row in matrix
    ]
    return [functools.reduce(jnp.add, row) for row in terms]
