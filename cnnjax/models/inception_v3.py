"""Inception-v3. Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception architecture for
computer vision, 2015.

    stage            branches, concatenated in this order                             map at 299
    conv1a … pool5a  3x3/2 32, 3x3 32, 3x3 64, max pool/2, 1x1 80, 3x3 192,           35²x192
                     max pool/2
    mixed5b 5c 5d    1x1 64 | 1x1 48, 5x5 64 | 1x1 64, 3x3 96, 3x3 96 | pool, 1x1 p   35²x256, 288
    mixed6a          3x3/2 384 | 1x1 64, 3x3 96, 3x3/2 96 | max pool/2                17²x768
    mixed6b … 6e     1x1 192 | 1x1 c, 1x7 c, 7x1 192                                  17²x768
                     | 1x1 c, 7x1 c, 1x7 c, 7x1 c, 1x7 192 | pool, 1x1 192
    mixed7a          1x1 192, 3x3/2 320 | 1x1 192, 1x7 192, 7x1 192, 3x3/2 192         8²x1280
                     | max pool/2
    mixed7b 7c       1x1 320 | 1x1 384, {1x3, 3x1} 384                                 8²x2048
                     | 1x1 448, 3x3 384, {1x3, 3x1} 384 | pool, 1x1 192
    aux              on mixed6e, in training: average pool 5x5/3, 1x1 128, 5x5 768, dense

This is the network that was released and that all published weights fit. Table 1 of the paper
prints a slightly different stem. Layers have torchvision's names (`Mixed_5b.branch3x3dbl_2` is
`mixed5b/branch3x3dbl_2`).

The ideas to see here:
- a 5x5 as two 3x3 (Figure 5) and a 7x7 as 1x7 and 7x1 (Figure 6); `factorized=False` undoes both;
- strided convolutions beside the pooling, so that no bottleneck precedes it (Figure 10);
- filter banks that grow wider, not deeper, where the map is smallest (Figure 7);
- an auxiliary head that regularises (section 4); `aux_bn=False` is the head before the last row of
  the ablation;
- the same cost spent on smaller images (section 8): `stem`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.heads import AuxHead
from cnnjax.models.initializers import he_normal, truncated_normal
from cnnjax.models.layers import (
    ConvBN,
    MaxPool,
    Outputs,
    PooledConvBN,
    batch_norm,
    global_avg_pool,
    max_pool,
    require_size,
    side_by_side,
)

BN_DECAY = 0.9  # torchvision and timm; TF-slim 0.9997, Keras 0.99
BN_EPSILON = 1e-3  # all of them
DROPOUT = 0.2  # TF-slim; torchvision 0.5


class Stem(NamedTuple):
    """The first layers for one image size (section 8).

    They keep the resolution of smaller images, so that the later maps and the cost stay the same.
    """

    strides: int  # of the first convolution
    pool: bool  # whether the first max pooling is present
    smallest: int  # side of the smallest image
    smallest_with_aux: int  # the same with the auxiliary head, which needs a map of 17x17


STEMS = {
    299: Stem(strides=2, pool=True, smallest=75, smallest_with_aux=299),
    151: Stem(strides=1, pool=True, smallest=39, smallest_with_aux=151),
    79: Stem(strides=1, pool=False, smallest=21, smallest_with_aux=77),
}

# What differs between modules of a kind: p and c of the table above.
PROJECTION = {"mixed5b": 32, "mixed5c": 64, "mixed5d": 64}
BOTTLENECK = {"mixed6b": 128, "mixed6c": 160, "mixed6d": 160, "mixed6e": 192}


class InceptionA(nn.Module):
    """Figure 5, a 5x5 as two 3x3: (N, 35, 35, C) -> (N, 35, 35, 224 + projection)."""

    projection: int
    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]
    factorized: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1, b5, b3, pool = side_by_side(
            x,
            conv(64, (1, 1), name="branch1x1"),
            conv(48, (1, 1), name="branch5x5_1"),
            conv(64, (1, 1), name="branch3x3dbl_1"),
            self.pool_conv(self.projection, name="branch_pool"),
        )
        b5 = conv(64, (5, 5), name="branch5x5_2")(b5)
        if self.factorized:
            b3 = conv(96, (3, 3), name="branch3x3dbl_2")(b3)
            b3 = conv(96, (3, 3), name="branch3x3dbl_3")(b3)
        else:
            b3 = conv(96, (5, 5), name="branch3x3dbl_2")(b3)
        return jnp.concatenate([b1, b5, b3, pool], axis=-1)


class ReductionA(nn.Module):
    """Figure 10, strides beside the pooling: (N, 35, 35, C) -> (N, 17, 17, 480 + C)."""

    conv: Callable[..., nn.Module]
    factorized: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2)
        b3 = halve(384, (3, 3), padding="VALID", name="branch3x3")(x)
        b5 = conv(64, (1, 1), name="branch3x3dbl_1")(x)
        if self.factorized:
            b5 = conv(96, (3, 3), name="branch3x3dbl_2")(b5)
            b5 = halve(96, (3, 3), padding="VALID", name="branch3x3dbl_3")(b5)
        else:
            b5 = halve(96, (5, 5), padding=((1, 1), (1, 1)), name="branch3x3dbl_2")(b5)
        return jnp.concatenate([b3, b5, max_pool(x, 3, 2)], axis=-1)


class InceptionB(nn.Module):
    """Figure 6, a 7x7 as 1x7 and 7x1: (N, 17, 17, C) -> (N, 17, 17, 768)."""

    bottleneck: int
    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]
    factorized: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, c = self.conv, self.bottleneck
        b1, b7, b77, pool = side_by_side(
            x,
            conv(192, (1, 1), name="branch1x1"),
            conv(c, (1, 1), name="branch7x7_1"),
            conv(c, (1, 1), name="branch7x7dbl_1"),
            self.pool_conv(192, name="branch_pool"),
        )
        if self.factorized:
            b7 = conv(c, (1, 7), name="branch7x7_2")(b7)
            b7 = conv(192, (7, 1), name="branch7x7_3")(b7)
            b77 = conv(c, (7, 1), name="branch7x7dbl_2")(b77)
            b77 = conv(c, (1, 7), name="branch7x7dbl_3")(b77)
            b77 = conv(c, (7, 1), name="branch7x7dbl_4")(b77)
            b77 = conv(192, (1, 7), name="branch7x7dbl_5")(b77)
        else:
            b7 = conv(192, (7, 7), name="branch7x7_2")(b7)
            b77 = conv(c, (7, 7), name="branch7x7dbl_2")(b77)
            b77 = conv(192, (7, 7), name="branch7x7dbl_3")(b77)
        return jnp.concatenate([b1, b7, b77, pool], axis=-1)


class ReductionB(nn.Module):
    """Figure 10 with a 7x7 in the longer branch: (N, 17, 17, C) -> (N, 8, 8, 512 + C)."""

    conv: Callable[..., nn.Module]
    factorized: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2, padding="VALID")
        b3, b7 = side_by_side(
            x,
            conv(192, (1, 1), name="branch3x3_1"),
            conv(192, (1, 1), name="branch7x7x3_1"),
        )
        b3 = halve(320, (3, 3), name="branch3x3_2")(b3)
        if self.factorized:
            b7 = conv(192, (1, 7), name="branch7x7x3_2")(b7)
            b7 = conv(192, (7, 1), name="branch7x7x3_3")(b7)
        else:
            b7 = conv(192, (7, 7), name="branch7x7x3_2")(b7)
        b7 = halve(192, (3, 3), name="branch7x7x3_4")(b7)
        return jnp.concatenate([b3, b7, max_pool(x, 3, 2)], axis=-1)


class InceptionC(nn.Module):
    """Figure 7, expanded filter banks: (N, 8, 8, C) -> (N, 8, 8, 2048)."""

    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1 = conv(320, (1, 1), name="branch1x1")(x)
        b3 = conv(384, (1, 1), name="branch3x3_1")(x)
        b3a = conv(384, (1, 3), name="branch3x3_2a")(b3)
        b3b = conv(384, (3, 1), name="branch3x3_2b")(b3)
        b33 = conv(448, (1, 1), name="branch3x3dbl_1")(x)
        b33 = conv(384, (3, 3), name="branch3x3dbl_2")(b33)
        b33a = conv(384, (1, 3), name="branch3x3dbl_3a")(b33)
        b33b = conv(384, (3, 1), name="branch3x3dbl_3b")(b33)
        pool = self.pool_conv(192, name="branch_pool")(x)
        return jnp.concatenate([b1, b3a, b3b, b33a, b33b, pool], axis=-1)


class InceptionV3(nn.Module):
    """Images (N, 299, 299, 3) to `Outputs`.

    It has 23,834,568 parameters, and 3,326,696 more in the auxiliary head.
    """

    num_classes: int = 1000
    dropout: float = DROPOUT
    aux: bool = True
    aux_bn: bool = True
    stem: int = 299  # a key of STEMS: the side of the images
    factorized: bool = True
    count_pad: bool = False  # average pools divide by 9 at the edges too: torchvision and timm
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        if self.stem not in STEMS:
            known = ", ".join(map(str, STEMS))
            raise ValueError(f"inception_v3's stem={self.stem!r} is unknown; known are {known}")
        stem, with_aux = STEMS[self.stem], self.aux and train
        require_size(x, stem.smallest, "inception_v3")
        if with_aux:
            head_name = "inception_v3's auxiliary head (aux=False leaves it out)"
            require_size(x, stem.smallest_with_aux, head_name)

        layer = dict(norm=batch_norm(self, train), kernel_init=he_normal, dtype=self.dtype)
        conv = partial(ConvBN, **layer)
        pool_conv = partial(PooledConvBN, count_pad=self.count_pad, **layer)
        a = nn.remat(InceptionA) if self.remat else InceptionA
        b = nn.remat(InceptionB) if self.remat else InceptionB
        c = nn.remat(InceptionC) if self.remat else InceptionC

        x = conv(32, (3, 3), strides=stem.strides, padding="VALID", name="conv1a")(x)  # 149
        x = conv(32, (3, 3), padding="VALID", name="conv2a")(x)  # 147
        x = conv(64, (3, 3), name="conv2b")(x, before_pool=stem.pool)
        if stem.pool:
            x = MaxPool(3, 2, name="pool3a")(x)  # 73
        x = conv(80, (1, 1), padding="VALID", name="conv3b")(x)
        x = conv(192, (3, 3), padding="VALID", name="conv4a")(x, before_pool=True)  # 71
        x = MaxPool(3, 2, name="pool5a")(x)  # 35
        for name, projection in PROJECTION.items():
            x = a(projection, conv, pool_conv, self.factorized, name=name)(x)
        x = ReductionA(conv, self.factorized, name="mixed6a")(x)  # 17
        for name, bottleneck in BOTTLENECK.items():
            x = b(bottleneck, conv, pool_conv, self.factorized, name=name)(x)
        aux_inits = truncated_normal(0.01), truncated_normal(0.001)
        head = partial(AuxHead, self.num_classes, conv, self.aux_bn, *aux_inits)
        aux = (head(name="aux")(x),) if with_aux else ()
        x = ReductionB(conv, self.factorized, name="mixed7a")(x)  # 8
        for name in ("mixed7b", "mixed7c"):
            x = c(conv, pool_conv, name=name)(x)
        features = global_avg_pool(x)  # 2048
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        dense = nn.Dense(self.num_classes, kernel_init=he_normal, dtype=jnp.float32, name="head")
        return Outputs(dense(x), aux, features)
