"""One update and one evaluation, each a pure function of one device's share of the batch over a named axis.

Written once; `train.parallel` maps them over the devices by pmap or by shard_map.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import metrics
from train.mix import warp
from train.state import TrainState

AXIS = "data"

# Of the forward pass `keep_products` keeps the results of many operations each, small ones, and random choices. The rest is
# a pass over memory to compute anew: normalisation, activations, pooling, padding.
PRODUCTS = ("name", "conv_general_dilated", "dot_general", "reduce_sum", "tanh", "pow", "lt")
EXCHANGED = ("psum", "psum_invariant")


def keeping(names: tuple[str, ...]) -> Callable[..., bool]:
    """A policy of `jax.checkpoint`: which results are kept, by their operation; "name" is what several make together."""
    return lambda primitive, *_, **__: primitive.name in names


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images (N, H, W, C) in 0..255, uint8 or float, to float32: (x / 255 - mean) / std, for each channel."""
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
    mix: Callable | None = None,
    ema: float = 0.0,
    ema_warmup: bool = False,
    accumulate: int = 1,
    skip_bad: bool = False,
    freeze_batchnorm: bool = False,
    alone: bool = False,
    keep_products: bool = False,
    axis: str = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share: batch leaves are (n, …); state and key are replicated, and so are the results.

    Where the batch has `affine`, a transform for each image, the images are distorted first. `mix` changes images and labels
    together, as in `train.mix`; the accuracy is that of the unmixed labels.
    `key` is the run's: the step and the device are folded in here, so nothing else carries randomness. `accumulate` works
    through the share in so many parts, one after the other, and updates once, by their mean gradient; BatchNorm then sees
    each part on its own. `skip_bad` leaves everything but the step count, which the learning rate goes by, as it was where loss
    or gradient is not finite. `alone` says that one device has the whole batch, not as a share: it exchanges nothing, where a
    collective would copy every gradient. `keep_products` saves memory: the gradient reads the results of convolutions and
    dense layers, and computes what lies between them anew.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), 0 if alone else jax.lax.axis_index(axis))
    # Gradients with respect to replicated parameters would be summed over the axis; with respect to varying ones they
    # stay this device's own until the pmean below, under pmap and under shard_map alike.
    varying = (lambda tree: tree) if alone else partial(jax.lax.pcast, axis_name=axis, to="varying")
    params, batch_stats = varying((state.params, state.batch_stats))

    def forward(params, batch_stats, images, key):
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    if keep_products:
        # XLA on a CPU finds that what is computed anew was there already, and keeps it after all; but for what comes behind
        # a collective, which is always done again. On a single device BatchNorm's collectives cost nothing.
        kept = PRODUCTS if alone else PRODUCTS + EXCHANGED
        forward = jax.checkpoint(forward, policy=keeping(kept))

    def objective(params, batch_stats, batch, key):
        images, labels = batch["image"], batch["label"]
        if "affine" in batch:
            images = warp(images, batch["affine"])
        images = preprocess(images)
        if mix:
            images, labels = mix(images, labels, jax.random.fold_in(key, 1))
        with nn.intercept_methods(frozen_batchnorm) if freeze_batchnorm else nullcontext():
            outputs, updated = forward(params, batch_stats, images, key)
        loss, parts = loss_fn(outputs, labels)
        values = {"loss": loss, "top1": jnp.mean(metrics.correct(outputs.logits, batch["label"]))} | parts
        return loss, (updated.get("batch_stats", {}), values)

    gradient = jax.grad(objective, has_aux=True)

    def part(carry, inputs):
        batch_stats, total = carry
        grads, (batch_stats, values) = gradient(params, batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, total, grads)), values

    if accumulate == 1:
        grads, (batch_stats, values) = gradient(params, batch_stats, batch, key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        start = (batch_stats, varying(jax.tree.map(jnp.zeros_like, state.params)))
        (batch_stats, grads), values = jax.lax.scan(part, start, (parts, jax.random.split(key, accumulate)))
        grads, values = jax.tree.map(lambda g: g / accumulate, grads), jax.tree.map(jnp.mean, values)
    # One all-reduce for all of it. The statistics are equal already where BatchNorm syncs them.
    if not alone:
        grads, batch_stats, values = jax.lax.pmean((grads, batch_stats, values), axis)
    values["grad_norm"] = optax.tree.norm(grads)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = state.ema
    if averages is not None:
        decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step)) if ema_warmup else ema
        averages = optax.incremental_update({"params": params, "batch_stats": batch_stats}, averages, 1 - decay)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, averages)
    if skip_bad:
        fine = jnp.isfinite(values["loss"]) & jnp.isfinite(values["grad_norm"])

        def keep(new: Any, old: Any) -> Any:
            return new if is_schedule(new) else jnp.where(fine, new, old)

        new = jax.tree.map(keep, new, state, is_leaf=is_schedule).replace(step=state.step + 1)
    return new, values


def is_schedule(x: Any) -> bool:
    return isinstance(x, optax.ScaleByScheduleState)


def frozen_batchnorm(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """For `nn.intercept_methods`: BatchNorm as in evaluation, in a network that otherwise trains."""
    if isinstance(context.module, nn.BatchNorm) and not context.module.is_initializing():
        # The networks have fixed it in the constructor, and Flax takes it in one place only.
        object.__setattr__(context.module, "use_running_average", True)
    return call(*args, **kwargs)


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, model: nn.Module, preprocess: Callable, axis: str = AXIS
) -> dict[str, jax.Array]:
    """`metrics.sums` over the whole batch, replicated; padding is masked."""
    logits = model.apply(variables, preprocess(batch["image"]), train=False).logits
    return jax.lax.psum(metrics.sums(logits, batch["label"], batch["mask"]), axis)
