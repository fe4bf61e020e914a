"""LeNet-5. LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document
recognition, 1998, section II.B.

    layer   what                                    map       lenet5_1998       lenet5
                                                              parameters        parameters
    C1      conv 5x5                                28²x6            156           156
    S2      2x2 sub-sampling                        14²x6             12             0
    C3      conv 5x5; 1998: linked by Table I       10²x16         1,516         2,416
    S4      2x2 sub-sampling                         5²x16            32             0
    C5      conv 5x5 over the whole map              1²x120       48,120        48,120
    F6      dense                                      84         10,164        10,164
    output  1998: distances to codes; else dense       10              0           850

The ideas to see here:
- weights shared over positions: the 156 parameters of C1 make 122,304 connections;
- resolution traded for channels;
- in 1998, a C3 whose maps see different inputs, which saves work and breaks their symmetry.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from cnnjax.models.initializers import glorot_uniform, lecun_uniform_1998
from cnnjax.models.layers import (
    ACTIVATIONS,
    AvgPool,
    Conv,
    Dense,
    Outputs,
    avg_pool,
    require_size,
)
from cnnjax.ops.convolve import convolve
from cnnjax.ops.platform import by_platform
from cnnjax.spelling import choice

# Table I: the maps of S2 that each of the 16 maps of C3 sees.
# fmt: off
C3_INPUTS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
# fmt: on
# (60, 2): pairs of an S2 map and a C3 map.
C3_LINKS = np.array(
    [(source, target) for target, sources in enumerate(C3_INPUTS) for source in sources]
)

# The codes of the output layer: digits on 7x12 bitmaps, redrawn in the manner of Figure 3.
DIGITS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...#...  ..###..  .#####.  ....##.  .######  ..####.  .######  ..###..  ..###..
.##.##.  ..##...  .##.##.  .....#.  ...###.  .#.....  .##....  .....##  .##.##.  .##.##.
##...##  .###...  ##...##  ....#..  ...#.#.  .#.....  ##.....  .....#.  ##...##  ##...##
##...##  ...#...  .....##  ...##..  ..##.#.  .#####.  ##.....  ....##.  ##...##  ##...##
##...##  ...#...  ....##.  ....##.  ..#..#.  .##..##  ##.###.  ....#..  .##.##.  .##..##
##...##  ...#...  ...##..  .....##  .##..#.  ......#  ###..##  ...##..  ..###..  ..###.#
##...##  ...#...  ..##...  ......#  .######  ......#  ##...##  ...#...  .##.##.  .....##
##...##  ...#...  .##....  ##....#  .....#.  ##....#  ##...##  ..##...  ##...##  .....##
.##.##.  ...#...  ##.....  .##..##  .....#.  .##..##  .##.##.  ..#....  .##.##.  ....##.
..###..  .#####.  #######  ..####.  .....#.  ..####.  ..###..  .##....  ..###..  .####..
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""
CODES = np.array(
    [
        [1.0 if cell == "#" else -1.0 for row in rows for cell in row]
        for rows in zip(*map(str.split, DIGITS.split("\n")[1:-1]))
    ],
    np.float32,
)  # (10, 84)


def to_32(x: jax.Array) -> jax.Array:
    """Pads smaller images with zeros: (N, H, W, C) -> (N, 32, 32, C).

    MNIST's 28x28 images get a border of two, as in the paper, so that a C1 kernel can be centred on
    the end of a stroke.
    """
    missing = [max(0, 32 - size) for size in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))


class LeNet5(nn.Module):
    """The network as it is taught: images (N, 32, 32, C), or (N, 28, 28, C), to `Outputs`.

    Every C3 map sees all of S2; pooling is plain average pooling, and the output is dense. It has
    61,706 parameters on one channel and ten classes. Over larger images the network slides, and F6
    reads the mean of C5 over the positions.
    """

    num_classes: int = 10
    dtype: Any = None
    activation: str = "tanh"  # a key of ACTIVATIONS

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        require_size(x, 28, "lenet5")
        of_conv, of_dense = ACTIVATIONS[choice("lenet5's activation", self.activation, ACTIVATIONS)]
        layer = dict(kernel_init=glorot_uniform, dtype=self.dtype)
        conv = dict(padding="VALID", activation=of_conv, **layer)
        x = to_32(x)
        x = Conv(6, (5, 5), name="c1", **conv)(x)  # 28
        x = AvgPool(2, 2, name="s2")(x)  # 14
        x = Conv(16, (5, 5), name="c3", **conv)(x)  # 10
        x = AvgPool(2, 2, name="s4")(x)  # 5
        x = Conv(120, (5, 5), name="c5", **conv)(x)  # 1
        x = Dense(84, name="f6", activation=of_dense, **layer)(x.mean((1, 2)))
        output = dict(kernel_init=glorot_uniform, dtype=jnp.float32)
        return Outputs(nn.Dense(self.num_classes, name="output", **output)(x), (), x)


def squash(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2x/3): it maps 1 to 1 and -1 to -1, where its curvature peaks (appendix A)."""
    return 1.7159 * nn.tanh(2 / 3 * x)


class SubSampling(nn.Module):
    """Layers S2 and S4: (N, H, W, C) -> (N, H/2, W/2, C).

    The sum of four neighbours, times a trainable coefficient, plus a bias, squashed. Each map has
    its own coefficient and bias.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The paper leaves the initial values open: start as the plain average.
        coefficient = self.param("coefficient", nn.initializers.constant(0.25), x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return squash(4 * avg_pool(x, 2, 2) * coefficient.astype(x.dtype) + bias.astype(x.dtype))


class Links(nn.Module):
    """The convolutions of C3: (N, H, W, 6) -> (N, H - 4, W - 4, 16).

    60 kernels of 5x5, one for each link of Table I, whose results are summed into 16 maps.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sources, targets = C3_LINKS.T
        fan_in = np.array([25 * len(C3_INPUTS[target]) for target in targets])

        def init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -2.4, 2.4) / fan_in

        def by_link(x, kernels):
            links = convolve(x[..., sources], kernels, (1, 1), "VALID", feature_group_count=60)
            return jnp.zeros((*links.shape[:-1], 16), links.dtype).at[..., targets].add(links)

        def one_kernel(x, kernels):  # zeros where there is no link: much faster on a CPU
            zeros = jnp.zeros((5, 5, 6, 16), kernels.dtype)
            kernel = zeros.at[:, :, sources, targets].set(kernels[:, :, 0])
            return convolve(x, kernel, (1, 1), "VALID")

        x, kernels = promote_dtype(x, self.param("kernel", init, (5, 5, 1, 60)), dtype=self.dtype)
        return by_platform(x, kernels, cpu=one_kernel, default=by_link)


class SparseConv(nn.Module):
    """Layer C3, `Links` with a bias, squashed: (N, H, W, 6) -> (N, H - 4, W - 4, 16)."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        links = Links(self.dtype, name="links")(x)
        bias = self.param("bias", nn.initializers.zeros, (16,))
        return squash(links + bias.astype(links.dtype))


class LeNet5Of1998(nn.Module):
    """The paper's network: images (N, 32, 32, 1), or (N, 28, 28, 1), to `Outputs`.

    It has 60,000 trainable parameters. Logit i is minus the squared distance of F6 to the fixed
    code i (equation 7). Softmax cross-entropy on the logits is thus the paper's discriminative
    criterion (equation 9) without its constant e^-j.
    """

    num_classes: int = 10
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        require_size(x, 28, "lenet5_1998")
        if self.num_classes != 10:
            raise ValueError(
                f"lenet5_1998 has codes for ten digits, got num_classes={self.num_classes}"
            )
        layer = dict(kernel_init=lecun_uniform_1998, dtype=self.dtype, activation=squash)
        x = to_32(x)
        x = Conv(6, (5, 5), padding="VALID", name="c1", **layer)(x)  # 28
        x = SubSampling(name="s2")(x)  # 14
        x = SparseConv(self.dtype, name="c3")(x)  # 10
        x = SubSampling(name="s4")(x)  # 5
        x = Conv(120, (5, 5), padding="VALID", name="c5", **layer)(x)  # 1
        x = Dense(84, name="f6", **layer)(x.mean((1, 2))).astype(jnp.float32)
        # -|x - code|², since |code|² = 84
        logits = 2 * x @ CODES.T - jnp.sum(x**2, -1, keepdims=True) - 84
        return Outputs(logits, (), x)
