"""From a config to the things that it names: model, optimizer, preprocessing, number of steps."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import optax

from cnnjax import create_model
from train import optim, step
from train.config import Config
from train.errors import UserError

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def build_model(config: Config, classes: int) -> nn.Module:
    """The model that a config names, for data of so many classes; UserError for an unknown name, option or type."""
    chosen = config.model
    if chosen.dtype not in DTYPES:
        raise UserError(f"model.dtype is float32 or bfloat16, got {chosen.dtype!r}")
    if chosen.num_classes and chosen.num_classes < classes:
        raise UserError(f"model.num_classes={chosen.num_classes}, but the data has {classes} classes")
    try:
        model = create_model(
            chosen.name, num_classes=chosen.num_classes or classes, dtype=DTYPES[chosen.dtype], **chosen.options
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.parallel.sync_batchnorm and any(f.name == "bn_axis" for f in dataclasses.fields(model)):
        model = model.clone(bn_axis=step.AXIS)
    return model


def build_preprocess(config: Config, channels: int) -> Callable:
    """Host images (uint8) to what the model reads."""
    for name, values in (("mean", config.data.mean), ("std", config.data.std)):
        if len(values) not in (1, channels):
            raise UserError(f"data.{name} has {len(values)} values for images of {channels} channel(s)")
    return partial(step.normalize, mean=config.data.mean, std=config.data.std)


def count_steps(config: Config, examples: int) -> int:
    """Updates in `epochs` passes; a batch runs on across the border of two passes."""
    steps = round(config.epochs * examples / config.data.batch_size)
    if steps < 1:
        raise UserError(f"epochs={config.epochs} of {examples} examples make no batch of {config.data.batch_size}")
    return steps


def build_optimizer(config: Config, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its schedule (step -> learning rate); epochs in the config become steps here."""
    chosen, per_epoch = config.optim, steps / config.epochs
    schedule = optim.make_schedule(
        chosen.schedule,
        chosen.lr,
        steps=steps,
        warmup=round(chosen.warmup * per_epoch),
        decay_every=round(chosen.decay_every * per_epoch),
        decay_rate=chosen.decay_rate,
    )
    tx = optim.make_optimizer(
        chosen.name, schedule, momentum=chosen.momentum, nesterov=chosen.nesterov, weight_decay=chosen.weight_decay
    )
    return tx, schedule
