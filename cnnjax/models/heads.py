"""Auxiliary classifiers: in training they bring gradients to the middle of a network."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.layers import adaptive_avg_pool, avg_pool, global_avg_pool


class GridAuxHead(nn.Module):
    """The head of Inception v1 and v2: (N, H, W, C) -> (N, num_classes) float32.

    Average pooling to 4x4, a 1x1 convolution, 1024 hidden units, dropout, a dense layer. The paper
    pools a 14x14 map by windows of 5 at stride 3. Maps of other sizes are then averaged to 4x4.
    With `adaptive` (torchvision) every map is averaged to 4x4 at once.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # builds the 1x1 convolution
    hidden: Callable[..., nn.Module]  # builds the hidden units: a convolution over the whole map
    dropout: float
    adaptive: bool = False
    head_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.adaptive and min(x.shape[1:3]) >= 5:
            x = avg_pool(x, 5, 3)
        x = adaptive_avg_pool(x, 4)  # 4
        x = self.conv(128, (1, 1), name="conv")(x)
        x = self.hidden(1024, (4, 4), padding="VALID", name="fc")(x)  # 1
        x = nn.Dropout(self.dropout, deterministic=False)(x.reshape(x.shape[0], -1))
        dense = dict(kernel_init=self.head_init, dtype=jnp.float32)
        return nn.Dense(self.num_classes, name="head", **dense)(x)


class AuxHead(nn.Module):
    """The head of Inception v3, v4 and Inception-ResNet-v2.

    (N, 17, 17, C) -> (N, num_classes) float32. The 5x5 convolution covers the whole pooled map: it
    is the fully connected layer of Inception v1's heads. `bn` normalises it too ("BN-auxiliary" of
    the v3 paper). On a larger map the convolution slides, and its results are averaged.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # a partial(ConvBN, norm=…)
    bn: bool = True
    conv1_init: Callable = nn.initializers.he_normal()
    head_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv1: dict[str, Any] = dict(padding="VALID", kernel_init=self.conv1_init)
        if not self.bn:
            conv1 |= dict(norm=lambda name: lambda x: x, use_bias=True)
        x = avg_pool(x, 5, 3)  # 5
        x = self.conv(128, (1, 1), name="conv0")(x)
        x = self.conv(768, (5, 5), name="conv1", **conv1)(x)  # 1
        x = global_avg_pool(x)
        dense = dict(kernel_init=self.head_init, dtype=jnp.float32)
        return nn.Dense(self.num_classes, name="head", **dense)(x)
