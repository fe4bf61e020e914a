"""What the networks share: outputs, convolutions, normalisation and pooling. Maps are NHWC."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.convolve import convolve, convolve_together
from cnnjax.ops.platform import is_plain
from cnnjax.ops.pooling import Deferred, adaptive_avg_pool, avg_pool, global_avg_pool, max_pool

__all__ = [
    "ACTIVATIONS",
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
    "side_by_side",
]

Padding = str | Sequence[tuple[int, int]]
Activation = Callable[[jax.Array], jax.Array]

# The values of the option `activation`: of the convolutions, and of the dense layers. "course" is
# the LeNet of the course that this project goes with.
ACTIVATIONS: dict[str, tuple[Activation, Activation]] = {
    "tanh": (nn.tanh, nn.tanh),
    "relu": (nn.relu, nn.relu),
    "course": (nn.tanh, nn.relu),
}


class Outputs(NamedTuple):
    """What every model returns, in training and in evaluation.

    Attributes:
        logits: (N, num_classes) float32, before the softmax.
        aux: the auxiliary heads' logits, the head nearest the input first. Empty in evaluation.
        features: (N, D), the input of the classifier.
    """

    logits: jax.Array
    aux: tuple[jax.Array, ...]
    features: jax.Array


def require_size(x: jax.Array, smallest: int, model: str) -> None:
    """Raises ValueError if the images are smaller than the network's geometry allows."""
    if x.ndim != 4:
        raise ValueError(f"{model} takes images of shape (N, H, W, C), got {x.shape}")
    height, width = x.shape[1:3]
    if min(height, width) < smallest:
        raise ValueError(
            f"{model} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}"
        )


# -------------------------------------------------------------------------------- with parameters


def _undecorated(layer: Any) -> Callable[..., jax.Array]:
    """`layer.__call__` without the wrapper by which Flax enters the layer's scope again."""
    return layer.__call__.__wrapped__


def _may_defer(layer: nn.Module) -> bool:
    """Whether a layer before a pooling may leave its last functions to it.

    Not where its result is looked at: `capture_intermediates` expects a map.
    """
    return not is_plain() and not layer.is_mutable_collection("intermediates")


class Conv(nn.Conv):
    """`nn.Conv` with an activation: (N, H, W, C) -> (N, H', W', features)."""

    conv_general_dilated: Any = convolve
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, before_pool: bool = False) -> jax.Array | Deferred:
        """With `before_pool` the result goes straight to `max_pool`, which may apply the ReLU."""
        if not before_pool or self.activation is not nn.relu or not _may_defer(self):
            x = _undecorated(nn.Conv)(self, x)
            return self.activation(x) if self.activation else x
        bare = self.clone(parent=self, use_bias=False, activation=None, name="bare")
        nn.share_scope(self, bare)  # its kernel is this layer's
        with nn.override_named_call(False):
            x = bare(x)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return Deferred(x, lambda x, bias: nn.relu(x + bias), (bias.astype(x.dtype),))


class Dense(nn.Dense):
    """`nn.Dense` with an activation: (N, C) -> (N, features)."""

    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _undecorated(nn.Dense)(self, x)
        return self.activation(x) if self.activation else x


class ConvRelu(nn.Module):
    """Convolution with a bias, ReLU: (N, H, W, C) -> (N, H', W', features).

    A network without BatchNorm uses it in place of `ConvBN`.
    """

    features: int
    kernel: tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, before_pool: bool = False) -> jax.Array | Deferred:
        """`before_pool` as in `Conv`."""
        inits = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
        options = dict(dtype=self.dtype, activation=nn.relu, name="conv", **inits)
        conv = Conv(self.features, self.kernel, self.strides, self.padding, **options)
        return conv(x, before_pool=before_pool)


def batch_norm(network: nn.Module, train: bool) -> Callable[..., nn.Module]:
    """`nn.BatchNorm` with the options of a network's `bn_…` fields and its `dtype`.

    `bn_frozen` normalises by the moving statistics in training too, and leaves them as they are.
    """
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

    Ioffe, Szegedy: Batch normalization, 2015, section 3.2. The convolution has no bias, because
    BatchNorm adds one. `norm` is the result of `batch_norm`, so blocks need not know whether the
    network trains, at which precision, or over which axis statistics are synced.
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
    def __call__(
        self, x: jax.Array, product: jax.Array | None = None, *, before_pool: bool = False
    ) -> jax.Array | Deferred:
        """`product` is the convolution's result, where it is there already.

        With `before_pool` the result goes straight to `max_pool`, which in training may apply
        BatchNorm and ReLU.
        """
        norm = self.norm(name="bn")
        if before_pool and product is None and _may_defer_norm(self, norm):
            return _conv_bn_relu(self, norm, x)
        x = _conv(self, x, convolve if product is None else lambda *_, **__: product)
        return self.activation(norm(x))


class PooledConvBN(ConvBN):
    """3x3 average pooling, then a 1x1 `ConvBN`: (N, H, W, C) -> (N, H, W, features).

    The last branch of most Inception modules. Pooling sums over pixels and the convolution over
    channels, so their order does not change the result. The code convolves first and thus pools
    fewer channels.
    """

    kernel: tuple[int, int] = (1, 1)
    norm: Callable[..., nn.Module] = nn.BatchNorm
    count_pad: bool = False  # whether to divide by 9 at the edges too

    @nn.compact
    def __call__(self, x: jax.Array, product: jax.Array | None = None) -> jax.Array:
        """`product` is the convolution's result before the pooling, where it is there already."""

        def convolve_and_pool(*args: Any, **options: Any) -> jax.Array:
            x = convolve(*args, **options) if product is None else product
            return avg_pool(x, 3, 1, "SAME", count_pad=self.count_pad)

        return self.activation(self.norm(name="bn")(_conv(self, x, convolve_and_pool)))


def _conv(layer: ConvBN, x: jax.Array, convolve: Callable[..., jax.Array]) -> jax.Array:
    """The convolution of a `ConvBN`, computed by `convolve`."""
    options = dict(use_bias=layer.use_bias, kernel_init=layer.kernel_init, dtype=layer.dtype)
    shape = layer.features, layer.kernel, layer.strides, layer.padding
    return Conv(*shape, conv_general_dilated=convolve, name="conv", **options)(x)


def _may_defer_norm(layer: ConvBN, norm: nn.BatchNorm) -> bool:
    """Whether to defer BatchNorm and ReLU: in training, after initialisation."""
    if layer.activation is not nn.relu or layer.use_bias or not _may_defer(layer):
        return False
    return not norm.use_running_average and "batch_stats" in norm.variables


def _conv_bn_relu(layer: ConvBN, norm: nn.BatchNorm, x: jax.Array) -> Deferred:
    """A `ConvBN` in training, with BatchNorm and ReLU deferred.

    It has the formulas of `nn.BatchNorm`, which measures and normalises the same map. Here the
    statistics are those of the whole map, and the pooled one is normalised. Where BatchNorm's scale
    is negative, kernel and scale are negated, so that BatchNorm increases.
    """
    params, averages = (norm.variables[kind] for kind in ("params", "batch_stats"))
    scale = params.get("scale", jnp.ones(layer.features))
    sign = jnp.where(scale < 0, -1.0, 1.0)

    def signed(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
        return convolve(x, kernel * sign.astype(kernel.dtype), *args, **options)

    x = _conv(layer, x, signed)
    dtype = nn.dtypes.canonicalize_dtype(x, *params.values(), dtype=norm.dtype)
    with jax.named_scope("bn"):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        moments = jnp.stack([wide.mean((0, 1, 2)), lax.square(wide).mean((0, 1, 2))])
        mean, squares = lax.pmean(moments, norm.axis_name) if norm.axis_name else moments
        var = jnp.maximum(0.0, squares - lax.square(mean))
        for key, value in (("mean", sign * mean), ("var", var)):
            average = norm.momentum * averages[key] + (1 - norm.momentum) * value
            norm.put_variable("batch_stats", key, average)
        scale = lax.rsqrt(var + norm.epsilon) * (sign * scale)

    def norm_relu(x: jax.Array, mean: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        with jax.named_scope("bn"):
            x = ((x - mean) * scale + bias).astype(dtype)
        return nn.relu(x)

    return Deferred(x, norm_relu, (mean, scale, params["bias"]))


def side_by_side(x: jax.Array, *layers: nn.Module) -> list[jax.Array]:
    """1x1 layers of the same map, at stride 1: their results.

    The convolutions of several `ConvBN`s are one product where that is faster.
    """
    bound = [layer.variables.get("params") for layer in layers]
    if not all(params and isinstance(layer, ConvBN) for params, layer in zip(bound, layers)):
        return [layer(x) for layer in layers]  # for initial values, and without BatchNorm
    kernels = [params["conv"]["kernel"] for params in bound]
    image, *kernels = nn.dtypes.promote_dtype(x, *kernels, dtype=layers[0].dtype)
    products = convolve_together(image, kernels, [f"{layer.name}/conv" for layer in layers])
    return [layer(x, product) for layer, product in zip(layers, products)]


# ----------------------------------------------------------------------------- without parameters


class MaxPool(nn.Module):
    """`max_pool` as a named layer of a network: (N, H, W, C) -> (N, H', W', C)."""

    window: int
    stride: int
    padding: Padding = "VALID"

    def __call__(self, x: jax.Array | Deferred) -> jax.Array:
        return max_pool(x, self.window, self.stride, self.padding, name=None)


class AvgPool(nn.Module):
    """`avg_pool` as a named layer of a network: (N, H, W, C) -> (N, H', W', C)."""

    window: int
    stride: int
    padding: Padding = "VALID"

    def __call__(self, x: jax.Array) -> jax.Array:
        return avg_pool(x, self.window, self.stride, self.padding, name=None)


def local_response_norm(
    x: jax.Array, *, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """x / (k + alpha * sum of squares over `size` neighbouring channels) ** beta.

    (N, H, W, C) -> (N, H, W, C). Krizhevsky et al. 2012, section 3.3. As in the paper, `alpha` is
    not divided by `size`. Caffe and torch divide by it, so their alpha is `size` times this one.
    """
    with jax.named_scope("lrn"):
        half = size // 2
        edges = ((0, 0), (0, 0), (0, 0), (half, size - 1 - half))
        squares = lax.square(x.astype(jnp.float32))
        total = lax.reduce_window(squares, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), edges)
        # `** -beta` has a slower gradient on a CPU.
        return (x * jnp.exp(-beta * jnp.log(k + alpha * total))).astype(x.dtype)
