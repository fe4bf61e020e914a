"""One update and one evaluation: pure functions of one device's share of a batch over a named axis.

Written once. `train.parallel` maps them over the devices by pmap or by shard_map, and both give the
same numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import metrics
from train.mix import warp
from train.optim import LossScale, evaluated_params, loss_scale
from train.state import TrainState

AXIS = "data"

# For `keep_products`: results that are small, random, or made of many operations each. "name" is
# what several operations make together. All else is a pass over memory: normalisation, activations,
# pooling, padding.
PRODUCTS = ("name", "conv_general_dilated", "dot_general", "reduce_sum", "tanh", "pow", "lt")
EXCHANGED = ("psum", "psum_invariant")


def keep_products(*, exchanges: bool) -> Callable[..., bool]:
    """A policy of `jax.checkpoint`: keep the results of convolutions and dense layers only.

    `exchanges` says that BatchNorm's statistics come from several devices, and keeps those too. On
    one device they cost nothing, and XLA on a CPU would keep after all what it finds again.
    """
    kept = PRODUCTS + EXCHANGED if exchanges else PRODUCTS
    return lambda primitive, *_, **__: primitive.name in kept


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images (N, H, W, C) in 0..255, uint8 or float, to float32: (x / 255 - mean) / std."""
    scale = 1 / (255 * jnp.array(std, jnp.float32))
    scaled = images.astype(jnp.float32) * scale
    return scaled - jnp.array(mean, jnp.float32) / jnp.array(std, jnp.float32)


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
    remat_policy: Callable[..., bool] | None = None,
    frozen: Any = None,
    axis: str = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share of a batch.

    Args:
        state: replicated, as the results are.
        batch: "image" (n, H, W, C) and "label" (n,), or (n, K) zeros and ones for several labels an
            image; with "affine" (n, 6) the images are distorted.
        key: the run's. The step and the device are folded in, so nothing else carries randomness.
        model: a network that returns `cnnjax.Outputs`.
        tx: the optimizer.
        loss_fn: (outputs, labels) -> (loss, dict of further values), as `losses.objective`.
        preprocess: images as in the batch -> what the network reads.
        mix: (images, labels, key, preprocess) -> what the network reads and its labels, mixed; the
            accuracy is that of the labels as they were.
        ema: decay of the moving averages, where the state has any.
        ema_warmup: in step t the decay is at most (1 + t) / (10 + t).
        accumulate: parts that the share is worked through in. They make one update, by their mean
            gradient; BatchNorm sees each part on its own.
        skip_bad: when loss or gradient is not finite, keep the old state but count the step. With a
            scale of the loss (`optim.scale_loss`) it has to be set.
        remat_policy: what the gradient keeps of the forward pass; None: everything.
        frozen: a tree of bools, like the parameters: those without a gradient, which is then zero.
            The backward pass ends where nothing before it trains. None: all train.
        axis: of the mapping over devices. Outside of any mapping the batch is the whole batch.

    Returns:
        The new state, and scalars: loss, top1, grad_norm, and what `loss_fn` adds.

    >>> from train.losses import objective as loss
    >>> model, tx = cnnjax.create_model("lenet5"), optax.sgd(0.1)
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> loss_fn = partial(loss, label_smoothing=0.1, main_weight=1.0, aux_weight=0.3)
    >>> own = dict(model=model, tx=tx, loss_fn=loss_fn, preprocess=lambda images: images / 255)
    >>> step = jax.jit(partial(train_step, **own))
    >>> batch = {"image": jnp.zeros((8, 28, 28, 1)), "label": jnp.arange(8)}
    >>> state, values = step(TrainState.of(variables, tx), batch, jax.random.key(1))
    >>> int(state.step), sorted(values)
    (1, ['grad_norm', 'loss', 'top1'])
    """
    shared = is_share(batch, axis)
    device = jax.lax.axis_index(axis) if shared else 0
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), device)
    forward: Callable = partial(model.apply, train=True, mutable=["batch_stats"])
    if remat_policy:
        forward = rematerialised(forward, remat_policy)
    loss = partial(
        objective,
        forward=forward,
        loss_fn=loss_fn,
        preprocess=preprocess,
        mix=mix,
        frozen=frozen,
    )

    grads, batch_stats, values = gradients(
        loss, state, batch, key, accumulate=accumulate, axis=axis if shared else None
    )
    values["grad_norm"] = optax.tree.norm(grads)
    decay: Any = ema
    if ema_warmup:
        decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
    new = update(state, grads, batch_stats, tx=tx, ema=decay)
    if skip_bad:
        fine = jnp.isfinite(values["loss"]) & jnp.isfinite(values["grad_norm"])
        new = unless_bad(fine, new, state)
    return new, values


def is_share(batch: dict[str, jax.Array], axis: str) -> bool:
    """Whether the batch is one device's share of a larger one, so that devices have to exchange."""
    try:
        size = jax.lax.axis_size(axis)
    except NameError:  # not mapped
        return False
    return size > 1 or axis in getattr(jax.typeof(batch["label"]), "vma", ())


def rematerialised(forward: Callable, policy: Callable[..., bool]) -> Callable:
    """The forward pass; the gradient keeps what the policy says and recomputes the rest."""

    def run(variables, images, key):
        return forward(variables, images, rngs={"dropout": key})

    kept = jax.checkpoint(run, policy=policy)
    return lambda variables, images, rngs: kept(variables, images, rngs["dropout"])


def objective(params, batch_stats, batch, key, *, forward, loss_fn, preprocess, mix, frozen):
    """(loss, (new statistics, values)) of one batch; differentiated with respect to `params`."""
    if frozen is not None:
        stop = jax.lax.stop_gradient
        params = jax.tree.map(lambda is_frozen, x: stop(x) if is_frozen else x, frozen, params)
    images, labels = batch["image"], batch["label"]
    if "affine" in batch:
        images = warp(images, batch["affine"])
    if mix:
        images, labels = mix(images, labels, jax.random.fold_in(key, 1), preprocess)
    else:
        images = preprocess(images)
    variables = {"params": params, "batch_stats": batch_stats}
    outputs, updated = forward(variables, images, rngs={"dropout": key})
    loss, parts = loss_fn(outputs, labels)
    top1 = jnp.mean(metrics.correct(outputs.logits, batch["label"]))
    return loss, (updated.get("batch_stats", {}), {"loss": loss, "top1": top1} | parts)


def gradients(
    loss: Callable,
    state: TrainState,
    batch: Any,
    key: jax.Array,
    *,
    accumulate: int,
    axis: str | None,
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """(gradients, new statistics, values): means over all parts and all devices of the axis."""
    params, batch_stats = state.params, state.batch_stats
    zeros = jax.tree.map(jnp.zeros_like, params)
    if axis:
        # Gradients with respect to replicated parameters are summed over the axis by shard_map.
        # With respect to varying ones they stay this device's own, until the pmean below.
        cast = partial(jax.lax.pcast, axis_name=axis, to="varying")
        params, batch_stats, zeros = cast((params, batch_stats, zeros))
    gradient, scale = jax.grad(loss, has_aux=True), loss_scale(state.opt_state)
    if scale is not None:
        gradient = scaled_gradient(loss, scale)

    def part(carry, inputs):
        batch_stats, total = carry
        grads, (batch_stats, values) = gradient(params, batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, total, grads)), values

    if accumulate == 1:
        grads, (batch_stats, values) = gradient(params, batch_stats, batch, key)
    else:
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        inputs = (parts, jax.random.split(key, accumulate))
        (batch_stats, grads), values = jax.lax.scan(part, (batch_stats, zeros), inputs)
        grads = jax.tree.map(lambda g: g / accumulate, grads)
        values = jax.tree.map(jnp.mean, values)
    if axis:  # one all-reduce of everything
        grads, batch_stats, values = jax.lax.pmean((grads, batch_stats, values), axis)
    return grads, batch_stats, values


def scaled_gradient(loss: Callable, scale: jax.Array) -> Callable:
    """The gradient of a loss, by that of the loss times a factor, which keeps small numbers."""

    def scaled(*args):
        value, rest = loss(*args)
        return scale * value, rest

    def gradient(*args):
        grads, rest = jax.grad(scaled, has_aux=True)(*args)
        return jax.tree.map(lambda g: g / scale, grads), rest

    return gradient


def update(
    state: TrainState, grads: Any, batch_stats: Any, *, tx: optax.GradientTransformation, ema: Any
) -> TrainState:
    """The state after one update; `ema` is the decay of its moving averages, where it has any."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages, evaluated = state.ema, evaluated_params(opt_state, params)
    if evaluated is not None:
        averages = {"params": evaluated, "batch_stats": batch_stats}
    elif averages is not None:
        new = {"params": params, "batch_stats": batch_stats}
        averages = optax.incremental_update(new, averages, 1 - ema)
    return TrainState(state.step + 1, params, batch_stats, opt_state, averages)


def unless_bad(fine: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """The new state where `fine`, else the old one; the step, the schedule's step and the scale of
    the loss are always the new ones.
    """

    def is_schedule(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState | LossScale)

    def keep(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(fine, new, old)

    return jax.tree.map(keep, new, old, is_leaf=is_schedule).replace(step=old.step + 1)


def eval_step(
    variables: Any,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    preprocess: Callable,
    axis: str = AXIS,
) -> dict[str, jax.Array]:
    """`metrics.sums` over the whole batch, replicated; padding is masked."""
    logits = model.apply(variables, preprocess(batch["image"]), train=False).logits
    return jax.lax.psum(metrics.sums(logits, batch["label"], batch["mask"]), axis)
