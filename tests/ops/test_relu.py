"""`relu_of_sum` is ReLU, and a CPU computes each sum once."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.activation import relu_of_sum
from train.parallel import each_row

SHAPE = (2, 3, 4, 5)


def images(*first):
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    x.flat[: len(first)] = first
    return jnp.asarray(x)


@pytest.mark.parametrize("first", [(-1.0,), (0.0, -0.0, 2.0), (np.nan, 1.0), (1.0, np.nan, np.inf)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_is_relu(first, dtype):
    x, weight = images(*first).astype(dtype), images()

    def everything(relu):
        def total(x):
            return jnp.sum(weight * relu(x))

        one_by_one = jax.vmap(lambda image: relu(image[None])[0])
        second = jax.grad(lambda x: jnp.sum(jax.grad(total)(x) * x))
        return (
            relu(x),
            jax.grad(total)(x),
            jax.jvp(relu, (x,), (weight.astype(dtype),)),
            one_by_one(x),
            second(x),
        )

    for a, b in zip(
        *(
            jax.tree.leaves(jax.jit(everything, static_argnums=0)(relu))
            for relu in (relu_of_sum, nn.relu)
        )
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(*(np.asarray(value, np.float32) for value in (a, b)))


def test_no_images_stay_none():
    assert relu_of_sum(jnp.zeros((0, 3, 4, 5))).shape == (0, 3, 4, 5)


def chain(x, weights):
    for weight in weights:
        x = relu_of_sum(x + x @ weight)
    return x


def test_on_a_cpu_no_sum_is_computed_from_those_of_blocks_before():
    abstract = (
        jax.ShapeDtypeStruct((4, 32, 32, 64), jnp.float32),
        [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 6,
    )
    text = jax.jit(chain).lower(*abstract).compile().as_text()
    operands = [found.count("%") for found in re.findall(r" fusion\(([^)]*)\)", text)]
    assert operands and max(operands) <= 3


def test_an_accelerator_gets_plain_relu():
    text = jax.jit(relu_of_sum).trace(images()).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.maximum" in text and "stablehlo.compare" not in text


def test_devices_that_share_a_batch_do_not_ask_each_other():
    """The condition reads a single pixel, which lies on one device only."""
    weights = [jnp.eye(5) * scale for scale in (0.5, 2.0, -0.3)]
    rows = np.random.default_rng(0).standard_normal((4, 3, 4, 5), np.float32)
    run, where, count = each_row(lambda weights, rows: chain(rows, weights), weights, devices=2)
    assert count == 2
    text = jax.jit(run).lower(where, rows).compile().as_text()
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective", text)
    np.testing.assert_allclose(run(where, rows), chain(rows, weights), rtol=1e-6)
