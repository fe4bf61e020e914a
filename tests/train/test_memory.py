"""What a step keeps: products alone or everything, to the same result; and parameters are updated without a copy."""

import dataclasses
import os
import re
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from cnnjax import Outputs
from cnnjax.layers import Conv, ConvBN, global_avg_pool
from tests.helpers import assert_trees_close
from train import config, losses, parallel, state, step
from train.build import Task
from train.config import Config, Data, Loss, Model, Optim
from train.errors import UserError

HASTY = {"xla_backend_optimization_level": 0}  # the plan of the memory is made before


def task(name="inception_v1_bn", keep="auto", size=64, devices=1, **options):
    return Task(
        Config(
            model=Model(name=name, keep=keep, options=options),
            data=Data(source=f"synthetic:{size}x{size}x3/10", batch_size=8),
            parallel=config.Parallel(devices=devices),
            optim=Optim(lr=0.01, schedule="constant"),
        )
    )


class Deep(nn.Module):
    """Nothing but layers with BatchNorm, whose activations are most of what a step needs."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, axis_name=step.AXIS)
        for number in range(6):
            x = ConvBN(16, (3, 3), norm, name=f"conv{number}")(x)
        features = global_avg_pool(x)
        return Outputs(nn.Dense(10, name="head")(features), (), features)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_products_alone_take_much_less_memory_and_give_the_same_update(mapping):
    spread, model, tx = parallel.Parallel(mapping, 1), Deep(), optax.sgd(0.1)
    random, key = np.random.RandomState(0), jax.random.key(0)
    batch = spread.place({"image": random.randint(0, 256, (8, 32, 32, 3)).astype(np.uint8), "label": np.arange(8) % 10})
    share = partial(
        step.train_step, model=model, tx=tx, loss_fn=partial(losses.objective, **dataclasses.asdict(Loss())),
        preprocess=partial(step.normalize, mean=(0.5,), std=(0.5,)), alone=True,
    )  # fmt: skip
    results, planned = {}, {}
    for keep in (False, True):
        current = spread.replicate(state.create_state(model, tx, key, image_shape=(32, 32, 3), ema=False))
        program = spread.map(partial(share, keep_products=keep), split=(False, True, False)).lower(current, batch, key)
        program = program.compile(compiler_options=HASTY)
        planned[keep] = program.memory_analysis().temp_size_in_bytes
        results[keep] = jax.device_get(program(current, batch, key))
    assert planned[True] < 0.7 * planned[False]
    assert_trees_close(results[False], results[True], rtol=1e-4, atol=1e-5)


def test_of_a_convolution_by_tiles_its_result_is_kept_and_not_its_sixteen_products():
    layer, images = Conv(128, (3, 3)), jax.numpy.ones((4, 16, 16, 256))
    variables = layer.init(jax.random.key(0), images)

    def forward(variables, images):
        return jax.numpy.sin(layer.apply(variables, jax.numpy.sin(images)))

    policy = step.keeping(step.PRODUCTS)
    result, gradient = jax.vjp(jax.checkpoint(forward, policy=policy), variables, images)
    kept = sum(leaf.size for leaf in jax.tree.leaves(gradient))
    assert kept == images.size + result.size + sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_auto_keeps_products_where_it_was_measured_to_cost_nothing():
    assert task().keeps_products
    assert not task(keep="all").keeps_products and not task(devices=2).keeps_products
    assert not task("alexnet_owt").keeps_products and task("alexnet_owt", "products").keeps_products
    with pytest.raises(UserError, match=r"model\.keep='product' is unknown; did you mean products"):
        task(keep="product")


def test_parameters_are_updated_in_place(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    parallel.spare_copies()
    parallel.spare_copies()
    others, flag = os.environ["XLA_FLAGS"].split()
    assert others == "--xla_force_host_platform_device_count=2"
    name, value = flag.removeprefix("--").split("=")
    made = task("alexnet_owt")

    def copied(wanted):
        batch = made.spread.place(next(made.batches(0)))
        lowered = made.step.lower(made.abstract_state, batch, made.key)
        text = lowered.compile(compiler_options=HASTY | {name: wanted}).as_text()
        return len(re.findall(r"= f32\[\d{4,},4096\]\S* copy\(", text))  # the kernels of fc6 and fc7

    assert value == "true" and copied(True) == 0 < copied(False)
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=false")
    parallel.spare_copies()
    assert os.environ["XLA_FLAGS"] == f"--{name}=false"
