"""1x1 layers of one map: on a TPU one product computes them all, elsewhere each is its own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.layers import ConvBN, PooledConvBN, batch_norm, side_by_side
from cnnjax.models.vgg import VGG
from cnnjax.ops import plain
from cnnjax.ops.convolve import NHWC, convolve_together
from tests.helpers import assert_trees_close

KERNELS = [jax.random.normal(jax.random.key(i), (1, 1, 5, width)) for i, width in enumerate((3, 4))]


def lowered(function, platform, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def together(x):
    return convolve_together(x, KERNELS, ["a", "b"])


def test_each_result_is_its_own_convolution():
    x = jax.random.normal(jax.random.key(9), (2, 4, 4, 5))
    for kernel, result in zip(KERNELS, together(x), strict=True):
        expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_one_product_on_a_tpu_only():
    x = jnp.zeros((2, 4, 4, 5))
    texts = {platform: lowered(together, platform, x) for platform in ("tpu", "cuda")}
    counts = {platform: text.count("stablehlo.convolution") for platform, text in texts.items()}
    assert counts == {"tpu": 1, "cuda": 2}
    assert "tensor<1x1x5x7xf32>" in texts["tpu"]
    with plain():
        assert lowered(lambda x: together(x), "tpu", x).count("stablehlo.convolution") == 2


class Branches(nn.Module):
    """Two 1x1 branches, and one after a pooling."""

    apart: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        options = dict(kernel=(1, 1), norm=batch_norm(VGG(), True), dtype=self.dtype)
        layers = (
            ConvBN(3, name="branch1x1", **options),
            ConvBN(4, name="branch3x3_1", **options),
            PooledConvBN(2, name="branch_pool", **options),
        )
        results = [layer(x) for layer in layers] if self.apart else side_by_side(x, *layers)
        return jnp.concatenate(results, -1)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_on_a_cpu_nothing_changes(dtype):
    """Initial values, results and gradients are those of layers that are called one by one."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 8))

    def everything(apart):
        model = Branches(apart, dtype)
        variables = model.init(jax.random.key(1), x)

        def loss(params, x):
            y, _ = model.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return jnp.sum(y.astype(jnp.float32) ** 3), y

        gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)
        return (variables, gradients[0], y), gradients[1]

    together, apart = everything(False), everything(True)
    assert_trees_close(together[0], apart[0])
    # bfloat16 rounds the image's gradient, a sum over the layers, in another order.
    np.testing.assert_allclose(together[1], apart[1], atol=0 if dtype is None else 2**-4)
