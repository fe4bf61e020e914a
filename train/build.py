"""From a config to the things that it names: data, model, optimizer, and the compiled step over the devices."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax import create_model
from train import data, losses, optim, state, step
from train.config import Config
from train.errors import UserError
from train.parallel import Parallel

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


class Task:
    """Everything that a config names, built and checked, ready to run: what the loop loops over."""

    def __init__(self, config: Config):
        self.config = config
        self.spread = Parallel(config.parallel.mapping, config.parallel.devices)
        self.spread.check("data.batch_size", config.data.batch_size)
        self.train_split = data.load(config.data.source, config.data.train_split)
        self.eval_split = data.load(config.data.source, config.data.eval_split)
        self.class_names = self.train_split.class_names
        self.steps = count_steps(config, len(self.train_split))
        self.model = build_model(config, len(self.class_names))
        self.tx, self.schedule = build_optimizer(config, self.steps)
        image_shape = data.image_shape(self.train_split, config.data)
        self.preprocess = build_preprocess(config, image_shape[-1])

        self._init_key, self.key = jax.random.split(jax.random.key(config.seed))
        averaged = config.optim.ema > 0
        self._create = partial(state.create_state, self.model, self.tx, image_shape=image_shape, ema=averaged)
        try:
            self.abstract_state = self.spread.abstract(jax.eval_shape(self._create, self._init_key))
        except ValueError as error:  # images that the model's geometry does not allow
            raise UserError(str(error)) from None
        share = partial(
            step.train_step, model=self.model, tx=self.tx, preprocess=self.preprocess, ema=config.optim.ema,
            loss_fn=partial(losses.objective, **dataclasses.asdict(config.loss)),
        )  # fmt: skip
        self.step = self.spread.map(share, split=(False, True, False), donate=True)

    def fresh_state(self) -> state.TrainState:
        """Initial parameters, on the devices."""
        return self.spread.replicate(jax.jit(self._create)(self._init_key))

    def batches(self, start: int) -> Iterator[data.Batch]:
        """This process's share of the training batches from a step on."""
        plan = data.Plan(len(self.train_split), self.config.data.batch_size, self.config.seed)
        return data.train_batches(
            self.train_split, plan, self.config.data, start=start, stop=self.steps,
            process=jax.process_index(), processes=jax.process_count(),
        )  # fmt: skip
