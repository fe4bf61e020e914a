"""Accumulation by a scan inside the step, and gradients that are not finite."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import Outputs
from tests.helpers import assert_trees_close
from tests.train.test_step import Small
from train import losses, state, step
from train.config import Loss
from train.parallel import Parallel

SHAPE = (8, 8, 1)


class Plain(nn.Module):
    """No BatchNorm, no dropout; an auxiliary head."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv1")(x)).mean((1, 2))
        aux = (nn.Dense(self.num_classes, name="aux")(x),) if train else ()
        return Outputs(nn.Dense(self.num_classes, name="head")(x), aux, x)


def make(model, mapping="pmap", devices=1, rate=0.1, **options):
    spread, tx = Parallel(mapping, devices), optax.sgd(rate, 0.9)
    loss_fn = partial(losses.objective, **dataclasses.asdict(Loss(label_smoothing=0.1)))
    preprocess = partial(step.normalize, mean=(0.5,), std=(0.5,))
    create = jax.jit(partial(state.create_state, model, tx, image_shape=SHAPE, ema=True))
    share = partial(
        step.train_step,
        model=model,
        tx=tx,
        loss_fn=loss_fn,
        preprocess=preprocess,
        ema=0.9,
        **options,
    )
    return (
        spread,
        spread.replicate(create(jax.random.key(0))),
        spread.map(share, split=(False, True, False), donate=True),
    )


def batches(steps, size=16):
    random = np.random.RandomState(0)
    for _ in range(steps):
        images = random.randint(0, 256, (size, *SHAPE)).astype(np.uint8)
        labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
        yield {"image": images, "label": labels, "mask": np.ones(size, bool)}


def run(model, steps=20, **options):
    spread, current, mapped = make(model, **options)
    for values in batches(steps):
        current, metrics = mapped(current, spread.shard(values), jax.random.key(1))
        jax.block_until_ready(metrics)
    return jax.device_get((current, metrics))


@pytest.mark.parametrize(("mapping", "devices"), [("pmap", 1), ("pmap", 2), ("shard_map", 2)])
def test_parts_equal_the_whole_batch_without_batchnorm(mapping, devices):
    whole, parts = run(Plain()), run(Plain(), mapping=mapping, devices=devices, accumulate=4)
    assert_trees_close(parts, whole, atol=1e-6, rtol=1e-5)


def test_batchnorm_sees_each_part_on_its_own():
    """The documented difference: statistics are those of the parts, and the moving average takes
    each of them in.
    """
    whole, _ = run(Small(), steps=1)
    parts, _ = run(Small(), steps=1, accumulate=4, mapping="shard_map")
    assert (
        np.abs(
            whole.params["conv1"]["conv"]["kernel"] - parts.params["conv1"]["conv"]["kernel"]
        ).max()
        > 1e-5
    )
    images = next(batches(1))["image"] / 127.5 - 1.0
    initial = make(Small())[1].params["conv1"]["conv"]["kernel"]
    features = jax.lax.conv_general_dilated(
        jnp.array(images, jnp.float32),
        jax.device_get(initial),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean = 0.0
    for part in np.array(features).reshape(4, 4, 8, 8, 8):
        mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
    np.testing.assert_allclose(parts.batch_stats["conv1"]["bn"]["mean"], mean, atol=1e-6)


def test_a_bad_update_is_skipped_and_the_rest_goes_on():
    spread, current, mapped = make(Small(), "shard_map", devices=2, skip_bad=True)
    losses_seen, states = [], []
    for number, values in enumerate(batches(4)):
        if number == 2:
            values["image"] = values["image"].astype(np.float32) * np.nan
        current, metrics = mapped(current, spread.shard(values), jax.random.key(1))
        losses_seen.append(float(metrics["loss"]))
        states.append(jax.device_get(current))
    assert np.isnan(losses_seen[2]) and np.isfinite([losses_seen[i] for i in (0, 1, 3)]).all()
    assert [int(s.step) for s in states] == [1, 2, 3, 4]
    assert_trees_close(
        states[2].replace(step=0), states[1].replace(step=0)
    )  # parameters, statistics, momentum, average
    assert np.abs(states[3].params["head"]["kernel"] - states[2].params["head"]["kernel"]).max() > 0


def test_a_skipped_update_counts_for_the_learning_rate():
    """The rate that is logged goes by the step, and so does the one that is used: here there is one
    in the last step only.
    """
    spread, current, mapped = make(
        Plain(), skip_bad=True, rate=lambda t: jnp.where(t == 2, 0.1, 0.0)
    )
    heads = []
    for number, values in enumerate(batches(4)):
        if number == 0:
            values["image"] = values["image"].astype(np.float32) * np.nan
        current, _ = mapped(current, spread.shard(values), jax.random.key(1))
        heads.append(jax.device_get(current.params["head"]["kernel"]))
    moved = [bool(np.any(heads[i] != heads[i + 1])) for i in range(3)]
    assert moved == [False, True, False]


def test_the_moving_average_warms_up():
    """TensorFlow's: in update t, counted from zero, the decay is at most (1 + t) / (10 + t)."""
    spread, current, mapped = make(Plain(), ema_warmup=True)
    expected = jax.device_get(current.params["head"]["kernel"])
    for t, values in enumerate(batches(5)):
        current, _ = mapped(current, spread.shard(values), jax.random.key(1))
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * jax.device_get(current.params["head"]["kernel"])
    np.testing.assert_allclose(current.ema["params"]["head"]["kernel"], expected, rtol=1e-5)


def test_frozen_batchnorm_keeps_its_averages_and_uses_them():
    spread, current, mapped = make(Small(bn_frozen=True))
    before = jax.device_get(current)
    values = next(batches(1))
    after, metrics = jax.device_get(mapped(current, spread.shard(values), jax.random.key(1)))
    assert_trees_close(after.batch_stats, before.batch_stats)
    outputs = Small().apply(
        {"params": before.params, "batch_stats": before.batch_stats},
        values["image"] / np.float32(127.5) - 1,
        train=False,
    )
    parts = losses.cross_entropy(outputs.logits, values["label"], 0.1)
    np.testing.assert_allclose(metrics["main_loss"], parts, rtol=1e-5)
