"""Auxiliary classifiers: they bring gradients to the middle of a network, in training only."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.layers import adaptive_avg_pool, avg_pool, global_avg_pool


class GridAuxHead(nn.Module):
    """That of Inception v1 and v2: (N, H, W, C) -> (N, num_classes) float32.

    The map pooled to 4x4, a 1x1 convolution, 1024 hidden units, dropout, a dense layer. The paper
    pools 14x14 by windows of 5 at stride 3; other maps, and all with `adaptive` (torchvision), are
    averaged to 4x4 whatever their size.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # of the 1x1
    hidden: Callable[..., nn.Module]  # of the hidden units: a convolution over the whole map
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
        head = nn.Dense(
            self.num_classes, kernel_init=self.head_init, dtype=jnp.float32, name="head"
        )
        return head(x)


class AuxHead(nn.Module):
    """That of Inception v3, v4 and Inception-ResNet-v2: (N, 17, 17, C) -> (N, num_classes) float32.

    The 5x5 over the whole pooled map is the fully connected layer of Inception v1's heads; `bn`
    normalises it too ("BN-auxiliary" of the v3 paper). On a larger map it slides, and its answers
    are averaged.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # a partial(ConvBN, norm=…)
    bn: bool = True
    conv1_init: Callable = nn.initializers.he_normal()
    head_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bare: dict[str, Any] = {"norm": lambda name: lambda x: x, "use_bias": True}
        norm = {} if self.bn else bare
        conv1 = dict(padding="VALID", kernel_init=self.conv1_init, **norm)
        x = avg_pool(x, 5, 3)  # 5
        x = self.conv(128, (1, 1), name="conv0")(x)
        x = self.conv(768, (5, 5), name="conv1", **conv1)(x)  # 1
        x = global_avg_pool(x)
        head = nn.Dense(
            self.num_classes, kernel_init=self.head_init, dtype=jnp.float32, name="head"
        )
        return head(x)
