"""What the networks share: their output, convolutions, pooling and normalisation. NHWC throughout."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops import pooling
from cnnjax.ops.convolve import convolve
from cnnjax.ops.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool

__all__ = [
    "AvgPool",
    "Conv",
    "ConvBN",
    "ConvRelu",
    "Dense",
    "MaxPool",
    "Outputs",
    "Padding",
    "PooledConvBN",
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
    "global_avg_pool",
    "local_response_norm",
    "max_pool",
    "require_size",
]

Padding = str | Sequence[tuple[int, int]]
Activation = Callable[[jax.Array], jax.Array]


class Outputs(NamedTuple):
    """What every model returns, in training and in evaluation."""

    logits: jax.Array  # (N, num_classes) float32, before the softmax
    aux: tuple[
        jax.Array, ...
    ]  # logits of the auxiliary heads, nearest the input first; () in evaluation
    features: jax.Array  # (N, D): what the classifier reads


def require_size(x: jax.Array, smallest: int, model: str) -> None:
    """Raises ValueError when an image is smaller than the network's geometry allows."""
    if x.ndim != 4:
        raise ValueError(f"{model} takes images of shape (N, H, W, C), got {x.shape}")
    height, width = x.shape[1:3]
    if min(height, width) < smallest:
        raise ValueError(
            f"{model} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}"
        )


# -------------------------------------------------------------------------------- with parameters


class Conv(nn.Conv):
    """`nn.Conv` with an activation: (N, H, W, C) -> (N, H', W', features)."""

    conv_general_dilated: Any = convolve
    activation: Activation | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = super().__call__(x)
        return self.activation(x) if self.activation else x


class Dense(nn.Dense):
    """`nn.Dense` with an activation: (N, C) -> (N, features)."""

    activation: Activation | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = super().__call__(x)
        return self.activation(x) if self.activation else x


class ConvRelu(nn.Module):
    """Convolution with a bias, ReLU: (N, H, W, C) -> (N, H', W', features).

    It takes the place of `ConvBN` in a network without BatchNorm.
    """

    features: int
    kernel: tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv(
            self.features,
            self.kernel,
            self.strides,
            self.padding,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            activation=nn.relu,
            name="conv",
        )
        return conv(x)


def batch_norm(network: nn.Module, train: bool) -> Callable[..., nn.Module]:
    """`nn.BatchNorm` as a network's `bn_…` fields have it; `bn_frozen` normalises as in evaluation."""
    net: Any = network
    return partial(
        nn.BatchNorm,
        use_running_average=net.bn_frozen or not train,
        momentum=net.bn_momentum,
        epsilon=net.bn_epsilon,
        use_scale=net.bn_scale,
        axis_name=net.bn_axis,
        dtype=net.dtype,
    )


class ConvBN(nn.Module):
    """Convolution, BatchNorm, activation: (N, H, W, C) -> (N, H', W', features).

    Batch Normalization (2015), section 3.2. The convolution has no bias: BatchNorm's own shift
    takes its place. `norm` is what `batch_norm` returns, so that blocks know nothing of training,
    precision, or the axis over which statistics are synced.
    """

    features: int
    kernel: tuple[int, int]
    norm: Callable[..., nn.Module]
    strides: int = 1
    padding: Padding = "SAME"
    use_bias: bool = False
    activation: Activation = nn.relu
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _conv_bn(self, x, convolve)


def _conv_bn(layer: ConvBN, x: jax.Array, convolve: Callable[..., jax.Array]) -> jax.Array:
    conv = Conv(
        layer.features,
        layer.kernel,
        layer.strides,
        layer.padding,
        use_bias=layer.use_bias,
        kernel_init=layer.kernel_init,
        dtype=layer.dtype,
        conv_general_dilated=convolve,
        name="conv",
    )
    return layer.activation(layer.norm(name="bn")(conv(x)))


class PooledConvBN(ConvBN):
    """3x3 average pooling, then a 1x1 `ConvBN`: the last branch of most Inception modules.

    Both are sums with fixed weights, over pixels and over channels, so the order does not matter.
    The convolution goes first here, which leaves fewer channels to pool.
    """

    kernel: tuple[int, int] = (1, 1)
    norm: Callable[..., nn.Module] = nn.BatchNorm
    count_pad: bool = False  # divide by 9 at the edges too

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def convolve_and_pool(*args: Any, **options: Any) -> jax.Array:
            x = convolve(*args, **options)
            return avg_pool(x, 3, 1, "SAME", count_pad=self.count_pad)

        return _conv_bn(self, x, convolve_and_pool)


# ----------------------------------------------------------------------------- without parameters


class MaxPool(nn.Module):
    """`max_pool` with a name in the network: (N, H, W, C) -> (N, H', W', C)."""

    window: int
    stride: int
    padding: Padding = "VALID"

    def __call__(self, x: jax.Array) -> jax.Array:
        return pooling.max_pool(x, self.window, self.stride, self.padding)


class AvgPool(nn.Module):
    """`avg_pool` with a name in the network: (N, H, W, C) -> (N, H', W', C)."""

    window: int
    stride: int
    padding: Padding = "VALID"

    def __call__(self, x: jax.Array) -> jax.Array:
        return pooling.avg_pool(x, self.window, self.stride, self.padding)


def local_response_norm(
    x: jax.Array, *, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """x / (k + alpha * sum of squares over `size` neighbouring channels) ** beta.

    Krizhevsky et al. 2012, section 3.3. `alpha` is not divided by `size`, as in the paper; Caffe
    and torch divide, so their alpha is `size` times this one.
    """
    with jax.named_scope("lrn"):
        half = size // 2
        edges = ((0, 0), (0, 0), (0, 0), (half, size - 1 - half))
        squares = lax.square(x.astype(jnp.float32))
        total = lax.reduce_window(squares, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), edges)
        # `** -beta` has a gradient that takes three times as long on a CPU.
        return (x * jnp.exp(-beta * jnp.log(k + alpha * total))).astype(x.dtype)
