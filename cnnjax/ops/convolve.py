"""Chooses the fastest way to compute a convolution. README.md has the measurements."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
    options["dimension_numbers"] = dimension_numbers

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **options,
        )

    if is_plain() or {*lhs_dilation, *rhs_dilation} != {1} or 0 in x.shape:
        return plain(x, kernel)
    image, window = x.shape[1:3], kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image, window, window_strides, padding)
    if any(size + sum(sides) < k for size, sides, k in zip(image, padding, window)):
        return plain(x, kernel)  # nothing fits: an empty result
    here = Convolution(window_strides, padding, feature_group_count, options)
    if here.is_dense_layer(x, kernel):  # one matrix product, which is faster on a GPU too
        product = here.covered
        return by_platform(x, kernel, cpu=product, cuda=product, rocm=product, default=plain)
    way = here.way(x, kernel)
    if way is None:
        return plain(x, kernel)
    # The name is on the result, not on the several products inside, for checkpoint policies.
    return checkpoint_name(by_platform(x, kernel, cpu=way, default=plain), "convolution")


def convolve_together(x, kernels, names):
    """1x1 convolutions of one image (N, H, W, C) by several kernels (1, 1, C, C'), at stride 1.

    On a TPU one product computes all. The names label the single ones in traces and tables.
    """

    def apart(x, *kernels):
        results = []
        for kernel, name in zip(kernels, names):
            with jax.named_scope(name):
                results.append(convolve(x, kernel, (1, 1), "VALID"))
        return results

    def together(x, *kernels):
        product = lax.conv_general_dilated(
            x, jnp.concatenate(kernels, -1), (1, 1), "VALID", dimension_numbers=NHWC
        )
        ends = itertools.accumulate(kernel.shape[-1] for kernel in kernels[:-1])
        return jnp.split(product, list(ends), -1)

    results = by_platform(x, *kernels, tpu=together, default=apart)
    return [checkpoint_name(result, "convolution") for result in results]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution without dilation, and the ways to compute it: each (x, kernel) -> result."""

    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]  # of rows and columns
    groups: int
    options: dict[str, Any]

    def is_dense_layer(self, x, kernel) -> bool:
        """Whether the kernel covers the whole image, once."""
        once = self.groups == 1 and {*self.strides} == {1} and not self.padded
        return once and kernel.shape[:2] == x.shape[1:3]

    def way(self, x, kernel) -> Callable | None:
        """The fastest way on a CPU; None: as XLA does it.

        All ways except the matrix products are for float32, in which they were measured. They make
        copies, so they pay on large maps only.
        """
        kh, kw, c_in, c_out = kernel.shape
        height, width, channels = x.shape[1:]
        dense, single, strided = self.groups == 1, x.dtype == jnp.float32, {*self.strides} != {1}
        square = len({*self.strides}) == 1
        # In an exported program the batch size may be symbolic.
        pixels = math.prod(size for size in x.shape[:3] if isinstance(size, int))
        if 1 < self.groups <= 4 and channels == self.groups * c_in and c_out % self.groups == 0:
            return self.by_groups
        if dense and height * width < kh * kw:
            return self.covered
        if strided:
            if dense and single and c_in >= 16:
                return self.by_phases
            return self.folded if dense and single and square and height > 64 else None
        if dense and not self.padded and kw == width:
            return self.banded
        if dense and kw > 1 and c_in * c_out <= 256 and width <= 36:
            return self.banded  # too few channels to fill a vector register
        if dense and not self.padded and kh == kw == 1:
            return self.pointwise
        if kh == kw == 3 and dense and single and pays_in_tiles(c_in, c_out, pixels):
            return self.by_tiles
        if ynnpack_takes_convolutions() and single and (height > 8 or not self.padded):
            return self.overhung
        return None

    @property
    def padded(self) -> bool:
        return any(map(any, self.padding))

    @property
    def precision(self):
        return self.options.get("precision")

    def pad(self, x):
        edges = [(0, 0, 0), *((*sides, 0) for sides in self.padding), (0, 0, 0)]
        return lax.pad(x, jnp.zeros((), x.dtype), edges)

    def stride_one(self, x, kernel, padding=((0, 0), (0, 0))):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), padding, feature_group_count=self.groups, **self.options
        )

    def without_ynnpack(self, x, kernel):
        if ynnpack_takes_convolutions():
            return ways.overhung(x, kernel, self.stride_one)
        return self.stride_one(x, kernel)

    def by_groups(self, x, kernel):
        pairs = zip(jnp.split(x, self.groups, -1), jnp.split(kernel, self.groups, -1))
        parts = [convolve(*pair, self.strides, self.padding, **self.options) for pair in pairs]
        return jnp.concatenate(parts, -1)

    def covered(self, x, kernel):
        return ways.covered(x, kernel, self.strides, self.padding, self.precision)

    def by_phases(self, x, kernel):
        def conv(x, kernel):
            return convolve(x, kernel, (1, 1), "VALID", **self.options)

        return ways.by_phases(self.pad(x), kernel, self.strides, conv)

    def folded(self, x, kernel):
        return self.without_ynnpack(*ways.folded(self.pad(x), kernel, self.strides[0]))

    def banded(self, x, kernel):
        return ways.banded(self.pad(x), kernel, self.precision)

    def pointwise(self, x, kernel):
        matrix = x.reshape(-1, x.shape[-1])  # the gradient of a matrix product is faster
        product = jnp.dot(matrix, kernel[0, 0], precision=self.precision)
        return product.reshape(*x.shape[:3], kernel.shape[-1])

    def by_tiles(self, x, kernel):
        return winograd(self.pad(x), kernel, self.precision)

    def overhung(self, x, kernel):
        return self.without_ynnpack(self.pad(x), kernel)


def pays_in_tiles(c_in: int, c_out: int, pixels: int) -> bool:
    """Whether a 3x3 convolution has enough channels and pixels for `winograd` to pay."""
    return c_in * c_out >= 80 * (c_in + c_out) and pixels >= 512
