"""VGG. Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, 2014, Table 1.

    block     channels   map     A vgg11   B vgg13   C vgg16_c   D vgg16   E vgg19
    block1     64        224²    1         2         2           2         2
    block2    128        112²    1         2         2           2         2          3x3 convolutions,
    block3    256         56²    2         2         3           3         4          in C the third of
    block4    512         28²    2         2         3           3         4          a block is 1x1
    block5    512         14²    2         2         3           3         4
    fc6, fc7, head         7²    4096, 4096, 1000: 124 of the 133 to 144 million parameters

The ideas to see here: depth from one small kernel. Two stacked 3x3 convolutions see 5x5 pixels and three see 7x7, with
a ReLU between them, and 18 C² and 27 C² weights where one large kernel would have 25 C² and 49 C² (section 2.3). The
channels double where the map halves. The dense layers are convolutions over the whole map, so that the network slides
over larger images with the same parameters (section 3.2): `dense=True`.

`vgg11_lrn` (column A-LRN) shows that local response normalisation no longer helps; C against B and D, what a 1x1 and
what a 3x3 adds. The `_bn` variants, with BatchNorm behind each convolution, are torchvision's, and so is the
initialisation of all; the paper grew the deeper columns from a trained A.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.layers import (
    Conv,
    ConvBN,
    ConvRelu,
    Dense,
    Outputs,
    adaptive_avg_pool,
    batch_norm,
    global_avg_pool,
    local_response_norm,
    max_pool,
    require_size,
)

Column = tuple[tuple[int, ...], ...]

# Table 1: the kernels of each block, from top to bottom of a column.
A: Column = ((3,), (3,), (3, 3), (3, 3), (3, 3))
B: Column = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
C: Column = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
D: Column = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
E: Column = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))
CHANNELS = (64, 128, 256, 512, 512)

# torchvision's
BN_DECAY = 0.9
BN_EPSILON = 1e-5
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
DENSE_INIT = nn.initializers.normal(0.01)


class Block(nn.Module):
    """Convolutions that keep the map, then a pooling that halves it: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    channels: int
    kernels: tuple[int, ...]
    conv: Callable[..., nn.Module]
    lrn: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, kernel in enumerate(self.kernels, 1):
            x = self.conv(self.channels, (kernel, kernel), name=f"conv{number}")(x)
            x = local_response_norm(x) if self.lrn else x
        return max_pool(x, 2, 2)


class VGG(nn.Module):
    """Images (N, 224, 224, 3) to `Outputs`.

    The last map of images of other sizes is brought to 7x7 by averaging, as in torchvision. With `dense` the classifier
    slides over it instead, and its scores are averaged: the paper's evaluation, of images from 224x224 upwards.
    """

    num_classes: int = 1000
    dtype: Any = None
    column: Column = D
    lrn: bool = False
    batch_norm: bool = False
    dropout: float = 0.5
    dense: bool = False
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        require_size(
            x, 224 if self.dense else 32, "dense evaluation of VGG" if self.dense else "VGG"
        )
        if self.batch_norm:
            norm = batch_norm(self, train)
            conv: Callable[..., nn.Module] = partial(
                ConvBN, norm=norm, use_bias=True
            )  # with a bias: torchvision
        else:
            conv = ConvRelu
        conv = partial(conv, kernel_init=CONV_INIT, dtype=self.dtype)
        dropout = partial(nn.Dropout, self.dropout, deterministic=not train)
        VGGBlock = nn.remat(Block) if self.remat else Block

        for number, (channels, kernels) in enumerate(zip(CHANNELS, self.column), 1):
            lrn = self.lrn and number == 1
            x = VGGBlock(channels, kernels, conv, lrn, name=f"block{number}")(
                x
            )  # 112, 56, 28, 14, 7
        if not self.dense:
            x = adaptive_avg_pool(x, 7)
        # Dense layers, written as the convolutions that they are: 7x7, then 1x1 twice (a Dense works on the last axis).
        dense = dict(kernel_init=DENSE_INIT, dtype=self.dtype, activation=nn.relu)
        x = Conv(4096, (7, 7), padding="VALID", name="fc6", **dense)(x)  # 1
        x = dropout(name="dropout6")(x)
        x = Dense(4096, name="fc7", **dense)(x)
        features = global_avg_pool(
            x
        )  # the mean of the scores is the score of the mean: the last layer is linear
        x = dropout(name="dropout7")(features)
        logits = nn.Dense(self.num_classes, kernel_init=DENSE_INIT, dtype=jnp.float32, name="head")(
            x
        )
        return Outputs(logits, (), features)
