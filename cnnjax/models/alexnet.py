"""AlexNet. Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural
networks, 2012.

    layer   kernel              alexnet (227²)      map after pooling      alexnet_owt (224²)
    conv1   11x11 /4             96, LRN, pool      27²                     64, pool
    conv2   5x5                 256, LRN, pool      13²    2 towers        192, pool
    conv3   3x3                 384                 13²                    384
    conv4   3x3                 384                 13²    2 towers        256
    conv5   3x3                 256, pool            6²    2 towers        256, pool
    fc6, fc7, head              4096, 4096, 1000

The ideas to see here:
- ReLU instead of tanh (`activation="tanh"` undoes it);
- two towers, one for each GPU of 2012: grouped convolutions that meet in conv3;
- local response normalisation (LRN);
- overlapping pooling: windows of 3 at stride 2;
- dropout in the two layers that hold 54 of the 61 million parameters.

`alexnet` is the paper's network. The paper prints an input of 224, but a 55x55 map after conv1
needs 227 pixels, since conv1 has no padding. `alexnet_owt` is what torchvision calls alexnet, after
Krizhevsky: One weird trick for parallelizing convolutional neural networks, 2014. It has one tower,
other widths and no LRN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.initializers import torch_uniform
from cnnjax.models.layers import (
    ACTIVATIONS,
    Activation,
    Conv,
    Dense,
    Outputs,
    adaptive_avg_pool,
    local_response_norm,
    max_pool,
    require_size,
)
from cnnjax.spelling import choice

Inits = tuple[Callable, Callable]  # initialisers of the kernel and of the bias


class Row(NamedTuple):
    """A convolution with its activation, and the layers that follow it."""

    features: int
    kernel: int
    strides: int = 1
    padding: int = 0
    towers: int = 1
    lrn: bool = False
    pool: bool = False


class Plan(NamedTuple):
    """One of the two networks."""

    name: str
    smallest: int  # side of the smallest image: the last pooling needs a 3x3 map
    convs: tuple[Row, ...]
    dropped: tuple[str, ...]  # dense layers with dropout before them
    inits: Callable[[str, int], Inits]  # called with a layer's name and its fan-in


def gaussian_2012(layer: str, fan_in: int) -> Inits:
    """The initialisation of section 5: biases of 1 give the ReLUs positive inputs at the start."""
    bias = 1.0 if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
    return nn.initializers.normal(0.01), nn.initializers.constant(bias)


def torch_default(layer: str, fan_in: int) -> Inits:
    """torch's default initialisation, which torchvision leaves in place."""
    return torch_uniform(fan_in), torch_uniform(fan_in)


TWO_TOWERS = Plan(
    "alexnet",
    67,
    (
        Row(96, 11, strides=4, lrn=True, pool=True),
        Row(256, 5, padding=2, towers=2, lrn=True, pool=True),
        Row(384, 3, padding=1),
        Row(384, 3, padding=1, towers=2),
        Row(256, 3, padding=1, towers=2, pool=True),
    ),
    dropped=("fc7", "head"),
    inits=gaussian_2012,
)
ONE_WEIRD_TRICK = Plan(
    "alexnet_owt",
    63,
    (
        Row(64, 11, strides=4, padding=2, pool=True),
        Row(192, 5, padding=2, pool=True),
        Row(384, 3, padding=1),
        Row(256, 3, padding=1),
        Row(256, 3, padding=1, pool=True),
    ),
    dropped=("fc6", "fc7"),
    inits=torch_default,
)


class Layer(nn.Module):
    """One row of a plan: (N, H, W, C) -> (N, H', W', features).

    Convolution and activation, then LRN and overlapping pooling if the row has them.
    """

    row: Row
    inits: Inits
    dtype: Any = None
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, (kernel_init, bias_init) = self.row, self.inits
        conv = Conv(
            row.features,
            (row.kernel, row.kernel),
            row.strides,
            ((row.padding, row.padding),) * 2,
            feature_group_count=row.towers,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=self.dtype,
            activation=self.activation,
            name="conv",
        )
        x = local_response_norm(conv(x)) if row.lrn else conv(x, before_pool=row.pool)
        return max_pool(x, 3, 2) if row.pool else x


class AlexNet(nn.Module):
    """Images (N, 227, 227, 3), or (N, 224, 224, 3) for `alexnet_owt`, to `Outputs`.

    For images of other sizes, the last map is averaged to 6x6, as in torchvision.
    """

    num_classes: int = 1000
    dtype: Any = None
    plan: Plan = TWO_TOWERS
    lrn: bool = True
    dropout: float = 0.5
    remat: bool = False
    activation: str = "relu"  # a key of ACTIVATIONS

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Outputs:
        plan = self.plan
        require_size(x, plan.smallest, plan.name)
        known = ACTIVATIONS[choice(f"{plan.name}'s activation", self.activation, ACTIVATIONS)]
        of_conv, of_dense = known
        Block = nn.remat(Layer) if self.remat else Layer
        for number, row in enumerate(plan.convs, 1):
            name = f"conv{number}"
            inits = plan.inits(name, row.kernel**2 * x.shape[-1] // row.towers)
            row = row._replace(lrn=row.lrn and self.lrn)
            x = Block(row, inits, self.dtype, of_conv, name=name)(x)  # 27, 13, 13, 13, 6

        def dense(x: jax.Array, name: str, features: int, **options: Any) -> jax.Array:
            if name in plan.dropped:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f"dropout_{name}")(x)
            kernel_init, bias_init = plan.inits(name, x.shape[-1])
            options |= dict(kernel_init=kernel_init, bias_init=bias_init, name=name)
            return Dense(features, **options)(x)

        x = adaptive_avg_pool(x, 6)
        x = x.reshape(x.shape[0], -1)  # 9216
        x = dense(x, "fc6", 4096, dtype=self.dtype, activation=of_dense)
        x = dense(x, "fc7", 4096, dtype=self.dtype, activation=of_dense)
        return Outputs(dense(x, "head", self.num_classes, dtype=jnp.float32), (), x)
