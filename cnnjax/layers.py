"""What the networks share: the output type, convolution, pooling and local response normalisation. NHWC throughout."""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cnnjax.convolve import convolve
from cnnjax.strided import windows

Padding = str | Sequence[tuple[int, int]]


class Outputs(NamedTuple):
    """What every model returns, in training and in evaluation."""

    logits: jax.Array  # (N, num_classes) float32, before the softmax
    aux: tuple[jax.Array, ...]  # logits of the auxiliary heads, nearest the input first; () in evaluation
    features: jax.Array  # (N, D): what the classifier reads


def stage(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Names a feature map, so that `apply(…, mutable=["stages"])` returns it under that name. Free otherwise.

    A variable of that name in the collection "shifts" is added to it: with respect to which there are gradients.
    """
    if module.has_variable("shifts", name):
        x = x + module.get_variable("shifts", name)
    # Not `sow`: it takes names away from the children, and a stage bears the name of the layer that ends it.
    if module.is_mutable_collection("stages") and not module.is_initializing():
        module.put_variable("stages", name, x)
    return x


def require_size(x: jax.Array, smallest: int, model: str) -> None:
    """Raises ValueError when an image is smaller than the network's geometry allows."""
    if x.ndim != 4:
        raise ValueError(f"{model} takes images of shape (N, H, W, C), got {x.shape}")
    if min(x.shape[1:3]) < smallest:
        raise ValueError(
            f"{model} needs images of at least {smallest}x{smallest} pixels, got {x.shape[1]}x{x.shape[2]}"
        )


# ---------------------------------------------------------------------------------------------- convolution

Conv = partial(nn.Conv, conv_general_dilated=convolve)


class ConvRelu(nn.Module):
    """Convolution with a bias, ReLU: (N, H, W, C) -> (N, H', W', features). The place of `ConvBN` without BatchNorm."""

    features: int
    kernel: tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(Conv(self.features, self.kernel, self.strides, self.padding, kernel_init=self.kernel_init,
                            bias_init=self.bias_init, dtype=self.dtype, name="conv")(x))  # fmt: skip


class ConvBN(nn.Module):
    """Convolution, BatchNorm, activation: (N, H, W, C) -> (N, H', W', features). Batch Normalization (2015), section 3.2.

    The convolution has no bias: BatchNorm's own shift takes its place. `norm` is a `partial(nn.BatchNorm, …)` that the network
    makes once, so that blocks know nothing of training, precision or the axis over which statistics are synced.

    `pool` is an average pooling at a stride of 1 before a 1x1 convolution. Both are sums with fixed weights, over pixels and
    over channels, so it does not matter which comes first: here the convolution does, which leaves less to pool. ValueError
    where the convolution is another.
    """

    features: int
    kernel: tuple[int, int]
    norm: Callable[..., nn.Module]
    strides: int = 1
    padding: Padding = "SAME"
    use_bias: bool = False
    pool: Callable[[jax.Array], jax.Array] | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pool = self.pool or (lambda x: x)
        if self.pool and (*self.kernel, self.strides, isinstance(self.padding, str)) != (1, 1, 1, True):
            raise ValueError(
                f"pooling commutes with a 1x1 convolution, not with {self.kernel} at stride {self.strides} and "
                f"padding {self.padding}"
            )

        def convolve_and_pool(*args, **options):  # the bias comes behind both
            return pool(convolve(*args, **options))

        x = nn.Conv(self.features, self.kernel, self.strides, self.padding, use_bias=self.use_bias, name="conv",
                    kernel_init=self.kernel_init, dtype=self.dtype, conv_general_dilated=convolve_and_pool)(x)  # fmt: skip
        return self.activation(self.norm(name="bn")(x))


# ---------------------------------------------------------------------------------------------- normalisation


def local_response_norm(
    x: jax.Array, *, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """x / (k + alpha * sum of squares over `size` neighbouring channels) ** beta. Krizhevsky et al. 2012, section 3.3.

    `alpha` is not divided by `size`, as in the paper; Caffe and torch divide, so their alpha is `size` times this one.
    """
    with jax.named_scope("lrn"):
        half = size // 2
        squares = lax.square(x.astype(jnp.float32))
        total = lax.reduce_window(
            squares, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (half, size - 1 - half))
        )
        # Not `** -beta`: on a CPU its gradient takes three times as long.
        return (x * jnp.exp(-beta * jnp.log(k + alpha * total))).astype(x.dtype)


# ---------------------------------------------------------------------------------------------- activation


@jax.custom_jvp
def relu_of_sum(x: jax.Array) -> jax.Array:
    """ReLU of a sum that several read, computed once: (N, H, W, C) to the same.

    XLA on a CPU computes a sum anew wherever it is read: in a residual network that of the last block from what all blocks
    before have added, which it has to keep for that. It does not look into a condition. The gradient needs the result alone.
    IndexError for fewer than four axes.
    """

    def apart(y):
        corner = y[:1, :1, :1, :1].sum()
        return lax.cond(corner >= 0, lambda y: y, nn.relu, y)  # the same either way, and XLA does not know it

    return checkpoint_name(lax.platform_dependent(nn.relu(x), cpu=apart, default=lambda y: y), "relu")


@relu_of_sum.defjvp
def _(primals, tangents):
    (x,), (tangent,) = primals, tangents
    y = relu_of_sum(x)
    return y, jnp.where(y > 0, tangent, 0)


# ---------------------------------------------------------------------------------------------- pooling


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = "VALID", *, name: str = "pool") -> jax.Array:
    """Square max pooling, (N, H, W, C) -> (N, H', W', C); padded cells never win. `name` labels it in traces and tables.

    `padding="CEIL"` is Caffe's rule: the last window may hang over the edge, so that no cell is left out.
    """
    if padding == "CEIL":
        padding = [(0, -(size - window) % stride if size > window else window - size) for size in x.shape[1:3]]

    def larger(a, b):
        return jnp.where((a >= b) | jnp.isnan(a), a, b)  # of equal ones the first: it alone gets the gradient

    with jax.named_scope(name):
        return lax.platform_dependent(
            x,
            cpu=partial(_in_turn, window=window, stride=stride, padding=padding, start=-jnp.inf, combine=larger),
            default=partial(nn.max_pool, window_shape=(window, window), strides=(stride, stride), padding=padding),
        )


def avg_pool(x: jax.Array, window: int, stride: int, padding: Padding = "VALID", *, count_pad: bool = False,
             name: str = "pool") -> jax.Array:  # fmt: skip
    """Square average pooling, (N, H, W, C) -> (N, H', W', C).

    `count_pad` divides by the whole window at the edges, as torch does and TensorFlow does not.
    """
    count_pad = count_pad or padding == "VALID"

    def by_axis(x):
        add = partial(_in_turn, window=window, stride=stride, padding=padding, start=0, combine=jnp.add)
        return add(x) / (window**2 if count_pad else add(jnp.ones((1, *x.shape[1:3], 1))))

    with jax.named_scope(name):
        return lax.platform_dependent(
            x,
            cpu=by_axis,
            default=partial(nn.avg_pool, window_shape=(window, window), strides=(stride, stride), padding=padding,
                            count_include_pad=count_pad),
        )  # fmt: skip


def _in_turn(x: jax.Array, *, window: int, stride: int, padding: Padding, start: float, combine: Callable) -> jax.Array:
    """Pooling along the rows, then down the columns, by shifted slices: on a CPU its gradient takes a tenth of the time.

    (N, H, W, C) -> (N, H', W', C); `combine` joins two slices, `start` is what padding holds.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (window, window), (stride, stride), padding)
    x = lax.pad(x, jnp.asarray(start, x.dtype), [(0, 0, 0), *((*sides, 0) for sides in padding), (0, 0, 0)])
    for axis in (2, 1):  # in this order "the first" of equal ones is that of all other implementations
        x = functools.reduce(combine, windows(x, window, stride, axis))
    return x


def adaptive_avg_pool(x: jax.Array, size: int, *, name: str = "adaptive_pool") -> jax.Array:
    """(N, H, W, C) -> (N, size, size, C): cell i is the mean of the rows floor(i H / size) to ceil((i + 1) H / size).

    The rule of torch. Windows overlap where they do not divide the map; a map of this size stays as it is.
    """
    with jax.named_scope(name):
        for axis in (1, 2):
            if (length := x.shape[axis]) != size:
                edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
                cells = [lax.slice_in_dim(x, *edge, axis=axis).mean(axis, keepdims=True) for edge in edges]
                x = jnp.concatenate(cells, axis=axis)
        return x


def global_avg_pool(x: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, C): the mean over the whole map, in float32."""
    with jax.named_scope("global_pool"):
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


# ---------------------------------------------------------------------------------------------- heads


class GridAuxHead(nn.Module):
    """The auxiliary classifier of Inception v1 and v2: (N, H, W, C) -> (N, num_classes) float32.

    The map pooled to 4x4, a 1x1 convolution, 1024 hidden units, dropout, a dense layer. The paper pools 14x14 by windows
    of 5 at stride 3; other maps, and all with `adaptive` (torchvision), are averaged to 4x4 whatever their size.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # of the 1x1
    hidden: Callable[..., nn.Module]  # of the hidden units: a dense layer is a convolution over the whole map
    dropout: float
    adaptive: bool = False
    head_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.adaptive and min(x.shape[1:3]) >= 5:
            x = avg_pool(x, 5, 3)
        x = self.conv(128, (1, 1), name="conv")(adaptive_avg_pool(x, 4))  # 4
        x = self.hidden(1024, (4, 4), padding="VALID", name="fc")(x)  # 1
        x = nn.Dropout(self.dropout, deterministic=False)(x.reshape(x.shape[0], -1))  # heads exist in training only
        return nn.Dense(self.num_classes, kernel_init=self.head_init, dtype=jnp.float32, name="head")(x)


class AuxHead(nn.Module):
    """The auxiliary classifier of Inception v3, v4 and Inception-ResNet-v2: (N, 17, 17, C) -> (N, num_classes) float32.

    The 5x5 over the whole pooled map is the fully connected layer of Inception v1's heads; `bn` normalises it too
    ("BN-auxiliary" of the v3 paper). Behind a larger image it slides, and its answers are averaged.
    """

    num_classes: int
    conv: Callable[..., nn.Module]  # a partial(ConvBN, norm=…)
    bn: bool = True
    conv1_init: Callable = nn.initializers.he_normal()
    head_init: Callable = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        plain: dict[str, Any] = {} if self.bn else {"norm": lambda name: lambda x: x, "use_bias": True}
        x = avg_pool(x, 5, 3)  # 5
        x = self.conv(128, (1, 1), name="conv0")(x)
        x = self.conv(768, (5, 5), padding="VALID", kernel_init=self.conv1_init, name="conv1", **plain)(x)  # 1
        x = global_avg_pool(x)
        return nn.Dense(self.num_classes, kernel_init=self.head_init, dtype=jnp.float32, name="head")(x)
