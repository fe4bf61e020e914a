"""The step: equal under both mappings and on any number of devices; it computes what a loop in
numpy would.
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import Outputs, create_model
from cnnjax.models.layers import ConvBN
from cnnjax.ops.pooling import global_avg_pool, max_pool
from tests.helpers import assert_trees_close
from train import losses, state, step
from train.config import Augment, Loss
from train.data import affine
from train.mix import warp
from train.optim import make_optimizer
from train.parallel import Parallel


class Small(nn.Module):
    """A network with everything a step has to carry: BatchNorm, also before a pooling, an auxiliary
    head, optional dropout.
    """

    num_classes: int = 10
    dropout: float = 0.0
    bn_axis: str | None = "data"
    bn_frozen: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(
            nn.BatchNorm,
            use_running_average=self.bn_frozen or not train,
            momentum=0.9,
            axis_name=self.bn_axis,
        )
        x = max_pool(ConvBN(8, (3, 3), norm, name="conv1")(x, before_pool=True), 2, 2)
        aux = (nn.Dense(self.num_classes, name="aux")(global_avg_pool(x)),) if train else ()
        x = ConvBN(8, (3, 3), norm, strides=2, name="conv2")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(global_avg_pool(x))
        return Outputs(nn.Dense(self.num_classes, name="head")(x), aux, x)


def run(
    model, mapping, devices, steps=20, shape=(8, 8, 1), batch=16, distorted=None, trains=None, **own
):
    """Parameters, statistics and metrics after some steps on fixed random data.

    `trains` is the layer whose parameters alone are updated; `own` are arguments of the step.
    """
    spread = Parallel(mapping, devices)
    tx = make_optimizer("sgd", lambda _: 0.1, lr_scale=[f"^{trains}/=1", "=0"] if trains else ())
    loss_fn = partial(losses.objective, **dataclasses.asdict(Loss(label_smoothing=0.1)))
    preprocess = partial(step.normalize, mean=(0.5,), std=(0.5,))
    create = jax.jit(partial(state.create_state, model, tx, image_shape=shape, ema=True))
    current = spread.replicate(create(jax.random.key(0)))
    share = partial(
        step.train_step, model=model, tx=tx, loss_fn=loss_fn, preprocess=preprocess, ema=0.9, **own
    )
    mapped = spread.map(share, split=(False, True, False), donate=True)
    random = np.random.RandomState(0)
    for number in range(steps):
        images = random.randint(0, 256, (batch, *shape)).astype(np.uint8)
        labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
        values = {"image": images, "label": labels, "mask": np.ones(batch, bool)}
        if distorted:
            positions = np.arange(number * batch, (number + 1) * batch)
            values["affine"] = affine.draw(distorted, 0, positions, *shape[:2])
        current, metrics = mapped(current, spread.shard(values), jax.random.key(1))
        jax.block_until_ready(metrics)
    return jax.device_get((current, metrics))


def run_lenet(mapping, devices):
    digits = Augment(rotate=12, scale=0.12, shear=0.1, shift=2)
    return run(create_model("lenet5"), mapping, devices, shape=(28, 28, 1), distorted=digits)


@pytest.fixture(scope="module")
def reference():
    return {"small": run(Small(), "pmap", 1), "lenet5": run_lenet("pmap", 1)}


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [1, 4])
def test_mappings_and_devices_agree_with_synced_batchnorm(reference, mapping, devices):
    assert_trees_close(run(Small(), mapping, devices), reference["small"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("mapping", "devices"), [("pmap", 4), ("shard_map", 1), ("shard_map", 4)])
def test_lenet_on_distorted_images_on_any_devices(reference, mapping, devices):
    final, _ = run_lenet(mapping, devices)
    assert_trees_close(final.params, reference["lenet5"][0].params, atol=1e-6)


@pytest.mark.parity
def test_distortion_is_done_before_all_else(reference):
    """A step on images and transforms is one on the distorted images, as a whole and in parts; and
    not one on the images.
    """
    model, shape, random = create_model("lenet5"), (28, 28, 1), np.random.RandomState(0)
    batch = {
        "image": random.randint(0, 256, (16, *shape)).astype(np.uint8),
        "label": np.arange(16, dtype=np.int32) % 10,
    }
    transforms = affine.draw(Augment(rotate=20, shift=3), 0, np.arange(16), *shape[:2])
    distorted = batch | {
        "image": np.asarray(warp(jnp.asarray(batch["image"]), jnp.asarray(transforms)))
    }
    tx, loss_fn = optax.sgd(0.1), partial(losses.objective, **dataclasses.asdict(Loss()))
    before = state.create_state(model, tx, jax.random.key(0), image_shape=shape)
    share = partial(step.train_step, model=model, tx=tx, loss_fn=loss_fn)
    share = partial(share, preprocess=partial(step.normalize, mean=(0.5,), std=(0.5,)))

    def after(batch, parts):
        return jax.jit(partial(share, accumulate=parts))(before, batch, jax.random.key(1))[0].params

    expected = after(distorted, 1)
    for parts in (1, 2):
        assert_trees_close(after(batch | {"affine": transforms}, parts), expected, atol=1e-6)
    plain = after(batch, 1)
    assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (plain, expected)))) > 1e-4


def test_statistics_of_each_device_differ_from_the_synced_ones(reference):
    local, _ = run(Small(bn_axis=None), "pmap", 4)
    distance = jnp.abs(
        local.params["conv2"]["conv"]["kernel"]
        - reference["small"][0].params["conv2"]["conv"]["kernel"]
    ).max()
    assert distance > 1e-4


def test_dropout_depends_on_step_and_device_and_repeats():
    first, again = (run(Small(dropout=0.5), "shard_map", 2, steps=2) for _ in range(2))
    assert_trees_close(first, again)
    plain, _ = run(Small(), "shard_map", 2, steps=2)
    assert np.abs(first[0].params["head"]["kernel"] - plain.params["head"]["kernel"]).max() > 1e-4


def test_moving_average_covers_statistics(reference):
    final, _ = reference["small"]
    assert set(final.ema) == {"params", "batch_stats"}
    assert final.variables is final.ema
    change = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), final.ema["batch_stats"], final.batch_stats
    )
    assert min(jax.tree.leaves(change)) > 0


def test_one_step_is_plain_gradient_descent():
    """Against the gradient of an independently written loss, outside any map."""
    model, shape = create_model("lenet5"), (28, 28, 1)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (16, *shape)).astype(np.uint8)
    labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
    create = jax.jit(partial(state.create_state, model, optax.sgd(0.1), image_shape=shape))
    before = create(jax.random.key(0)).params

    @jax.jit
    def loss(params):
        logits = model.apply({"params": params}, (images / 255 - 0.5) / 0.5, train=True).logits
        targets = 0.9 * np.eye(10)[labels] + 0.01
        return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.grad(loss)(before))
    final, metrics = run(model, "pmap", 4, steps=1, shape=shape)
    assert_trees_close(final.params, expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss(before), rtol=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    from train.errors import UserError

    with pytest.raises(
        UserError, match=r"data\.batch_size=6 must be a positive multiple of the 4 device"
    ):
        Parallel("pmap", 4).check("data.batch_size", 6)


def all_but_head(params):
    return jax.tree.map_with_path(lambda path, _: path[0].key != "head", params)


def products(frozen):
    """How many convolutions and dense products a step of `Small` makes."""
    model, tx = Small(bn_axis=None), optax.sgd(0.1)
    abstract = jax.eval_shape(
        partial(state.create_state, model, tx, image_shape=(8, 8, 1)), jax.random.key(0)
    )
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}
    loss_fn = partial(losses.objective, label_smoothing=0.0, main_weight=1.0, aux_weight=0.3)
    share = partial(
        step.train_step,
        model=model,
        tx=tx,
        loss_fn=loss_fn,
        preprocess=lambda images: images,
        frozen=all_but_head(abstract.params) if frozen else None,
    )
    return count_products(share, abstract, batch, jax.random.key(0))


def count_products(function, *arguments):
    traced = str(jax.make_jaxpr(function)(*arguments))
    return traced.count("conv_general_dilated[") + traced.count("dot_general[")


def test_a_frozen_trunk_costs_no_backward_pass():
    model, images = Small(bn_axis=None), jnp.zeros((4, 8, 8, 1))
    variables = jax.eval_shape(partial(model.init, train=True), jax.random.key(0), images)
    forward = count_products(
        partial(model.apply, train=True, mutable=["batch_stats"]), variables, images
    )
    assert products(frozen=True) == forward + 1  # the gradient of the head's kernel
    assert products(frozen=False) > forward + 5


@pytest.mark.parametrize(("mapping", "devices", "parts"), [("pmap", 2, 1), ("shard_map", 2, 2)])
def test_what_trains_beside_frozen_parts_gets_the_same_gradient(mapping, devices, parts):
    create = partial(Small(bn_axis=None).init, train=True)
    params = jax.eval_shape(create, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    options = dict(steps=3, trains="head", accumulate=parts)
    without, _ = run(Small(bn_axis=None), mapping, devices, **options)
    frozen, values = run(
        Small(bn_axis=None), mapping, devices, frozen=all_but_head(params), **options
    )
    assert_trees_close(frozen, without)
    assert values["grad_norm"] > 0
