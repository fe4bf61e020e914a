"""From a config to the things that it names: data, model, optimizer, and the compiled step over the devices."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax import create_model, get_spec
from cnnjax.registry import nearest
from train import data, losses, mix, optim, state, step
from train.config import HARMLESS, Config, check, flatten, to_dict
from train.errors import UserError
from train.kept import Kept, Program
from train.memory import give_back
from train.parallel import Parallel

ON_NAN = ("stop", "skip", "rollback")
KEEP = ("auto", "all", "products")
HASTY = {"xla_backend_optimization_level": 1}  # for a program that runs once: as good as 2, in two thirds of the time
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def build_model(config: Config, classes: int) -> nn.Module:
    """The model that a config names, for data of so many classes; UserError for an unknown name, option or type."""
    chosen = config.model
    if chosen.dtype not in DTYPES:
        raise UserError(f"model.dtype is float32 or bfloat16, got {chosen.dtype!r}")
    if chosen.keep not in KEEP:
        raise UserError(f"model.keep={chosen.keep!r} is unknown; {nearest(chosen.keep, KEEP)}")
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


def keeps_products(config: Config, model: nn.Module, *, one_cpu: bool) -> bool:
    """What `model.keep` means: of itself only with BatchNorm, on one CPU, where it was measured to cost nothing."""
    normalizes = getattr(model, "batch_norm", hasattr(model, "bn_axis"))
    return config.model.keep == "products" or (config.model.keep == "auto" and one_cpu and normalizes)


def recomputes(config: Config) -> bool:
    """Whether a step on one CPU computes for its gradient anew what it had. Known before there is data, or a device."""
    model = build_model(config, 1)
    return keeps_products(config, model, one_cpu=True) or getattr(model, "remat", False)


def is_small(config: Config) -> bool:
    """Whether a step works in less than 64 MiB: LeNet-5 up to 512 images. The gradients alone of most others take more."""
    return get_spec(config.model.name).input_size[0] <= 32 and config.data.batch_size <= 512


def build_preprocess(config: Config, channels: int) -> Callable:
    """Host images (uint8) to what the model reads."""
    for name, values in (("mean", config.data.mean), ("std", config.data.std)):
        if len(values) not in (1, channels):
            raise UserError(f"data.{name} has {len(values)} values for images of {channels} channel(s)")
    return partial(step.normalize, mean=config.data.mean, std=config.data.std)


def build_mix(config: Config, num_classes: int) -> Callable | None:
    """Noise, mixup and CutMix on the device, where they are asked for."""
    chosen = config.data.augment
    return mix.make_mix(num_classes, noise=chosen.noise, std=config.data.std, mixup=chosen.mixup, cutmix=chosen.cutmix)


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
        chosen.lr * config.data.batch_size / chosen.lr_per if chosen.lr_per else chosen.lr,
        steps=steps,
        warmup=round(chosen.warmup * per_epoch),
        decay_every=round(chosen.decay_every * per_epoch),
        decay_rate=chosen.decay_rate,
        power=chosen.power,
        floor=chosen.floor,
        boundaries=[round(epoch * per_epoch) for epoch in chosen.boundaries],
        factors=chosen.factors,
    )
    plateau = build_plateau(config)
    tx = optim.make_optimizer(
        chosen.name,
        schedule,
        momentum=chosen.momentum,
        nesterov=chosen.nesterov,
        lr_inside=chosen.lr_inside,
        decay=chosen.decay,
        beta2=chosen.beta2,
        epsilon=chosen.epsilon,
        weight_decay=chosen.weight_decay,
        decay_what=chosen.decayed,
        clip=chosen.clip,
        lr_scale=chosen.lr_scale,
        plateau=plateau.scale if plateau else None,
    )
    return tx, schedule


def build_plateau(config: Config) -> optim.Plateau | None:
    chosen = config.optim
    return optim.Plateau(chosen.decay_rate, chosen.patience, chosen.floor) if chosen.schedule == "plateau" else None


class Task:
    """Everything that a config names, built and checked, ready to run: what the loop loops over."""

    def __init__(self, config: Config, split: data.Split | None = None, *, kept: Kept | None = None):
        """`split` stands in for the data that the config names; `kept` are programs of earlier starts."""
        check(config)
        self.config = config
        self.spread = Parallel(config.parallel.mapping, config.parallel.devices)
        self.spread.check("data.batch_size", config.data.batch_size)
        if config.on_nan not in ON_NAN:
            raise UserError(f"on_nan={config.on_nan!r} is unknown; {nearest(config.on_nan, ON_NAN)}")
        share, parts = config.data.batch_size // len(self.spread.devices), config.parallel.accumulate
        if parts < 1 or share % parts:
            raise UserError(f"parallel.accumulate={parts} does not divide the {share} examples of each device")
        self.train_split = split or data.load(config.data.source, config.data.train_split)
        self.eval_split = split or data.load(config.data.source, config.data.eval_split)
        self.class_names = self.train_split.class_names
        self.steps = count_steps(config, len(self.train_split))
        self.model = build_model(config, len(self.class_names))
        self.tx, self.schedule = build_optimizer(config, self.steps)
        data.check(self.train_split, config.data)
        self.image_shape = data.image_shape(self.train_split, config.data)
        self.preprocess = build_preprocess(config, self.image_shape[-1])

        averaged = config.optim.ema > 0
        devices, here = self.spread.devices, jax.local_devices()[:1]
        self._kept = kept
        self._ready: Callable | None = None
        keys = self._program("keys", jax.jit(partial(state.create_keys, config.seed)), here)
        self._init_key, self.key = keys.compiled()()
        create = partial(state.create_state, self.model, self.tx, image_shape=self.image_shape, ema=averaged)
        hasty = HASTY if devices[0].platform == "cpu" else None
        self._create = self._program("create", jax.jit(create), here, hasty)
        try:
            self.abstract_state = self.spread.abstract(self._create.results(self._init_key))
        except ValueError as error:  # images that the model's geometry does not allow
            raise UserError(str(error)) from None
        self.keeps_products = keeps_products(config, self.model, one_cpu=self.spread.one_cpu)
        step_of_share = partial(
            step.train_step, model=self.model, tx=self.tx, preprocess=self.preprocess,
            loss_fn=partial(losses.objective, **dataclasses.asdict(config.loss)), mix=build_mix(config, self.model.num_classes),
            ema=config.optim.ema, ema_warmup=config.optim.ema_warmup, accumulate=parts,
            skip_bad=config.on_nan == "skip", freeze_batchnorm=config.optim.freeze_batchnorm,
            alone=len(devices) == 1, keep_products=self.keeps_products,
        )  # fmt: skip
        self.step = self.spread.map(step_of_share, split=(False, True, False), donate=True)
        self._plateau = build_plateau(config)
        self.program = self._program("step", self.step, devices)
        self.program.load()

    def _program(self, name: str, function: Any, devices: Sequence[jax.Device], options: dict | None = None) -> Program:
        """The function, from an earlier start where there was one."""
        values = flatten(to_dict(self.config))
        decided_by = {key: value for key, value in values.items() if not key.startswith(HARMLESS)} | {
            "image": self.image_shape, "classes": len(self.class_names), "steps": self.steps,
            "mapping": self.spread.mapping, "devices": len(self.spread.devices),
        }  # fmt: skip
        return Program(function, devices, self._kept and self._kept.place(name, decided_by), options)

    def fresh_state(self) -> state.TrainState:
        """Initial parameters, on the devices."""
        state = self.spread.replicate(self._create.compiled(self._init_key)(self._init_key))
        self._create.forget()  # 100 MB for Inception v3
        return state

    def ready_step(self, current: state.TrainState, batch: dict[str, Any]) -> Callable:
        """`step`, compiled for the state and the batches of this run, or as an earlier start has compiled it."""
        if self._ready is None:
            self._ready = self.program.compiled(current, batch, self.key)
            give_back()  # before the step takes its own
        return self._ready

    def lr(self, current: state.TrainState, number: int) -> float:
        """The learning rate of update `number`, counted from one."""
        return float(self.schedule(number - 1)) * (optim.plateau_factor(current.opt_state) if self._plateau else 1.0)

    def observe(self, current: state.TrainState, top1: float) -> state.TrainState:
        """Tells the schedule of an evaluation: a plateau may reduce the rate of the updates to come."""
        if self._plateau is None:
            return current
        return current.replace(opt_state=self._plateau.observe(current.opt_state, top1, self.spread.replicate))

    def batches(self, start: int, attempt: int = 0) -> Iterator[data.Batch]:
        """This process's share of the training batches from a step on; each attempt has an order of its own."""
        # Far from the seeds that people take, and nothing is added without a need.
        plan = data.Plan(len(self.train_split), self.config.data.batch_size, self.config.seed + 1_000_003 * attempt)
        return data.train_batches(
            self.train_split, plan, self.config.data, start=start, stop=self.steps,
            process=jax.process_index(), processes=jax.process_count(),
        )  # fmt: skip
