"""One convolution, in the way that is fastest where it runs: a GPU and a TPU have their own; XLA on a CPU is helped.

Rates on two x86 cores (AVX-512, jax 0.10), float32, in 10⁹ multiplications and additions a second: forward / gradient of
the kernel / gradient of the image. A large matrix product reaches 200, in the last line, taken on another day, 100.

    what                                 plain              way          then
    5x5, 1 or 6 channels (LeNet)         5                  banded       30 times the rate, at twice the work
    1x1, 256 -> 64 on 35x35               83 /  29 /  94    pointwise    186 /  90 / 189
    1x1, 2048 -> 320 on 8x8              144 /  67 / 176    pointwise    176 / 140 / 191
    3x3, 512 -> 512 on 2x2, "SAME"         1 /  95 /   1    covered      151 /  43 /  62
    5x5, 96 -> 256 on 27x27, two groups  138 /   8 /  81    by_groups    166 / 119 / 125

Of what is left XLA hands most to a library, YNNPACK, which is slower than XLA's own code (Eigen), for the gradient of the
kernel three times and more. Flags forbid it (`YNNPACK`, below); where nobody gave them, a result larger than the image does:

                                         plain, handed      forbidden              overhung
    3x3, 32 -> 32 on 149x149              46 /  28 / 169    177 /  88 / 169        157 /  79 / 159
    3x3, 80 -> 192 on 73x73               63 /  29 / 170    209 / 199 / 174        191 / 194 / 172
    3x3, 128 -> 128 on 112x112, "SAME"   222 /  41 / 223    194 / 197 / 193        182 / 155 / 182
    7x1, 192 -> 192 on 17x17, "SAME"     155 /  45 / 149    234 / 221 / 225        219 / 189 / 172
    5x5, 64 -> 192 on 27x27, "SAME"      171 / 164 / 114    240 / 212 / 209        202 / 193 / 161

On two cores with AVX2, where a large matrix product reaches 65, and PyTorch's convolution 55 / 40 / 50:

    what                                 plain              way          then
    3x3, 512 -> 512 on 28x28, "SAME"      55 /  55 /  60    by_tiles     115 / 105 / 140
    3x3, 256 -> 256 on 56x56, "SAME"      60 /  50 /  60    by_tiles     115 /  75 / 100
    3x3 at 2, 288 -> 384 on 35x35         42 /  19 /  55    by_phases     62 /  52 /  57
    3x3 at 2, 64 -> 96 on 147x147         38 /   7 /  34    by_phases     46 /  27 /  56

Tiles count as the multiplications that they save, and are timed with their memory at hand: where the system gives it anew for
each step, at 60 to 80 % of that. With fewer channels their sums and copies take what they save, and with few
tiles the kernel's own: 64 -> 64 on 224x224 runs at 0.7 of the rate, 384 -> 384 with 1x3 at 1.2, for a second to compile each.
A loop over the rows of a tile needs a quarter of the programs and of the memory, and is half as fast.

Slower than these, wherever it was tried: patches of the kernel's size copied out and multiplied at once (40 to 90 on early
layers, nine times the memory), a sum of products of shifted images, a convolution of three dimensions.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cnnjax.strided import phases, windows
from cnnjax.winograd import winograd

# XLA's flag, and what it says: all but single convolutions. XLA tells nobody which flags it was started with: this
# one is believed to come from XLA_FLAGS, set before jax starts; who gives it otherwise, as `train.cpu.tune` does, says so here.
YNNPACK, SPARED = "xla_cpu_experimental_ynn_fusion_type", "-individual_convolution"
handed_over = SPARED not in os.environ.get("XLA_FLAGS", "")


def _banded(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    """A stride-1 VALID convolution as one matrix product: blocks of a row's outputs by the kernel's banded (Toeplitz) matrix.

    A block about as wide as the kernel doubles the multiplications, and copies each row of the image twice; but it is a
    dense product, where XLA on a CPU reaches 30 times the rate of its convolution with a handful of channels.
    """
    n, h, w, c_in = x.shape
    kh, kw, _, c_out = kernel.shape
    oh, ow = h - kh + 1, w - kw + 1
    block = max(b for b in range(1, kw + 1) if ow % b == 0)
    wide = block + kw - 1  # inputs of a block
    # Rows of length wide + 1, repeated and cut into rows of length wide, move one step to the right each time.
    band = jnp.tile(jnp.pad(kernel, ((0, 0), (0, wide + 1 - kw), (0, 0), (0, 0))), (1, block, 1, 1))
    band = band[:, : block * wide].reshape(kh, block, wide, c_in, c_out).transpose(0, 2, 3, 1, 4)
    blocks = jnp.stack([x[:, :, i : i + wide] for i in range(0, ow, block)], axis=2).reshape(n, h, -1, wide * c_in)
    rows = jnp.concatenate(windows(blocks, kh, 1, axis=1), axis=-1)
    out = jnp.dot(rows.reshape(-1, kh * wide * c_in), band.reshape(-1, block * c_out), precision=precision)
    return out.reshape(n, oh, ow, c_out)


def _covered(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, precision: Any) -> jax.Array:
    """Any convolution as a dense layer from all pixels to all pixels, with what of the kernel lies between each two of them.

    A map with fewer pixels than the kernel makes that less work than sliding, which would mostly see padding.
    """
    n, *size, c_in = x.shape
    kh, kw, _, c_out = kernel.shape
    out = [(m + sum(sides) - k) // s + 1 for m, sides, k, s in zip(size, padding, (kh, kw), strides)]
    before = [max(0, (o - 1) * s - low) for o, s, (low, _) in zip(out, strides, padding)]
    behind = [max(0, low + m - k) for m, (low, _), k in zip(size, padding, (kh, kw))]
    wide = jnp.pad(kernel, [*zip(before, behind), (0, 0), (0, 0)])

    def seen(axis: int, place: int, taps: jax.Array) -> jax.Array:  # by one row or column of the result
        first = before[axis] + padding[axis][0] - place * strides[axis]
        return lax.slice_in_dim(taps, first, first + size[axis], axis=axis)

    rows = [seen(0, i, wide) for i in range(out[0])]
    weights = jnp.stack([jnp.stack([seen(1, j, row) for j in range(out[1])], -2) for row in rows], -3)
    pixels = math.prod(size) * c_in
    result = jnp.dot(x.reshape(n, pixels), weights.reshape(pixels, -1), precision=precision)
    return result.reshape(n, *out, c_out)


def _folded(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """The image and the kernel with which a stride of 1 does what `stride` did: squares of pixels become channels.

    (N, H, W, C) and (kh, kw, C, C') to (N, about H / stride, about W / stride, stride² C) and a kernel with as many channels.
    """
    kh, kw, c_in, c_out = kernel.shape
    mh, mw = -(-kh // stride), -(-kw // stride)
    kernel = jnp.pad(kernel, ((0, mh * stride - kh), (0, mw * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(mh, stride, mw, stride, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
    n, height, width, _ = x.shape
    h, w = (height - kh) // stride + mh, (width - kw) // stride + mw
    edges = (0, 0, 0), (0, h * stride - height, 0), (0, w * stride - width, 0), (0, 0, 0)  # one may be negative
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    x = x.reshape(n, h, stride, w, stride, c_in).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h, w, -1), kernel.reshape(mh, mw, -1, c_out)


def _phases(x: jax.Array, kernel: jax.Array, strides: Any, conv: Callable) -> jax.Array:
    """A strided VALID convolution as a sum of plain ones: of every s-th row and column with every s-th tap."""
    (sh, sw), (kh, kw) = strides, kernel.shape[:2]
    oh, ow = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    maps = [phases(rows, sw, 2) for rows in phases(x, sh, 1)]

    def phase(i: int, j: int) -> jax.Array:
        taps = kernel[i::sh, j::sw]
        return conv(maps[i][j][:, : oh + taps.shape[0] - 1, : ow + taps.shape[1] - 1], taps)

    return functools.reduce(jnp.add, [phase(i, j) for i in range(min(sh, kh)) for j in range(min(sw, kw))])


def convolve(x, kernel, window_strides, padding, *, lhs_dilation=(1, 1), rhs_dilation=(1, 1), feature_group_count=1,
             dimension_numbers=("NHWC", "HWIO", "NHWC"), **options):  # fmt: skip
    """`lax.conv_general_dilated`, written for a CPU in the way that is fastest there.

    Images (N, H, W, C) and a kernel (kh, kw, C / groups, C') to (N, H', W', C'); arguments, and errors where they do not fit,
    are those of `lax`. On a CPU a pixel that is no finite number may spoil results a little beyond the kernel's reach,
    and rounding of a gradient may reach as far.
    `nn.Conv(conv_general_dilated=convolve)` takes it, so parameters and their names are those of a plain `nn.Conv`.
    """
    precision, groups, dense = options.get("precision"), feature_group_count, feature_group_count == 1
    options["dimension_numbers"] = dimension_numbers
    kh, kw, c_in, c_out = kernel.shape

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, window_strides, padding, lhs_dilation=lhs_dilation,
                                        rhs_dilation=rhs_dilation, feature_group_count=groups, **options)  # fmt: skip

    if {*lhs_dilation, *rhs_dilation} != {1} or 0 in x.shape:
        return plain(x, kernel)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (kh, kw), window_strides, padding)
    padded = any(map(any, padding))
    if any(size + sum(sides) < k for size, sides, k in zip(x.shape[1:3], padding, (kh, kw))):
        return plain(x, kernel)  # nothing fits: an empty result

    def pad(x):
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*sides, 0) for sides in padding), (0, 0, 0)])

    def banded(x, kernel):
        return _banded(pad(x), kernel, precision)

    def covered(x, kernel):
        return _covered(x, kernel, window_strides, padding, precision)

    def pointwise(x, kernel):
        matrix = x.reshape(-1, c_in)  # XLA finds its gradient faster than that of four dimensions
        return jnp.dot(matrix, kernel[0, 0], precision=precision).reshape(*x.shape[:3], c_out)

    def overhung(x, kernel):
        return hung_over(pad(x), kernel)

    def by_tiles(x, kernel):
        return winograd(pad(x), kernel, precision)

    def folded(x, kernel):
        return hung_over(*_folded(pad(x), kernel, window_strides[0]))

    def by_groups(x, kernel):
        pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
        return jnp.concatenate([convolve(*pair, window_strides, padding, **options) for pair in pairs], -1)

    def by_phases(x, kernel):
        return _phases(pad(x), kernel, window_strides, lambda x, k: convolve(x, k, (1, 1), "VALID", **options))

    def hung_over(x, kernel):
        """Where XLA would hand it over: with results beyond the edge of the image, only to be cut off.

        The gradient of the kernel, a convolution as well, is spared likewise: if the image comes padded. Padding within the
        convolution made that gradient fifty times slower, and a column (7x1) that hangs over in its own direction twelve times.
        """
        kh, kw, _, _ = kernel.shape
        beyond = ((0, kh), (0, 0)) if kw > 1 else ((0, 0), (0, 1))
        if not handed_over:
            beyond = (0, 0), (0, 0)
        result = lax.conv_general_dilated(x, kernel, (1, 1), beyond, feature_group_count=groups, **options)
        return result[:, : x.shape[1] - kh + 1, : x.shape[2] - kw + 1]

    # All but products were measured in float32; they pay where a map is large enough for its copies.
    single = x.dtype == jnp.float32
    pixels = math.prod(size for size in x.shape[:3] if isinstance(size, int))  # an exported batch may be of any length
    # A kernel as wide as the image is a dense layer. Narrow convolutions pay while the channels fill no vector register.
    whole = dense and not padded and kw == x.shape[2]
    if 1 < groups <= 4 and x.shape[-1] == groups * c_in and c_out % groups == 0:
        way = by_groups
    elif dense and x.shape[1] * x.shape[2] < kh * kw:
        way = covered
    elif {*window_strides} != {1}:
        few, square = c_in < 16, len({*window_strides}) == 1
        way = by_phases if not few else folded if square and x.shape[1] > 64 else plain
        way = way if dense and single else plain
    elif whole and kh == x.shape[1]:  # one plain matrix product: better than sliding on a GPU too
        return lax.platform_dependent(x, kernel, cpu=covered, cuda=covered, rocm=covered, default=plain)
    elif whole or (dense and kw > 1 and c_in * c_out <= 256 and x.shape[2] <= 36):
        way = banded
    elif dense and not padded and kh == kw == 1:
        way = pointwise
    elif dense and single and kh == kw == 3 and c_in * c_out >= 80 * (c_in + c_out) and pixels >= 512:
        way = by_tiles
    else:
        way = overhung if handed_over and single and (x.shape[1] > 8 or not padded) else plain
    if way is plain:
        return plain(x, kernel)
    # Some ways have several products; named is what they make together, for a gradient that keeps products alone.
    return checkpoint_name(lax.platform_dependent(x, kernel, cpu=way, default=plain), "convolution")
