"""Chooses the fastest way to compute a convolution. README.md has the measurements."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cnnjax.ops import ways
from cnnjax.ops.platform import by_platform, is_plain, ynnpack_takes_convolutions
from cnnjax.ops.winograd import winograd

NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    x,
    kernel,
    window_strides,
    padding,
    *,
    lhs_dilation=(1, 1),
    rhs_dilation=(1, 1),
    feature_group_count=1,
    dimension_numbers=NHWC,
    **options,
):
    """`lax.conv_general_dilated`, with the same arguments, results and errors.

    Images (N, H, W, C) and a kernel (kh, kw, C / groups, C') give (N, H', W', C'). To use it in a
    layer, write `nn.Conv(…, conv_general_dilated=convolve)`. On a CPU a pixel that is NaN or
    infinite may spoil results slightly beyond the kernel's reach; rounding errors of a gradient
    may reach as far.
    """
    precision, groups = options.get("precision"), feature_group_count
    options["dimension_numbers"] = dimension_numbers
    kh, kw, c_in, c_out = kernel.shape

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=groups,
            **options,
        )

    if is_plain() or {*lhs_dilation, *rhs_dilation} != {1} or 0 in x.shape:
        return plain(x, kernel)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (kh, kw), window_strides, padding)
    rows_and_columns = zip(x.shape[1:3], padding, (kh, kw))
    if any(size + sum(sides) < k for size, sides, k in rows_and_columns):
        return plain(x, kernel)  # nothing fits: an empty result

    def pad(x):
        edges = [(0, 0, 0), *((*sides, 0) for sides in padding), (0, 0, 0)]
        return lax.pad(x, jnp.zeros((), x.dtype), edges)

    def stride_one(x, kernel, padding=((0, 0), (0, 0))):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), padding, feature_group_count=groups, **options
        )

    def without_ynnpack(x, kernel):
        if ynnpack_takes_convolutions():
            return ways.overhung(x, kernel, stride_one)
        return stride_one(x, kernel)

    def covered(x, kernel):
        return ways.covered(x, kernel, window_strides, padding, precision)

    def by_groups(x, kernel):
        pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
        parts = [convolve(*pair, window_strides, padding, **options) for pair in pairs]
        return jnp.concatenate(parts, -1)

    def by_phases(x, kernel):
        def conv(x, kernel):
            return convolve(x, kernel, (1, 1), "VALID", **options)

        return ways.by_phases(pad(x), kernel, window_strides, conv)

    def folded(x, kernel):
        return without_ynnpack(*ways.folded(pad(x), kernel, window_strides[0]))

    def banded(x, kernel):
        return ways.banded(pad(x), kernel, precision)

    def pointwise(x, kernel):
        matrix = x.reshape(-1, c_in)  # the gradient of a matrix product is faster
        product = jnp.dot(matrix, kernel[0, 0], precision=precision)
        return product.reshape(*x.shape[:3], c_out)

    def by_tiles(x, kernel):
        return winograd(pad(x), kernel, precision)

    def overhung(x, kernel):
        return without_ynnpack(pad(x), kernel)

    # All ways except the matrix products are for float32, in which they were measured. They make
    # copies, so they pay on large maps only.
    dense, padded, single = groups == 1, any(map(any, padding)), x.dtype == jnp.float32
    # In an exported program the batch size may be symbolic.
    pixels = math.prod(size for size in x.shape[:3] if isinstance(size, int))
    # A kernel as wide as the image is a dense layer.
    whole = dense and not padded and kw == x.shape[2]
    way: Any
    if 1 < groups <= 4 and x.shape[-1] == groups * c_in and c_out % groups == 0:
        way = by_groups
    elif dense and x.shape[1] * x.shape[2] < kh * kw:
        way = covered
    elif {*window_strides} != {1}:
        if not (dense and single):
            way = plain
        elif c_in >= 16:
            way = by_phases
        else:
            way = folded if len({*window_strides}) == 1 and x.shape[1] > 64 else plain
    elif whole and kh == x.shape[1]:  # one matrix product, which is faster on a GPU too
        return by_platform(x, kernel, cpu=covered, cuda=covered, rocm=covered, default=plain)
    elif whole or (dense and kw > 1 and c_in * c_out <= 256 and x.shape[2] <= 36):
        way = banded  # too few channels to fill a vector register
    elif dense and not padded and kh == kw == 1:
        way = pointwise
    elif kh == kw == 3 and dense and single and pays_in_tiles(c_in, c_out, pixels):
        way = by_tiles
    elif ynnpack_takes_convolutions() and single and (x.shape[1] > 8 or not padded):
        way = overhung
    else:
        way = plain
    if way is plain:
        return plain(x, kernel)
    # The name is on the result, not on the several products inside, for checkpoint policies.
    return checkpoint_name(by_platform(x, kernel, cpu=way, default=plain), "convolution")


def pays_in_tiles(c_in: int, c_out: int, pixels: int) -> bool:
    """Whether a 3x3 convolution has enough channels and pixels for `winograd` to pay."""
    return c_in * c_out >= 80 * (c_in + c_out) and pixels >= 512
