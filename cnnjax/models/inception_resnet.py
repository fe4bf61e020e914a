"""Inception-ResNet. Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the impact
of residual connections on learning, 2016, sections 3.2 and 3.3 and Figures 10 to 20.

    stage      branches, concatenated in this order; widths: V1 | V2                  map at 299
    stem       V1: 3x3/2 32, 3x3 32, 3x3 64, max pool/2, 1x1 80, 3x3 192, 3x3/2 256   35²x256
               V2: the same with max pool/2 as the last layer, then mixed5b           35²x320
               V2_PAPER: Inception-v4's                                               35²x384
    block35    1x1 32 | 1x1 32, 3x3 32 | 1x1 32, 3x3 32|48, 3x3 32|64; up             35²
    mixed6a    3x3/2 384 | 1x1 192|256, 3x3 192|256, 3x3/2 256|384 | max pool/2       17²x896|1088
    block17    1x1 128|192 | 1x1 128, 1x7 128|160, 7x1 128|192; up                    17²
    mixed7a    1x1 256, 3x3/2 384 | 1x1 256, 3x3/2 256|288                             8²x1792|2080
               | 1x1 256, 3x3 256|288, 3x3/2 256|320 | max pool/2
    block8     1x1 192 | 1x1 192, 1x3 192|224, 3x1 192|256; up                         8²

`up` is a 1x1 convolution back to the width of the block's input. It has a bias, but no
normalisation and no activation. A block returns relu(x + scale * up). The four networks differ in
how often blocks repeat and in what surrounds them:

    V1          5, 10, 5     the figures; no ImageNet weights are published
    V1_FACENET  5, 10, 5+1   facenet's: one more block8, with scale 1 and no ReLU, and a bottleneck
                             of 512 features before the classifier
    V2          10, 20, 9+1  as the authors released it: all published accuracies and weights are
                             this network's
    V2_PAPER    5, 10, 5     the figures, with the widths that their branches add up to (1152, 2144)

Stages have TF-slim's names, except that its Block8 is block8_10 (facenet: block8_6). Branches have
Inception-v3's names. The paper has no auxiliary head: the one after the last block17 is TF-slim's.

The ideas to see here:
- what a shortcut is worth when all else stays the same (`residual=False` removes it);
- why wide residual branches must be scaled down before the sum (`residual_scale=1.0` does not).

One paper, one file.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.heads import AuxHead
from cnnjax.models.inception_v4 import stem as stem_v4
from cnnjax.models.initializers import glorot_uniform
from cnnjax.models.layers import (
    Conv,
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
from cnnjax.ops.activation import relu_of_sum
from cnnjax.ops.pooling import Deferred

BN_DECAY = 0.9  # timm and facenet-pytorch; TF-slim 0.9997, facenet 0.995, Keras 0.99
BN_EPSILON = 1e-3  # all of them
DROPOUT = 0.2  # "keep 0.8", Figure 15
# Of block35, block17 and block8 in every released network; the paper says 0.1 to 0.3.
RESIDUAL_SCALE = (0.17, 0.10, 0.20)

Branches = tuple[tuple[int, ...], ...]  # the widths of a module's convolutions, branch by branch


class Mixed5b(nn.Module):
    """The Inception module after V2's released stem: (N, 35, 35, C) -> (N, 35, 35, 320)."""

    conv: Callable[..., nn.Module]
    pool_conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = self.conv
        b1, b5, b33, pool = side_by_side(
            x,
            conv(96, (1, 1), name="branch1x1"),
            conv(48, (1, 1), name="branch5x5_1"),
            conv(64, (1, 1), name="branch3x3dbl_1"),
            self.pool_conv(64, name="branch_pool"),
        )
        b5 = conv(64, (5, 5), name="branch5x5_2")(b5)
        b33 = conv(96, (3, 3), name="branch3x3dbl_2")(b33)
        b33 = conv(96, (3, 3), name="branch3x3dbl_3")(b33)
        return jnp.concatenate([b1, b5, b33, pool], axis=-1)


def first_layers(
    conv: Callable[..., nn.Module], x: jax.Array, *, before_pool: bool = False
) -> jax.Array | Deferred:
    """The first layers of both stems and of Inception-v3: (N, 299, 299, C) -> (N, 71, 71, 192).

    With `before_pool` the result goes straight to a max pooling.
    """
    x = conv(32, (3, 3), strides=2, padding="VALID", name="conv1a")(x)  # 149
    x = conv(32, (3, 3), padding="VALID", name="conv2a")(x)  # 147
    x = conv(64, (3, 3), name="conv2b")(x, before_pool=True)
    x = MaxPool(3, 2, name="pool3a")(x)  # 73
    x = conv(80, (1, 1), name="conv3b")(x)
    return conv(192, (3, 3), padding="VALID", name="conv4a")(x, before_pool=before_pool)  # 71


def stem_v1(
    conv: Callable[..., nn.Module], pool_conv: Callable[..., nn.Module], x: jax.Array
) -> jax.Array:
    """Figure 14: (N, 299, 299, C) -> (N, 35, 35, 256)."""
    maps = first_layers(conv, x)
    return conv(256, (3, 3), strides=2, padding="VALID", name="conv4b")(maps)  # 35


def stem_v2(
    conv: Callable[..., nn.Module], pool_conv: Callable[..., nn.Module], x: jax.Array
) -> jax.Array:
    """As released: (N, 299, 299, C) -> (N, 35, 35, 320)."""
    maps = first_layers(conv, x, before_pool=True)
    x = MaxPool(3, 2, name="pool5a")(maps)  # 35
    return Mixed5b(conv, pool_conv, name="mixed5b")(x)


class Plan(NamedTuple):
    """A network: its stem, the widths of its modules, how often its blocks repeat, and its end."""

    stem: Callable[[Callable[..., nn.Module], Callable[..., nn.Module], jax.Array], jax.Array]
    block35: Branches
    mixed6a: Branches
    block17: Branches
    mixed7a: Branches
    block8: Branches
    repeats: tuple[int, int, int]  # block35, block17, block8
    linear_end: bool = False  # one more block8, with scale 1 and without ReLU
    conv7b: int = 0  # width of a last 1x1 convolution
    bottleneck: int = 0  # width of a dense layer with BatchNorm before the classifier


V1 = Plan(
    stem=stem_v1,
    block35=((32,), (32, 32), (32, 32, 32)),
    mixed6a=((384,), (192, 192, 256)),
    block17=((128,), (128, 128, 128)),
    mixed7a=((256, 384), (256, 256), (256, 256, 256)),
    block8=((192,), (192, 192, 192)),
    repeats=(5, 10, 5),
)
V1_FACENET = V1._replace(linear_end=True, bottleneck=512)
V2 = Plan(
    stem=stem_v2,
    block35=((32,), (32, 32), (32, 48, 64)),
    mixed6a=((384,), (256, 256, 384)),
    block17=((192,), (128, 160, 192)),
    mixed7a=((256, 384), (256, 288), (256, 288, 320)),
    block8=((192,), (192, 224, 256)),
    repeats=(10, 20, 9),
    linear_end=True,
    conv7b=1536,
)
V2_PAPER = V2._replace(stem=stem_v4, repeats=(5, 10, 5), linear_end=False, conv7b=0)


def merge(x, branches, *, up, scale, residual, activation=relu_of_sum):
    """The end of every block: activation(x + scale * up(branches)), of the shape of `x`."""
    y = up(x.shape[-1], (1, 1), name="up")(jnp.concatenate(branches, axis=-1))
    return activation(x + scale * y if residual else y)


class Block35(nn.Module):
    """Inception-ResNet-A, Figures 10 and 16: (N, 35, 35, C) -> (N, 35, 35, C)."""

    widths: Branches
    conv: Callable[..., nn.Module]
    merge: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, (w1, w3, w33) = self.conv, self.widths
        b1, b3, b33 = side_by_side(
            x,
            conv(w1[0], (1, 1), name="branch1x1"),
            conv(w3[0], (1, 1), name="branch3x3_1"),
            conv(w33[0], (1, 1), name="branch3x3dbl_1"),
        )
        b3 = conv(w3[1], (3, 3), name="branch3x3_2")(b3)
        b33 = conv(w33[1], (3, 3), name="branch3x3dbl_2")(b33)
        b33 = conv(w33[2], (3, 3), name="branch3x3dbl_3")(b33)
        return self.merge(x, [b1, b3, b33])


class Mixed6a(nn.Module):
    """Reduction-A, Figure 7: (N, 35, 35, C) -> (N, 17, 17, widths + C)."""

    widths: Branches
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2, padding="VALID")
        w3, w33 = self.widths
        b3 = halve(w3[0], (3, 3), name="branch3x3")(x)
        b33 = conv(w33[0], (1, 1), name="branch3x3dbl_1")(x)
        b33 = conv(w33[1], (3, 3), name="branch3x3dbl_2")(b33)
        b33 = halve(w33[2], (3, 3), name="branch3x3dbl_3")(b33)
        return jnp.concatenate([b3, b33, max_pool(x, 3, 2)], axis=-1)


class Block17(nn.Module):
    """Inception-ResNet-B, Figures 11 and 17: (N, 17, 17, C) -> (N, 17, 17, C)."""

    widths: Branches
    conv: Callable[..., nn.Module]
    merge: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, (w1, w7) = self.conv, self.widths
        b1, b7 = side_by_side(
            x,
            conv(w1[0], (1, 1), name="branch1x1"),
            conv(w7[0], (1, 1), name="branch7x7_1"),
        )
        b7 = conv(w7[1], (1, 7), name="branch7x7_2")(b7)
        b7 = conv(w7[2], (7, 1), name="branch7x7_3")(b7)
        return self.merge(x, [b1, b7])


class Mixed7a(nn.Module):
    """Reduction-B, Figures 12 and 18: (N, 17, 17, C) -> (N, 8, 8, widths + C)."""

    widths: Branches
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, halve = self.conv, partial(self.conv, strides=2, padding="VALID")
        wa, wb, w33 = self.widths
        b3a, b3b, b33 = side_by_side(
            x,
            conv(wa[0], (1, 1), name="branch3x3a_1"),
            conv(wb[0], (1, 1), name="branch3x3b_1"),
            conv(w33[0], (1, 1), name="branch3x3dbl_1"),
        )
        b3a = halve(wa[1], (3, 3), name="branch3x3a_2")(b3a)
        b3b = halve(wb[1], (3, 3), name="branch3x3b_2")(b3b)
        b33 = conv(w33[1], (3, 3), name="branch3x3dbl_2")(b33)
        b33 = halve(w33[2], (3, 3), name="branch3x3dbl_3")(b33)
        return jnp.concatenate([b3a, b3b, b33, max_pool(x, 3, 2)], axis=-1)


class Block8(nn.Module):
    """Inception-ResNet-C, Figures 13 and 19: (N, 8, 8, C) -> (N, 8, 8, C)."""

    widths: Branches
    conv: Callable[..., nn.Module]
    merge: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv, (w1, w3) = self.conv, self.widths
        b1, b3 = side_by_side(
            x,
            conv(w1[0], (1, 1), name="branch1x1"),
            conv(w3[0], (1, 1), name="branch3x3_1"),
        )
        b3 = conv(w3[1], (1, 3), name="branch3x3_2")(b3)
        b3 = conv(w3[2], (3, 1), name="branch3x3_3")(b3)
        return self.merge(x, [b1, b3])


class InceptionResNet(nn.Module):
    """Images (N, 299, 299, 3) to `Outputs`.

    With 1000 classes V1 has 22,756,328 parameters and V2 55,843,464.
    """

    plan: Plan = V2
    num_classes: int = 1000
    dropout: float = DROPOUT
    aux: bool = False
    residual: bool = True
    residual_scale: float | tuple[float, float, float] = RESIDUAL_SCALE
    bn_axis: str | None = None
    bn_momentum: float = BN_DECAY
    bn_epsilon: float = BN_EPSILON
    bn_scale: bool = True
    bn_frozen: bool = False
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        require_size(x, 75, "Inception-ResNet")
        with_aux = self.aux and train
        if with_aux:
            require_size(x, 299, "Inception-ResNet's auxiliary head (aux=False leaves it out)")

        norm = batch_norm(self, train)
        layer = dict(norm=norm, kernel_init=glorot_uniform, dtype=self.dtype)
        conv, pool_conv = partial(ConvBN, **layer), partial(PooledConvBN, **layer)
        up = partial(Conv, kernel_init=glorot_uniform, dtype=self.dtype)
        scales = self.residual_scale
        if isinstance(scales, int | float):
            scales = (scales,) * 3
        merge35, merge17, merge8 = (
            partial(merge, up=up, scale=scale, residual=self.residual) for scale in scales
        )
        block35 = nn.remat(Block35) if self.remat else Block35
        block17 = nn.remat(Block17) if self.remat else Block17
        block8 = nn.remat(Block8) if self.remat else Block8

        plan, (a, b, c) = self.plan, self.plan.repeats
        x = plan.stem(conv, pool_conv, x)  # 35
        for name in (f"block35_{i}" for i in range(1, a + 1)):
            x = block35(plan.block35, conv, merge35, name=name)(x)
        x = Mixed6a(plan.mixed6a, conv, name="mixed6a")(x)  # 17
        for name in (f"block17_{i}" for i in range(1, b + 1)):
            x = block17(plan.block17, conv, merge17, name=name)(x)
        head = partial(AuxHead, self.num_classes, conv, conv1_init=glorot_uniform)
        aux = (head(name="aux")(x),) if with_aux else ()
        x = Mixed7a(plan.mixed7a, conv, name="mixed7a")(x)  # 8
        for name in (f"block8_{i}" for i in range(1, c + 1)):
            x = block8(plan.block8, conv, merge8, name=name)(x)
        if plan.linear_end:
            name, linear = f"block8_{c + 1}", partial(merge8, scale=1.0, activation=lambda x: x)
            x = block8(plan.block8, conv, linear, name=name)(x)
        if plan.conv7b:
            x = conv(plan.conv7b, (1, 1), name="conv7b")(x)
        features = global_avg_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        dense = partial(nn.Dense, kernel_init=glorot_uniform, dtype=jnp.float32)
        if plan.bottleneck:
            x = dense(plan.bottleneck, use_bias=False, name="bottleneck")(x)
            features = x = norm(dtype=jnp.float32, name="bottleneck_bn")(x)
        return Outputs(dense(self.num_classes, name="head")(x), aux, features)
