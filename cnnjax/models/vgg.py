"""VGG. Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition,
2014, Table 1.

    block     channels   map     A vgg11   B vgg13   C vgg16_c   D vgg16   E vgg19
    block1     64        224²    1         2         2           2         2
    block2    128        112²    1         2         2           2         2       3x3 convolutions;
    block3    256         56²    2         2         3           3         4       in C the third of
    block4    512         28²    2         2         3           3         4       a block is 1x1
    block5    512         14²    2         2         3           3         4
    fc6, fc7, head         7²    4096, 4096, 1000: 124 of the 133 to 144 million parameters

The ideas to see here:
- depth from one small kernel: two stacked 3x3 convolutions see 5x5 pixels and three see 7x7, with
  a ReLU between them. They have 18 C² and 27 C² weights; one 5x5 or 7x7 kernel has 25 C² or 49 C²
  (section 2.3);
- the channels double where the map halves;
- dense layers are convolutions over the whole map, so the network slides over larger images with
  the same parameters (section 3.2): `dense=True`.

`vgg11_lrn` (column A-LRN) shows that local response normalisation no longer helps. C against B and
D shows what a 1x1 and what a 3x3 convolution adds. The `_bn` variants, with BatchNorm after each
convolution, are torchvision's. So is the initialisation of all: the paper initialised its deeper
columns from a trained A.
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

# torchvision's values
BN_DECAY = 0.9
BN_EPSILON = 1e-5
CONV_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
DENSE_INIT = nn.initializers.normal(0.01)


class Block(nn.Module):
    """3x3 convolutions, then 2x2 max pooling: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    channels: int
    kernels: tuple[int, ...]
    conv: Callable[..., nn.Module]
    lrn: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, kernel in enumerate(self.kernels, 1):
            conv = self.conv(self.channels, (kernel, kernel), name=f"conv{number}")
            last = number == len(self.kernels)
            x = local_response_norm(conv(x)) if self.lrn else conv(x, before_pool=last)
        return max_pool(x, 2, 2)


class VGG(nn.Module):
    """Images (N, 224, 224, 3) to `Outputs`.

    For images of other sizes, the last map is averaged to 7x7, as in torchvision. `map` and
    `hidden` make a smaller classifier for small images (1 and 512: Liu, Deng 2015). With `dense`
    the classifier slides over the map instead, and its scores are averaged. This is the paper's
    evaluation, for images of at least 224x224 pixels.
    """

    num_classes: int = 1000
    dtype: Any = None
    column: Column = D
    lrn: bool = False
    batch_norm: bool = False
    dropout: float = 0.5
    map: int = 7  # side of the map that the classifier reads
    hidden: int = 4096  # width of its two dense layers
    dense: bool = False
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        if self.dense:
            require_size(x, 224, "dense evaluation of VGG")
        else:
            require_size(x, 32, "VGG")
        conv: Callable[..., nn.Module] = ConvRelu
        if self.batch_norm:  # the convolutions keep their bias, as in torchvision
            conv = partial(ConvBN, norm=batch_norm(self, train), use_bias=True)
        conv = partial(conv, kernel_init=CONV_INIT, dtype=self.dtype)
        dropout = partial(nn.Dropout, self.dropout, deterministic=not train)
        VGGBlock = nn.remat(Block) if self.remat else Block

        for number, (channels, kernels) in enumerate(zip(CHANNELS, self.column), 1):
            lrn = self.lrn and number == 1
            block = VGGBlock(channels, kernels, conv, lrn, name=f"block{number}")
            x = block(x)  # 112, 56, 28, 14, 7
        if not self.dense:
            x = adaptive_avg_pool(x, self.map)
        # Dense layers as convolutions: 7x7, then twice 1x1, which is a Dense on the last axis.
        dense = dict(kernel_init=DENSE_INIT, dtype=self.dtype, activation=nn.relu)
        x = Conv(self.hidden, (self.map, self.map), padding="VALID", name="fc6", **dense)(x)  # 1
        x = dropout(name="dropout6")(x)
        x = Dense(self.hidden, name="fc7", **dense)(x)
        # The head is linear: the score of the mean is the mean of the scores.
        features = global_avg_pool(x)
        x = dropout(name="dropout7")(features)
        head = nn.Dense(self.num_classes, kernel_init=DENSE_INIT, dtype=jnp.float32, name="head")
        return Outputs(head(x), (), features)
