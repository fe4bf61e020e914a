"""Inception v1, GoogLeNet. Szegedy et al.: Going deeper with convolutions, 2014, Table 1 and
Figures 2 and 3.

    stage            branches: 1x1 | 1x1, 3x3 | 1x1, 5x5 | pool, 1x1              map at 224
    conv1            7x7/2 64, max pool/2, LRN                                    56²x64
    conv2            1x1 64, 3x3 192, LRN, max pool/2                             28²x192
    mixed3a 3b       64 | 96, 128 | 16, 32 | 32 and so on: see `STAGES`           28²x256, 480
    mixed4a … 4e     after a max pool/2                                           14²x512 … 832
    mixed5a 5b       after a max pool/2                                            7²x832, 1024
    aux1, aux2       on mixed4a and mixed4d, in training: see `GridAuxHead`
    head             global average instead of dense layers, dropout, dense

The ideas to see here:
- kernels of several sizes side by side, so that each module chooses its scales;
- 1x1 convolutions that reduce the channels before the large kernels, which makes that affordable
  (`inception_v1_naive`, Figure 2a, leaves them out and has 14 times the parameters);
- auxiliary classifiers that bring gradients to the middle of the network;
- a global average where AlexNet and VGG have dense layers: 22 layers have a ninth of AlexNet's
  parameters.

`inception_v1` is the paper's network, as Caffe implements it. `inception_v1_bn` is what torchvision
and TF-slim call GoogLeNet. It has BatchNorm instead of LRN and biases, a 3x3 instead of the 5x5,
and a 2x2 pooling before mixed5a. The published weights need these options:

    torchvision     the defaults; `adaptive_aux` is its rule for the auxiliary heads' pooling
    TF-slim         padding="same", bn_scale=False, aux=False, num_classes=1001
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.heads import GridAuxHead
from cnnjax.models.initializers import truncated_normal
from cnnjax.models.layers import (
    ConvBN,
    ConvRelu,
    MaxPool,
    Outputs,
    Padding,
    batch_norm,
    global_avg_pool,
    local_response_norm,
    max_pool,
    require_size,
    side_by_side,
)
from cnnjax.spelling import choice

BN_DECAY = 0.9  # torchvision; TF-slim 0.9997
BN_EPSILON = 1e-3  # both

# Caffe divides its alpha of 1e-4 by the window of 5.
caffe_lrn = partial(local_response_norm, k=1.0, alpha=1e-4 / 5)
caffe_xavier = nn.initializers.lecun_uniform()  # U(-sqrt(3 / fan_in), sqrt(3 / fan_in))
CAFFE_BIAS = nn.initializers.constant(0.2)


class Widths(NamedTuple):
    """One row of Table 1: the channels of each convolution of a module."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


STAGES = {
    3: {
        "mixed3a": Widths(64, 96, 128, 16, 32, 32),
        "mixed3b": Widths(128, 128, 192, 32, 96, 64),
    },
    4: {
        "mixed4a": Widths(192, 96, 208, 16, 48, 64),
        "mixed4b": Widths(160, 112, 224, 24, 64, 64),
        "mixed4c": Widths(128, 128, 256, 24, 64, 64),
        "mixed4d": Widths(112, 144, 288, 32, 64, 64),
        "mixed4e": Widths(256, 160, 320, 32, 128, 128),
    },
    5: {
        "mixed5a": Widths(256, 160, 320, 32, 128, 128),
        "mixed5b": Widths(384, 192, 384, 48, 128, 128),
    },
}
HEADS = {"mixed4a": "aux1", "mixed4d": "aux2"}


class Edges(NamedTuple):
    """A framework's padding of strided windows."""

    conv1: Padding
    pool: Padding
    smallest: dict[int, int]  # window of the pool before mixed5a -> side of the smallest image


EDGES = {
    "caffe": Edges(((3, 3), (3, 3)), "CEIL", {3: 31, 2: 15}),  # torchvision too
    "same": Edges("SAME", "SAME", {3: 1, 2: 1}),  # TensorFlow
}


class Mixed(nn.Module):
    """Figure 2, four branches, concatenated: (N, H, W, C) -> (N, H, W, sum of the widths)."""

    widths: Widths
    conv: Callable[..., nn.Module]
    largest: int  # side of the largest kernel: 5 in the paper
    reductions: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, widths, largest = self.conv, self.widths, self.largest
        b1 = conv(widths.conv1x1, (1, 1), name="branch1x1")
        if self.reductions:
            b3 = conv(widths.reduce3x3, (1, 1), name="branch3x3_reduce")
            b5 = conv(widths.reduce5x5, (1, 1), name="branch5x5_reduce")
            b1, b3, b5 = side_by_side(x, b1, b3, b5)
        else:
            b1, b3, b5 = b1(x), x, x
        b3 = conv(widths.conv3x3, (3, 3), name="branch3x3")(b3)
        b5 = conv(widths.conv5x5, (largest, largest), name="branch5x5")(b5)
        pool = max_pool(x, 3, 1, "SAME")
        if self.reductions:
            pool = conv(widths.pool_proj, (1, 1), name="branch_pool")(pool)
        return jnp.concatenate([b1, b3, b5, pool], axis=-1)


class InceptionV1(nn.Module):
    """Images (N, 224, 224, 3) to `Outputs`.

    It has 6,998,552 parameters, and 6,379,728 more in the two auxiliary heads.
    """

    num_classes: int = 1000
    dtype: Any = None
    dropout: float = 0.4
    aux: bool = True
    aux_dropout: float = 0.7
    adaptive_aux: bool = False  # average every map of the heads to 4x4, as torchvision
    reductions: bool = True  # 1x1 convolutions before the large kernels and after the pooling
    largest_kernel: int = 5
    stem: int = 224  # or 32: the first layers keep the side of the image
    window5: int = 3  # of the max pool before mixed5a
    padding: str = "caffe"  # a key of EDGES
    lrn: bool = True
    batch_norm: bool = False
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        edges = EDGES[choice("inception_v1's padding", self.padding, EDGES)]
        choice("inception_v1's stem", str(self.stem), ("224", "32"))
        whole = self.stem == 224
        require_size(x, edges.smallest[self.window5] if whole else 8, "inception_v1")
        init = truncated_normal(0.01) if self.batch_norm else caffe_xavier  # TF-slim, torchvision
        layer = dict(kernel_init=init, dtype=self.dtype)
        conv: Callable[..., nn.Module]
        if self.batch_norm:
            conv = partial(ConvBN, norm=batch_norm(self, train), **layer)
            hidden = partial(ConvRelu, **layer)  # no BatchNorm, as in torchvision
        else:
            conv = hidden = partial(ConvRelu, bias_init=CAFFE_BIAS, **layer)
        lrn = caffe_lrn if self.lrn else lambda x: x
        pool = partial(MaxPool, stride=2, padding=edges.pool)
        Block = nn.remat(Mixed) if self.remat else Mixed
        mixed = partial(Block, conv=conv, largest=self.largest_kernel, reductions=self.reductions)
        aux_options = self.aux_dropout, self.adaptive_aux, init
        head = partial(GridAuxHead, self.num_classes, conv, hidden, *aux_options)

        if whole:
            conv1 = conv(64, (7, 7), strides=2, padding=edges.conv1, name="conv1")
            x = conv1(x, before_pool=True)  # 112
            x = lrn(pool(3, name="pool1")(x))  # 56
        else:
            x = conv(64, (3, 3), name="conv1")(x)
        x = conv(64, (1, 1), name="conv2_reduce")(x)
        conv2 = conv(192, (3, 3), name="conv2")
        x = lrn(conv2(x)) if self.lrn else conv2(x, before_pool=whole)
        aux = []
        for number, modules in STAGES.items():
            window = self.window5 if number == 5 else 3
            if whole or number > 3:
                x = pool(window, name=f"pool{number - 1}")(x)  # 28, 14, 7
            for name, widths in modules.items():
                x = mixed(widths, name=name)(x)
                if name in HEADS and self.aux and train:
                    aux.append(head(name=HEADS[name])(x))
        features = global_avg_pool(x)  # 1024
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        dense = nn.Dense(self.num_classes, kernel_init=init, dtype=jnp.float32, name="head")
        return Outputs(dense(x), tuple(aux), features)


InceptionV1BN = partial(
    InceptionV1,
    batch_norm=True,
    lrn=False,
    largest_kernel=3,
    window5=2,
    adaptive_aux=True,
    dropout=0.2,
)
InceptionV1Naive = partial(InceptionV1, reductions=False, aux=False)
