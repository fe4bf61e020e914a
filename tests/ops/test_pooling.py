"""Pooling on a CPU against Flax's plain pooling: values, gradients, types and NaN."""

from functools import partial

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from cnnjax.models.layers import Conv, ConvBN, MaxPool, PooledConvBN
from cnnjax.ops import plain, pooling
from cnnjax.ops.pooling import avg_pool, max_pool
from cnnjax.ops.strided import windows
from cnnjax.stages import apply_with_stages
from tests.helpers import assert_trees_close

CASES = [
    (2, 2, "VALID"),
    (3, 2, "VALID"),
    (3, 1, "SAME"),
    (3, 2, "SAME"),
    (5, 3, "VALID"),
    (3, 2, ((0, 1), (1, 0))),
]


def image(dtype=jnp.float32):
    """Images without equal values, so that each maximum is unique."""
    numbers = np.random.RandomState(0).permutation(2 * 11 * 12 * 3).reshape(2, 11, 12, 3)
    return jnp.asarray(numbers / 100 - 4, dtype)


def with_gradient(pool, x):
    y, back = jax.vjp(pool, x)
    return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.mark.parametrize(("window", "stride", "padding"), CASES)
@pytest.mark.parametrize("kind", ["max", "avg", "avg with padding"])
def test_equals_the_plain_one(kind, window, stride, padding):
    shape = dict(window_shape=(window, window), strides=(stride, stride), padding=padding)
    if kind == "max":
        ways = (lambda x: max_pool(x, window, stride, padding)), (lambda x: nn.max_pool(x, **shape))
    else:
        count = kind == "avg with padding"
        ways = (
            lambda x: avg_pool(x, window, stride, padding, count_pad=count),
            lambda x: nn.avg_pool(x, **shape, count_include_pad=count),
        )
    ours, plain = (jax.jit(lambda x, way=way: with_gradient(way, x))(image()) for way in ways)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(("window", "stride", "padding"), CASES)
def test_of_equal_ones_the_first_gets_the_gradient(window, stride, padding):
    """The first in reading order, as with Flax's plain pooling."""
    x = jnp.asarray(np.random.RandomState(0).randint(0, 3, (2, 11, 12, 3)), jnp.float32)
    _, ours = with_gradient(lambda x: max_pool(x, window, stride, padding), x)
    _, plain = with_gradient(
        lambda x: nn.max_pool(x, (window, window), (stride, stride), padding), x
    )
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6)


def test_a_window_that_does_not_fit_gives_an_empty_map():
    assert max_pool(image(), 12, 1).shape == avg_pool(image(), 12, 1).shape == (2, 0, 1, 3)


def test_what_is_not_a_number_is_not_lost():
    for place in range(4):
        x = jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(max_pool(x, 2, 2)).all() and jnp.isnan(avg_pool(x, 2, 2)).all()


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_maximum_keeps_bfloat16(padding):
    assert max_pool(image(jnp.bfloat16), 3, 2, padding).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [1, 2, 5, 11, 12])
@pytest.mark.parametrize(
    ("window", "stride"), [(1, 1), (3, 1), (2, 2), (3, 2), (5, 2), (4, 3), (2, 5)]
)
def test_windows_are_slices(window, stride, size):
    """The values, and through gradients with one factor for each slice, the places."""
    x = jnp.asarray(np.random.RandomState(0).rand(2, size, 3), jnp.float32)
    starts = range(max(0, size - window + 1))[::stride]

    def plain(x):
        return [
            jnp.stack([x[:, i + start] for start in starts], 1) if starts else x[:, :0]
            for i in range(window)
        ]

    def total(cut, x):
        return sum(jnp.sum(factor * part**2) for factor, part in enumerate(cut(x), 1))

    def ours(x):
        return windows(x, window, stride, 1)

    for a, b in zip(ours(x), plain(x), strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = [jax.grad(lambda x, cut=cut: total(cut, x)) for cut in (ours, plain)]
    np.testing.assert_allclose(*(gradient(x) for gradient in gradients), rtol=1e-6)
    second = [jax.jvp(gradient, (x,), (x + 1,))[1] for gradient in gradients]
    np.testing.assert_allclose(*second, rtol=1e-6)
    np.testing.assert_allclose(
        *(jax.vmap(lambda x, cut=cut: total(cut, x[None]))(x) for cut in (ours, plain)), rtol=1e-6
    )


@pytest.mark.parametrize("count_pad", [False, True])
def test_pooled_conv_bn_is_pooling_then_a_1x1_convolution(count_pad):
    """With a bias, which must not be averaged with padding."""
    options = dict(norm=lambda name: lambda x: x, use_bias=True, activation=jnp.tanh)
    kernel, bias = jax.random.normal(jax.random.key(0), (3, 4)), jnp.arange(1.0, 5.0) / 4
    variables = {"params": {"conv": {"kernel": kernel[None, None], "bias": bias}}}
    x = image() / 4
    pooled = avg_pool(x, 3, 1, "SAME", count_pad=count_pad)
    expected = ConvBN(4, (1, 1), **options).apply(variables, pooled)
    ours = PooledConvBN(4, count_pad=count_pad, **options).apply(variables, x)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
def test_max_pooling_commutes_with_bias_and_relu(window, stride, dtype):
    """What accelerators run: the same values, and gradients of kernel and image, to the bit."""
    layer = Conv(4, (3, 3), activation=nn.relu, dtype=dtype, bias_init=nn.initializers.normal())
    variables = layer.init(jax.random.key(0), image())

    def in_order(variables, x):
        return max_pool(layer.apply(variables, x), window, stride)

    def pool_first(variables, x):
        bare = layer.clone(use_bias=False, activation=None)
        kernel = {"params": {"kernel": variables["params"]["kernel"]}}
        y = max_pool(bare.apply(kernel, x), window, stride)
        return nn.relu(y + variables["params"]["bias"].astype(dtype))

    def ours(variables, x):
        return max_pool(layer.apply(variables, x, before_pool=True), window, stride)

    def results(way):
        def total(variables, x):
            y = way(variables, x)
            return jnp.sum(y.astype(jnp.float32) ** 2), y

        (kernel, x), y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(variables, image())
        return y, x, kernel["params"]["kernel"], kernel["params"]["bias"]

    expected, first, found = map(results, (in_order, pool_first, ours))
    for a, b in zip(found, expected, strict=True):  # on a CPU nothing changes
        np.testing.assert_array_equal(a, b)
    *first, bias = first
    for a, b in zip(first, expected[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(bias, expected[-1], rtol=1e-5 if dtype == jnp.float32 else 0.05)


def train_layer(layer, variables, x, pool, apart):
    """(result, gradients, running averages) of a layer and the max pooling after it."""

    def total(params, x):
        every = variables | {"params": params}
        y, averages = layer.apply(every, x, mutable=["batch_stats"], before_pool=not apart)
        y = pool(y)
        return jnp.sum(jnp.cos(y.astype(jnp.float32))), (y, averages)

    gradients, (y, averages) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(
        variables["params"], x
    )
    return y, gradients, averages


def layers(dtype):
    """BatchNorm with scales of both signs, and with none."""
    normal = nn.initializers.normal(1.0)
    for scale in (True, False):
        norm = partial(
            nn.BatchNorm,
            use_running_average=False,
            momentum=0.9,
            use_scale=scale,
            scale_init=normal,
            bias_init=normal,
            dtype=dtype,
        )
        yield ConvBN(4, (3, 3), norm, dtype=dtype)


@pytest.mark.parametrize("pool", [MaxPool(3, 2, "SAME"), MaxPool(3, 2, "CEIL")])
def test_a_layer_may_come_after_its_max_pooling(pool, monkeypatch):
    """On a CPU and on accelerators: the same values and gradients.

    In bfloat16 several numbers round to the same maximum. Pooling before the rounding of BatchNorm
    finds the right one, so its gradients are no further from those of float32.
    """
    for layer, half in zip(layers(jnp.float32), layers(jnp.bfloat16), strict=True):
        variables = layer.init(jax.random.key(1), image())
        if "scale" in variables["params"].get("bn", {}):
            scale = variables["params"]["bn"]["scale"]
            assert scale.min() < 0 < scale.max()

        def train(layer, apart, variables=variables):
            y, gradients, averages = train_layer(layer, variables, image(), pool, apart)
            return (y, averages), jax.flatten_util.ravel_pytree(gradients)[0]

        def on_accelerators(layer, train=train):
            with monkeypatch.context() as patch:
                patch.setattr(pooling, "by_platform", lambda *xs, default, **_: default(*xs))
                return train(layer, apart=False)

        values, exact = train(layer, apart=True)
        for found, gradients in (train(layer, apart=False), on_accelerators(layer)):
            assert_trees_close(found, values, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(gradients, exact, rtol=1e-3, atol=1e-3)

        values, gradients = train(half, apart=True)
        limit = 1.1 * jnp.linalg.norm(gradients - exact)
        for found, gradients in (train(half, apart=False), on_accelerators(half)):
            assert_trees_close(found, values, rtol=0.01, atol=0.03)
            assert jnp.linalg.norm(gradients - exact) <= limit


def test_accelerators_pool_first():
    """And the plain functions do not."""
    for layer in (Conv(4, (3, 3), activation=nn.relu), *layers(jnp.float32)):
        variables = layer.init(jax.random.key(0), image())

        def train(variables, x, layer=layer):
            y, averages = layer.apply(variables, x, mutable=["batch_stats"], before_pool=True)
            return MaxPool(2, 2)(y), averages

        def pools_first(train=train, variables=variables):
            traced = jax.jit(lambda *arguments: train(*arguments)).trace(variables, image())
            text = traced.lower(lowering_platforms=("tpu",)).as_text()
            return text.index("reduce_window") < text.index("call @relu")

        assert pools_first()
        with plain():
            assert not pools_first()


class Stem(nn.Module):
    """A convolution with BatchNorm, and the pooling after it."""

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=False)
        x = ConvBN(4, (3, 3), norm, name="conv1")(x, before_pool=True)
        return MaxPool(2, 2, name="pool1")(x)


def test_a_layer_whose_result_is_looked_at_gives_it():
    """In training too: as a stage, with a shift, and to `capture_intermediates`."""
    stem = Stem()
    variables = freeze(stem.init(jax.random.key(0), image()))
    options = dict(mutable=["batch_stats", "intermediates"])
    (y, _), stages = apply_with_stages(stem, variables, image(), mutable=["batch_stats"])
    np.testing.assert_allclose(max_pool(stages["conv1"], 2, 2), y, rtol=1e-5, atol=1e-5)
    assert stages["pool1"] is y

    shift = {"conv1": jnp.ones_like(stages["conv1"])}
    apply = partial(apply_with_stages, stem, variables, image(), mutable=["batch_stats"])
    (shifted, _), _ = apply(shifts=shift)
    np.testing.assert_allclose(shifted, y + 1, rtol=1e-5, atol=1e-5)

    _, found = stem.apply(variables, image(), capture_intermediates=True, **options)
    (conv1,) = found["intermediates"]["conv1"]["__call__"]
    np.testing.assert_allclose(conv1, stages["conv1"], rtol=1e-5, atol=1e-5)
