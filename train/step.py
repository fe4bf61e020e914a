"""One update and one evaluation, each a pure function of one device's share of the batch over a named axis.

Written once; `train.parallel` maps them over the devices by pmap or by shard_map.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import metrics
from train.state import TrainState

AXIS = "data"


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """uint8 (N, H, W, C) in 0..255 to float32: (x / 255 - mean) / std, for each channel."""
    scale = 1 / (255 * jnp.array(std, jnp.float32))
    return images.astype(jnp.float32) * scale - jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss_fn: Callable,
    preprocess: Callable,
    ema: float = 0.0,
    axis: str = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share: batch leaves are (n, …); state and key are replicated, and so are the results.

    `key` is the run's: the step and the device are folded in here, so nothing else carries randomness.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), jax.lax.axis_index(axis))
    # Gradients with respect to replicated parameters would be summed over the axis; with respect to varying ones they
    # stay this device's own until the pmean below, under pmap and under shard_map alike.
    params, batch_stats = jax.lax.pcast((state.params, state.batch_stats), axis, to="varying")

    def objective(params):
        outputs, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            preprocess(batch["image"]),
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        loss, parts = loss_fn(outputs, batch["label"])
        return loss, (outputs.logits, updated.get("batch_stats", {}), parts)

    (loss, (logits, batch_stats, parts)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    values = {"loss": loss, "top1": jnp.mean(metrics.correct(logits, batch["label"]))} | parts
    # One all-reduce for all of it. The statistics are equal already where BatchNorm syncs them.
    grads, batch_stats, values = jax.lax.pmean((grads, batch_stats, values), axis)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = state.ema
    if averages is not None:
        averages = optax.incremental_update({"params": params, "batch_stats": batch_stats}, averages, 1 - ema)
    return TrainState(state.step + 1, params, batch_stats, opt_state, averages), values


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, preprocess: Callable, axis: str = AXIS
) -> dict[str, jax.Array]:
    """`metrics.sums` over the whole batch, replicated; padding is masked."""
    logits = model.apply(variables, preprocess(batch["image"]), train=False).logits
    return jax.lax.psum(metrics.sums(logits, batch["label"], batch["mask"]), axis)
