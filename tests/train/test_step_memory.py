"""The memory of a step: what the gradient keeps, the order of operations, updates in place."""

import dataclasses
import json
import re
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from cnnjax import Outputs, list_models
from cnnjax.models.layers import Conv, ConvBN
from cnnjax.ops.pooling import global_avg_pool
from tests.helpers import assert_trees_close, command
from train import config, losses, parallel, state, step
from train.build import Task
from train.config import Config, Data, Loss, Model, Optim
from train.errors import UserError
from train.runtime import xla
from train.start import is_small, recomputes

# Compiles fast; XLA plans the memory before it optimizes the code.
FAST = {"xla_backend_optimization_level": 0}


def make_task(name="inception_v1_bn", keep="auto", devices=1):
    return Task(
        Config(
            model=Model(name=name, keep=keep),
            data=Data(source="synthetic:64x64x3/10", batch_size=8),
            parallel=config.Parallel(devices=devices),
            optim=Optim(lr=0.01, schedule="constant"),
        )
    )


class Deep(nn.Module):
    """Layers with BatchNorm, whose activations are most of what a step needs."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, axis_name=step.AXIS
        )
        for number in range(6):
            x = ConvBN(16, (3, 3), norm, name=f"conv{number}")(x)
        features = global_avg_pool(x)
        return Outputs(nn.Dense(10, name="head")(features), (), features)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_products_alone_take_much_less_memory_and_give_the_same_update(mapping):
    spread, model, tx = parallel.Parallel(mapping, 1), Deep(), optax.sgd(0.1)
    random, key = np.random.RandomState(0), jax.random.key(0)
    images = random.randint(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    batch = spread.place({"image": images, "label": np.arange(8) % 10})
    share = partial(
        step.train_step,
        model=model,
        tx=tx,
        loss_fn=partial(losses.objective, **dataclasses.asdict(Loss())),
        preprocess=partial(step.normalize, mean=(0.5,), std=(0.5,)),
    )
    fresh = state.create_state(model, tx, key, image_shape=(32, 32, 3), ema=False)
    updates, planned = {}, {}
    for policy in (None, step.keep_products(exchanges=False)):
        current = spread.replicate(fresh)
        mapped = spread.map(partial(share, remat_policy=policy), split=(False, True, False))
        program = mapped.lower(current, batch, key).compile(compiler_options=FAST)
        planned[policy] = program.memory_analysis().temp_size_in_bytes
        updates[policy] = jax.device_get(program(current, batch, key))
    assert planned[policy] < 0.7 * planned[None]
    assert_trees_close(updates[None], updates[policy], rtol=1e-4, atol=1e-5)


def test_of_a_convolution_by_tiles_its_result_is_kept_and_not_its_sixteen_products():
    layer, images = Conv(128, (3, 3)), jax.numpy.ones((4, 16, 16, 256))
    variables = layer.init(jax.random.key(0), images)

    def forward(variables, images):
        return jax.numpy.sin(layer.apply(variables, jax.numpy.sin(images)))

    policy = step.keep_products(exchanges=False)
    result, gradient = jax.vjp(jax.checkpoint(forward, policy=policy), variables, images)
    size = sum(leaf.size for leaf in jax.tree.leaves(gradient))
    assert size == images.size + result.size + sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_auto_keeps_products_on_one_cpu_with_batchnorm():
    assert make_task().keeps_products
    assert not make_task(keep="all").keeps_products and not make_task(devices=2).keeps_products
    assert not make_task("alexnet_owt").keeps_products
    assert make_task("alexnet_owt", "products").keeps_products
    with pytest.raises(UserError, match=r"model\.keep='product' is unknown; did you mean products"):
        make_task(keep="product")


def test_parameters_are_updated_in_place():
    first, *_ = xla.flags("", recomputes=True, small=False).split()
    name, value = first.removeprefix("--").split("=")
    task = make_task("alexnet_owt")

    def copies(value):
        """How often the kernels of fc6 and fc7 are copied."""
        batch = task.spread.place(next(task.batches(0)))
        lowered = task.step.lower(task.abstract_state, batch, task.key)
        text = lowered.compile(compiler_options=FAST | {name: value}).as_text()
        return len(re.findall(r"= f32\[\d{4,},4096\]\S* copy\(", text))

    assert value == "true" and copies(True) == 0 < copies(False)


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("vgg11", {}, False),
        ("vgg11_bn", {}, True),
        ("vgg11_bn", {"keep": "all"}, False),
        ("vgg11", {"keep": "products"}, True),
        ("alexnet", {"options": {"remat": True}}, True),
        ("inception_v3", {}, True),
        ("inception_v1", {"options": {"batch_norm": True}}, True),
    ],
)
def test_what_recomputes_is_known_before_the_start(name, model, expected):
    assert recomputes(Config(model=Model(name=name, **model))) is expected


@pytest.mark.parametrize(
    ("name", "images", "expected"),
    [("lenet5", 512, True), ("lenet5", 513, False), ("vgg16", 1, False)],
)
def test_which_steps_are_small(name, images, expected):
    assert is_small(Config(model=Model(name=name), data=Data(batch_size=images))) is expected


def test_of_all_networks_only_lenets_are_small():
    one = Data(batch_size=1)
    small = [name for name in list_models() if is_small(Config(model=Model(name=name), data=one))]
    assert sorted(small) == ["lenet5", "lenet5_1998"]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "other"), [("vgg11", "true"), ("vgg11_bn", "false")])
def test_operations_are_ordered_for_what_the_step_keeps(name, other, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from train.benchmark.workloads import for_model\n\n"
        f"def get_config():\n    return for_model({name!r}, 64, size=64)\n"
    )

    def planned(flags=""):
        environment = {"XLA_FLAGS": f"--xla_backend_optimization_level=0 {flags}"}
        done = command("train", f"--config={recipe}", "--workdir=-", "--dry_run", env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["device_bytes"]

    assert planned() < 0.9 * planned(f"--xla_cpu_enable_concurrency_optimized_scheduler={other}")
