"""Inception v2, BN-Inception. Ioffe, Szegedy: Batch normalization: accelerating deep network
training by reducing internal covariate shift, 2015, Figure 5.

    stage         1x1 | 1x1, 3x3 | 1x1, 3x3, 3x3 | pool, 1x1             map at 224
    conv1         7x7/2 64, max pool/2                                   56²x64
    conv2         1x1 64, 3x3 192, max pool/2                            28²x192
    mixed3a 3b    see `MODULES`                                          28²x256, 320
    mixed3c       strides of 2, no 1x1 branch, bare max pool             14²x576
    mixed4a … 4d                                                         14²x576, 576, 608, 608
    mixed4e       strides of 2, no 1x1 branch, bare max pool              7²x1056
    mixed5a 5b    5b has a max pool, all others an average pool           7²x1024
    aux1, aux2    on mixed4a and mixed4d, in training: see `GridAuxHead`

The ideas to see here:
- BatchNorm before every ReLU, also in the auxiliary heads. It replaces local response
  normalisation, most dropout and careful initial weights, and allows 30 times the learning rate;
- the 5x5 of Inception v1 as two 3x3;
- modules that halve the map, by strided convolutions beside a pooling.

The paper's figure prints 576 and 1024 channels for mixed4c to 4e, but its projections of 128 add up
to 608 and 1056. `inception_v2` has the projections of 128, like Caffe's version, and auxiliary
heads at the same places as v1. `inception_v2_slim` has the printed sums: projections of 96, and a
separable first convolution. TF-slim's weights fit it with num_classes=1001. The two parameter trees
differ in shapes and in `conv1`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.heads import GridAuxHead
from cnnjax.models.initializers import he_normal, truncated_normal
from cnnjax.models.layers import (
    Conv,
    ConvBN,
    MaxPool,
    Outputs,
    Padding,
    PooledConvBN,
    batch_norm,
    global_avg_pool,
    max_pool,
    require_size,
    side_by_side,
)
from cnnjax.spelling import choice

BN_DECAY = 0.9  # as in the other networks; TF-slim 0.9997
BN_EPSILON = 1e-3  # TF-slim

# TF-slim's initial weights: he_normal, except for these 1x1 and separable convolutions.
reduction_init = truncated_normal(0.09)
projection_init = truncated_normal(0.1)
separable_init = truncated_normal(1.0)


class Widths(NamedTuple):
    """One row of Figure 5 that keeps the map: the channels of each convolution."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce_double: int
    double3x3: int
    pool: str
    pool_proj: int


class Halving(NamedTuple):
    """One row of Figure 5 that halves the map: the channels of each convolution."""

    reduce3x3: int
    conv3x3: int
    reduce_double: int
    double3x3: int


MODULES: dict[str, Widths | Halving] = {
    "mixed3a": Widths(64, 64, 64, 64, 96, "average", 32),
    "mixed3b": Widths(64, 64, 96, 64, 96, "average", 64),
    "mixed3c": Halving(128, 160, 64, 96),
    "mixed4a": Widths(224, 64, 96, 96, 128, "average", 128),
    "mixed4b": Widths(192, 96, 128, 96, 128, "average", 128),
    "mixed4c": Widths(160, 128, 160, 128, 160, "average", 128),
    "mixed4d": Widths(96, 128, 192, 160, 192, "average", 128),
    "mixed4e": Halving(128, 192, 192, 256),
    "mixed5a": Widths(352, 192, 320, 160, 224, "average", 128),
    "mixed5b": Widths(352, 192, 320, 192, 224, "max", 128),
}
HEADS = {"mixed4a": "aux1", "mixed4d": "aux2"}


class Edges(NamedTuple):
    """A framework's padding of strided windows."""

    conv7x7: Padding
    conv3x3: Padding
    pool: Padding
    smallest: int  # side of the smallest image


EDGES = {
    "caffe": Edges(((3, 3), (3, 3)), ((1, 1), (1, 1)), "CEIL", 7),
    "same": Edges("SAME", "SAME", "SAME", 1),  # TensorFlow
}


class Mixed(nn.Module):
    """Four branches, concatenated: (N, H, W, C) -> (N, H, W, sum of the widths)."""

    widths: Widths
    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, widths = self.conv, self.widths
        reduce = partial(conv, kernel=(1, 1), kernel_init=reduction_init)
        b1, b3, b33 = side_by_side(
            x,
            conv(widths.conv1x1, (1, 1), name="branch1x1"),
            reduce(widths.reduce3x3, name="branch3x3_reduce"),
            reduce(widths.reduce_double, name="branch3x3dbl_reduce"),
        )
        b3 = conv(widths.conv3x3, (3, 3), name="branch3x3")(b3)
        b33 = conv(widths.double3x3, (3, 3), name="branch3x3dbl_1")(b33)
        b33 = conv(widths.double3x3, (3, 3), name="branch3x3dbl_2")(b33)
        project = dict(kernel_init=projection_init, name="branch_pool")
        if widths.pool == "average":
            pool = self.pool_conv(widths.pool_proj, **project)(x)
        else:
            pool = max_pool(x, 3, 1, "SAME")
            pool = conv(widths.pool_proj, (1, 1), **project)(pool)
        return jnp.concatenate([b1, b3, b33, pool], axis=-1)


class Reduction(nn.Module):
    """Two strided branches and a max pool: (N, H, W, C) -> (N, H/2, W/2, sum of the widths + C)."""

    widths: Halving
    conv: Callable[..., nn.Module]
    padding: Padding

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, widths = self.conv, self.widths
        reduce = partial(conv, kernel=(1, 1), kernel_init=reduction_init)
        halve = partial(conv, kernel=(3, 3), strides=2, padding=self.padding)
        b3, b33 = side_by_side(
            x,
            reduce(widths.reduce3x3, name="branch3x3_reduce"),
            reduce(widths.reduce_double, name="branch3x3dbl_reduce"),
        )
        b3 = halve(widths.conv3x3, name="branch3x3")(b3)
        b33 = conv(widths.double3x3, (3, 3), name="branch3x3dbl_1")(b33)
        b33 = halve(widths.double3x3, name="branch3x3dbl_2")(b33)
        return jnp.concatenate([b3, b33, max_pool(x, 3, 2, "SAME")], axis=-1)


class SeparableConv(nn.Module):
    """TF-slim's first layer: (N, H, W, C) -> (N, H/2, W/2, 64).

    8 kernels of 7x7 for each colour, then a 1x1 convolution with bias and ReLU. No BatchNorm.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, kernel_init=separable_init, dtype=self.dtype)
        colours = x.shape[-1]
        depthwise = dict(feature_group_count=colours, use_bias=False, name="depthwise")
        x = conv(8 * colours, (7, 7), strides=2, **depthwise)(x)
        return conv(64, (1, 1), activation=nn.relu, name="pointwise")(x)


class InceptionV2(nn.Module):
    """Images (N, 224, 224, 3) to `Outputs`.

    It has 11,285,224 parameters, and 6,400,464 more in the two auxiliary heads.
    """

    num_classes: int = 1000
    dtype: Any = None
    dropout: float = 0.0  # section 4.2.1 removes it
    aux: bool = True
    aux_dropout: float = 0.0
    separable: bool = False  # TF-slim's first convolution
    projection: int = 128  # channels after the pooling of mixed4c and mixed4d; TF-slim 96
    padding: str = "caffe"  # a key of EDGES
    count_pad: bool = False  # average pools divide by 9 at the edges too, as in torch and Caffe
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        edges = EDGES[choice("inception_v2's padding", self.padding, EDGES)]
        require_size(x, edges.smallest, "inception_v2")
        layer = dict(norm=batch_norm(self, train), kernel_init=he_normal, dtype=self.dtype)
        conv = partial(ConvBN, **layer)
        pool_conv = partial(PooledConvBN, count_pad=self.count_pad, **layer)
        aux_options = dict(dropout=self.aux_dropout, head_init=he_normal)
        head = partial(GridAuxHead, self.num_classes, conv, conv, **aux_options)
        Block, HalvingBlock = Mixed, Reduction
        if self.remat:
            Block, HalvingBlock = nn.remat(Mixed), nn.remat(Reduction)
        mixed = partial(Block, conv=conv, pool_conv=pool_conv)
        reduction = partial(HalvingBlock, conv=conv, padding=edges.conv3x3)

        if self.separable:
            x = SeparableConv(self.dtype, name="conv1")(x)  # 112
        else:
            conv1 = conv(64, (7, 7), strides=2, padding=edges.conv7x7, name="conv1")
            x = conv1(x, before_pool=True)  # 112
        x = MaxPool(3, 2, edges.pool, name="pool1")(x)  # 56
        x = conv(64, (1, 1), kernel_init=projection_init, name="conv2_reduce")(x)
        x = conv(192, (3, 3), name="conv2")(x, before_pool=True)
        x = MaxPool(3, 2, edges.pool, name="pool2")(x)  # 28
        aux = []
        for name, widths in MODULES.items():
            if isinstance(widths, Halving):
                x = reduction(widths, name=name)(x)  # 14, 7
            elif name in ("mixed4c", "mixed4d"):
                x = mixed(widths._replace(pool_proj=self.projection), name=name)(x)
            else:
                x = mixed(widths, name=name)(x)
            if name in HEADS and self.aux and train:
                aux.append(head(name=HEADS[name])(x))
        features = global_avg_pool(x)  # 1024
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        dense = nn.Dense(self.num_classes, kernel_init=he_normal, dtype=jnp.float32, name="head")
        return Outputs(dense(x), tuple(aux), features)


InceptionV2Slim = partial(
    InceptionV2,
    separable=True,
    projection=96,
    padding="same",
    bn_scale=False,
    aux=False,
    dropout=0.2,
)
