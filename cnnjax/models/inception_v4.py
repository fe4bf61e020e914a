"""Inception-v4. Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the impact of
residual connections on learning, 2016, section 3.1 and Figures 3 to 9.

    stage            branches, concatenated in this order                             map at 299
    conv1a 2a 2b     3x3/2 32, 3x3 32, 3x3 64                                         147²x64
    mixed3a          max pool/2 | 3x3/2 96                                            73²x160
    mixed4a          1x1 64, 3x3 96 | 1x1 64, 1x7 64, 7x1 64, 3x3 96                  71²x192
    mixed5a          3x3/2 192 | max pool/2                                           35²x384
    mixed5b … 5e     1x1 96 | 1x1 64, 3x3 96 | 1x1 64, 3x3 96, 3x3 96                 35²x384
                     | pool, 1x1 96
    mixed6a          3x3/2 384 | 1x1 192, 3x3 224, 3x3/2 256 | max pool/2             17²x1024
    mixed6b … 6h     1x1 384 | 1x1 192, 1x7 224, 7x1 256                              17²x1024
                     | 1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256 | pool, 1x1 128
    mixed7a          1x1 192, 3x3/2 192 | 1x1 256, 1x7 256, 7x1 320, 3x3/2 320         8²x1536
                     | max pool/2
    mixed7b … 7d     1x1 256 | 1x1 384, {1x3, 3x1} 256                                 8²x1536
                     | 1x1 384, 3x1 448, 1x3 512, {1x3, 3x1} 256 | pool, 1x1 256

Stages have TF-slim's names, branches those of Inception-v3. The paper has no auxiliary head: the
one on mixed6h is TF-slim's.

The ideas to see here:
- one module for each map size, repeated 4, 7 and 3 times at a constant width: v3 without its
  concessions to training in parts on several machines;
- a stem that branches like the modules after it;
- no residual connections: this is the pure Inception to compare inception_resnet.py with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.heads import AuxHead
from cnnjax.models.initializers import glorot_uniform, he_normal
from cnnjax.models.layers import (
    ConvBN,
    Outputs,
    PooledConvBN,
    batch_norm,
    global_avg_pool,
    max_pool,
    require_size,
    side_by_side,
)

BN_DECAY = 0.9  # timm; TF-slim 0.9997
BN_EPSILON = 1e-3  # both
DROPOUT = 0.2  # "keep 0.8", Figure 9


class Mixed3a(nn.Module):
    """Figure 3, first fork: (N, 147, 147, C) -> (N, 73, 73, C + 96)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b3 = self.conv(96, (3, 3), strides=2, padding="VALID", name="branch3x3")(x)
        return jnp.concatenate([max_pool(x, 3, 2), b3], axis=-1)


class Mixed4a(nn.Module):
    """Figure 3, second fork: (N, 73, 73, C) -> (N, 71, 71, 192)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b3 = conv(64, (1, 1), name="branch3x3_1")(x)
        b3 = conv(96, (3, 3), padding="VALID", name="branch3x3_2")(b3)
        b7 = conv(64, (1, 1), name="branch7x7x3_1")(x)
        b7 = conv(64, (1, 7), name="branch7x7x3_2")(b7)
        b7 = conv(64, (7, 1), name="branch7x7x3_3")(b7)
        b7 = conv(96, (3, 3), padding="VALID", name="branch7x7x3_4")(b7)
        return jnp.concatenate([b3, b7], axis=-1)


class Mixed5a(nn.Module):
    """Figure 3, third fork: (N, 71, 71, C) -> (N, 35, 35, 192 + C)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b3 = self.conv(192, (3, 3), strides=2, padding="VALID", name="branch3x3")(x)
        return jnp.concatenate([b3, max_pool(x, 3, 2)], axis=-1)


def stem(
    conv: Callable[..., nn.Module], pool_conv: Callable[..., nn.Module], x: jax.Array
) -> jax.Array:
    """Figure 3: (N, 299, 299, C) -> (N, 35, 35, 384).

    In the paper Inception-ResNet-v2 has the same stem.
    """
    x = conv(32, (3, 3), strides=2, padding="VALID", name="conv1a")(x)  # 149
    x = conv(32, (3, 3), padding="VALID", name="conv2a")(x)  # 147
    x = conv(64, (3, 3), name="conv2b")(x)
    x = Mixed3a(conv, name="mixed3a")(x)  # 73
    x = Mixed4a(conv, name="mixed4a")(x)  # 71
    return Mixed5a(conv, name="mixed5a")(x)  # 35


class InceptionA(nn.Module):
    """Figure 4: (N, 35, 35, C) -> (N, 35, 35, 384)."""

    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1, b3, b33, pool = side_by_side(
            x,
            conv(96, (1, 1), name="branch1x1"),
            conv(64, (1, 1), name="branch3x3_1"),
            conv(64, (1, 1), name="branch3x3dbl_1"),
            self.pool_conv(96, name="branch_pool"),
        )
        b3 = conv(96, (3, 3), name="branch3x3_2")(b3)
        b33 = conv(96, (3, 3), name="branch3x3dbl_2")(b33)
        b33 = conv(96, (3, 3), name="branch3x3dbl_3")(b33)
        return jnp.concatenate([b1, b3, b33, pool], axis=-1)


class ReductionA(nn.Module):
    """Figure 7, k, l, m, n = 192, 224, 256, 384: (N, 35, 35, C) -> (N, 17, 17, 640 + C)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2, padding="VALID")
        b3 = halve(384, (3, 3), name="branch3x3")(x)
        b33 = conv(192, (1, 1), name="branch3x3dbl_1")(x)
        b33 = conv(224, (3, 3), name="branch3x3dbl_2")(b33)
        b33 = halve(256, (3, 3), name="branch3x3dbl_3")(b33)
        return jnp.concatenate([b3, b33, max_pool(x, 3, 2)], axis=-1)


class InceptionB(nn.Module):
    """Figure 5: (N, 17, 17, C) -> (N, 17, 17, 1024).

    In its longest branch the figure prints 1x7 where 1x7 and 7x1 are meant.
    """

    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1, b7, b77, pool = side_by_side(
            x,
            conv(384, (1, 1), name="branch1x1"),
            conv(192, (1, 1), name="branch7x7_1"),
            conv(192, (1, 1), name="branch7x7dbl_1"),
            self.pool_conv(128, name="branch_pool"),
        )
        b7 = conv(224, (1, 7), name="branch7x7_2")(b7)
        b7 = conv(256, (7, 1), name="branch7x7_3")(b7)
        b77 = conv(192, (7, 1), name="branch7x7dbl_2")(b77)
        b77 = conv(224, (1, 7), name="branch7x7dbl_3")(b77)
        b77 = conv(224, (7, 1), name="branch7x7dbl_4")(b77)
        b77 = conv(256, (1, 7), name="branch7x7dbl_5")(b77)
        return jnp.concatenate([b1, b7, b77, pool], axis=-1)


class ReductionB(nn.Module):
    """Figure 8: (N, 17, 17, C) -> (N, 8, 8, 512 + C)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2, padding="VALID")
        b3, b7 = side_by_side(
            x,
            conv(192, (1, 1), name="branch3x3_1"),
            conv(256, (1, 1), name="branch7x7x3_1"),
        )
        b3 = halve(192, (3, 3), name="branch3x3_2")(b3)
        b7 = conv(256, (1, 7), name="branch7x7x3_2")(b7)
        b7 = conv(320, (7, 1), name="branch7x7x3_3")(b7)
        b7 = halve(320, (3, 3), name="branch7x7x3_4")(b7)
        return jnp.concatenate([b3, b7, max_pool(x, 3, 2)], axis=-1)


class InceptionC(nn.Module):
    """Figure 6: (N, 8, 8, C) -> (N, 8, 8, 1536)."""

    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1 = conv(256, (1, 1), name="branch1x1")(x)
        b3 = conv(384, (1, 1), name="branch3x3_1")(x)
        b3a = conv(256, (1, 3), name="branch3x3_2a")(b3)
        b3b = conv(256, (3, 1), name="branch3x3_2b")(b3)
        b33 = conv(384, (1, 1), name="branch3x3dbl_1")(x)
        b33 = conv(448, (3, 1), name="branch3x3dbl_2")(b33)
        b33 = conv(512, (1, 3), name="branch3x3dbl_3")(b33)
        b33a = conv(256, (1, 3), name="branch3x3dbl_4a")(b33)
        b33b = conv(256, (3, 1), name="branch3x3dbl_4b")(b33)
        pool = self.pool_conv(256, name="branch_pool")(x)
        return jnp.concatenate([b1, b3a, b3b, b33a, b33b, pool], axis=-1)


class InceptionV4(nn.Module):
    """Images (N, 299, 299, 3) to `Outputs`; 42,679,816 parameters for 1000 classes."""

    num_classes: int = 1000
    dropout: float = DROPOUT
    aux: bool = False
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        require_size(x, 75, "inception_v4")
        with_aux = self.aux and train
        if with_aux:
            require_size(x, 299, "inception_v4's auxiliary head (aux=False leaves it out)")

        layer = dict(norm=batch_norm(self, train), kernel_init=he_normal, dtype=self.dtype)
        conv = partial(ConvBN, **layer)
        pool_conv = partial(PooledConvBN, **layer)
        a = nn.remat(InceptionA) if self.remat else InceptionA
        b = nn.remat(InceptionB) if self.remat else InceptionB
        c = nn.remat(InceptionC) if self.remat else InceptionC

        x = stem(conv, pool_conv, x)  # 35
        for name in ("mixed5b", "mixed5c", "mixed5d", "mixed5e"):
            x = a(conv, pool_conv, name=name)(x)
        x = ReductionA(conv, name="mixed6a")(x)  # 17
        for name in ("mixed6b", "mixed6c", "mixed6d", "mixed6e", "mixed6f", "mixed6g", "mixed6h"):
            x = b(conv, pool_conv, name=name)(x)
        aux = (AuxHead(self.num_classes, conv, name="aux")(x),) if with_aux else ()
        x = ReductionB(conv, name="mixed7a")(x)  # 8
        for name in ("mixed7b", "mixed7c", "mixed7d"):
            x = c(conv, pool_conv, name=name)(x)
        features = global_avg_pool(x)  # 1536
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        dense = dict(kernel_init=glorot_uniform, dtype=jnp.float32)
        return Outputs(nn.Dense(self.num_classes, name="head", **dense)(x), aux, features)
