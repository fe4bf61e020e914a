"""From a config to the things that it names: data, model, optimizer, step.

One file, so that what each option becomes stands in the order in which `Task` asks for it.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import apply_with_stages
from cnnjax.ops import plain
from cnnjax.spelling import choice
from cnnjax.stages import CLASSIFIERS
from train import data, losses, metrics, mix, optim, own, pretrained, state, step
from train.config import Config, Optim, decided_by
from train.data.fingerprint import fingerprint
from train.errors import DataError, UserError, tell
from train.parallel import Parallel
from train.schema import FREEZE, check, class_weights, parse_rule

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
MOST_STEPS = 2**31  # steps are counted in int32
MOST_BYTES = 2**35  # of a batch on the host
# For the initial state, a program that runs once: it compiles in two thirds of the time.
RUNS_ONCE = {"xla_backend_optimization_level": 1}


class Given(NamedTuple):
    """What the caller of `train.fit` gives, in place of what the config names."""

    model: nn.Module | None = None
    loss: Callable | None = None
    train: data.Split | None = None
    evaluation: data.Split | None = None
    tx: optax.GradientTransformation | None = None


def build_model(config: Config, classes: int, given: nn.Module | None = None) -> nn.Module:
    """The model that a config names, for data with this number of classes.

    Args:
        config: with the model's name and options.
        classes: of the data.
        given: takes the place of the named one.

    Raises:
        UserError: an unknown name, option or type, or fewer classes than the data has.
    """
    chosen = config.model
    if chosen.num_classes and chosen.num_classes < classes:
        raise UserError(
            f"model.num_classes={chosen.num_classes}, but the data has {classes} classes"
        )
    own.check_options(chosen.options)
    needed = pretrained.needed_options(config.init, chosen.name)
    options: dict[str, Any] = {**needed, **chosen.options, "dtype": DTYPES[chosen.dtype]}
    num_classes = chosen.num_classes or classes
    try:
        model = given or own.create(chosen.name, num_classes=num_classes, **options)
    except ValueError as error:
        raise UserError(str(error)) from None
    if getattr(model, "num_classes", num_classes) < classes:
        raise UserError(f"the network has {model.num_classes} classes, the data {classes}")
    fields = {field.name for field in dataclasses.fields(model)}
    if config.parallel.sync_batchnorm and "bn_axis" in fields:
        model = model.clone(bn_axis=step.AXIS)
    if keeps_statistics(config) and "bn_frozen" in fields:
        model = model.clone(bn_frozen=True)
    if not own.is_ours(model):
        return own.Network(model, getattr(model, "num_classes", num_classes))
    return model


def keeps_statistics(config: Config) -> bool:
    """Whether BatchNorm runs as in evaluation. It does where a part of the network is frozen."""
    presets = any(rule.startswith(FREEZE) for rule in config.optim.lr_scale)
    return config.optim.freeze_batchnorm or presets


def rate_rules(config: Config, model: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """The rules of `optim.lr_scale` as `optim.rate_factors` takes them.

    "freeze=trunk" freezes all but the classifiers, "freeze=mixed6e" what comes up to that stage.

    Raises:
        UserError: the network has no such stage.
    """
    return [
        expanded(rule, model, image_shape) if rule.startswith(FREEZE) else rule
        for rule in config.optim.lr_scale
    ]


def expanded(rule: str, model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """The rule that "freeze=trunk" or "freeze=mixed6e" stands for."""
    what = rule.removeprefix(FREEZE)
    if what == "trunk":
        return f"^(?!{'|'.join(CLASSIFIERS)})=0"

    def outputs(key):
        image = jnp.zeros((1, *image_shape))
        variables = state.create_variables(model, key, image_shape)
        return apply_with_stages(model, variables, image, train=False)[1]

    with plain():  # which traces in half the time
        stages = list(jax.eval_shape(outputs, jax.random.key(0)))
    choice("optim.lr_scale=freeze", what, ["trunk", *stages], UserError)
    return f"^({'|'.join(stages[: stages.index(what) + 1])})/=0"


def keeps_products(config: Config, model: nn.Module, *, one_cpu: bool) -> bool:
    """Whether the gradient keeps only the results of convolutions and dense layers (`model.keep`).

    `auto` does so with BatchNorm on one CPU, where it costs no time.
    """
    normalizes = getattr(model, "batch_norm", hasattr(model, "bn_axis"))
    auto = config.model.keep == "auto" and one_cpu and normalizes
    return config.model.keep == "products" or auto


def build_preprocess(config: Config, channels: int) -> Callable:
    """Host images (uint8) to what the model reads."""
    for name, values in (("mean", config.data.mean), ("std", config.data.std)):
        if len(values) not in (1, channels):
            raise UserError(
                f"data.{name} has {len(values)} values for images of {channels} channel(s)"
            )
    return partial(step.normalize, mean=config.data.mean, std=config.data.std)


def build_mix(config: Config, num_classes: int) -> Callable | None:
    """Noise, mixup and CutMix on the device, where the config asks for them."""
    chosen = config.data.augment
    return mix.make_mix(
        num_classes,
        noise=chosen.noise,
        std=config.data.std,
        mixup=chosen.mixup,
        cutmix=chosen.cutmix,
    )


def build_loss(
    config: Config, weights: tuple[float, ...] = (), given: Callable | None = None
) -> Callable:
    """(outputs, labels) -> (loss, parts): the loss that a config names, or the given one.

    `weights` are those of the classes. UserError: the loss cannot be loaded.
    """
    chosen = config.loss
    if given or own.is_own(chosen.name):
        return partial(losses.own, given or own.load(chosen.name, "loss.name"))
    return partial(losses.objective, **dataclasses.asdict(chosen) | {"class_weights": weights})


def check_labels(config: Config, learnt: data.Split, asked: data.Split, model: nn.Module) -> None:
    """Raises UserError unless loss and network take the labels, one or several an image."""
    if learnt.multi_label != asked.multi_label:
        kinds = ["several labels" if s.multi_label else "one label" for s in (learnt, asked)]
        raise DataError(
            f"an image to learn from has {kinds[0]}, one of the evaluation {kinds[1]}: both need "
            "the same kind"
        )
    if not learnt.multi_label:
        return
    several, classes = "the data has several labels an image", len(learnt.class_names)
    if config.loss.name == "cross_entropy":
        raise UserError(f"{several}, and loss.name=cross_entropy takes one: set loss.name=binary")
    if config.loss.class_weights:
        raise UserError(f"{several}, and loss.class_weights takes one: leave it out")
    if model.num_classes != classes:
        raise UserError(
            f"{several}: the network needs as many outputs as classes, {classes}, and has "
            f"{model.num_classes}"
        )


def check_loss(
    loss: Callable,
    model: nn.Module,
    shapes: state.TrainState,
    image_shape: tuple[int, int, int],
    labels: jax.ShapeDtypeStruct,
) -> None:
    """Traces a loss of the user's own as the step calls it, on two images and their labels.

    Raises:
        UserError: it fails, or makes no numbers.
    """
    variables = {"params": shapes.params, "batch_stats": shapes.batch_stats}
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    forward = partial(model.apply, train=True, mutable=["batch_stats"])
    # BatchNorm's averages over the devices need the step's axis.
    traced = jax.make_jaxpr(forward, axis_env=[(step.AXIS, 1)], return_shape=True)
    key = jax.eval_shape(lambda: jax.random.key(0))
    _, (outputs, _) = traced(variables, images, rngs={"dropout": key})
    try:
        _, parts = jax.eval_shape(loss, outputs, labels)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the loss fails: {type(error).__name__}: {error}") from error
    for name, part in parts.items():
        if getattr(part, "shape", None) != ():
            raise UserError(f"the loss's {name} must be a number, got {part}")


def check_schedule_free(config: Config, shapes: state.TrainState) -> None:
    """Raises UserError where a schedule-free optimizer meets what changes its updates or means."""
    if optim.find(shapes.opt_state, optax.contrib.ScheduleFreeState) is None:
        return
    chosen = config.optim
    factors = [r for r in chosen.lr_scale if not r.startswith(FREEZE) and parse_rule(r)[1]]
    for option, is_set in (("ema", chosen.ema), ("lr_scale", factors)):
        if is_set:
            raise UserError(
                f"optim.{option} is not for a schedule-free optimizer, which evaluates its own mean"
            )
    if chosen.schedule == "plateau":
        raise UserError("optim.schedule=plateau is not for a schedule-free optimizer")


def weights_of_classes(config: Config, split: data.Split, outputs: int) -> tuple[float, ...]:
    """`loss.class_weights` as numbers, one for each output of the network; () for none.

    "balanced" counts the examples of the split.

    Raises:
        UserError: there are not as many numbers as the split has classes.
    """
    weights, classes = class_weights(config.loss.class_weights), len(split.class_names)
    if weights == "balanced":
        weights = tuple(losses.balanced(np.bincount(split.labels, minlength=classes).tolist()))
    if weights and len(weights) != classes:
        raise UserError(f"loss.class_weights has {len(weights)} numbers for {classes} classes")
    return (*weights, *([1.0] * (outputs - classes))) if weights else ()


def check_best(name: str, classes: int, *, multi_label: bool) -> None:
    """Raises UserError unless an evaluation in training measures this number (`metrics.sums`)."""
    if name == "map" and not multi_label:
        raise UserError("checkpoint.best=map is for data with several labels an image")
    if name == "balanced_accuracy" and multi_label:
        raise UserError("checkpoint.best=balanced_accuracy is for one label an image; take recall")
    if name == "top5" and classes <= 10:
        raise UserError(f"checkpoint.best=top5 is measured above ten classes; there are {classes}")
    if name in ("auc", "map") and classes > metrics.MOST_RANKED:
        raise UserError(
            f"checkpoint.best={name} is measured up to {metrics.MOST_RANKED} classes; "
            f"there are {classes}"
        )


def count_steps(config: Config, examples: int) -> int:
    """Updates in `epochs` passes; a batch runs on across the border of two passes."""
    steps = round(config.epochs * examples / config.data.batch_size)
    if steps >= MOST_STEPS:
        raise UserError(
            f"epochs={config.epochs:g} make {steps:.3g} steps; at most {MOST_STEPS:.3g}"
        )
    if steps < 1:
        raise UserError(
            f"epochs={config.epochs} of {examples} examples make no batch of "
            f"{config.data.batch_size}; lower data.batch_size"
        )
    return steps


def build_optimizer(
    config: Config, steps: int, rules: Sequence[str] = ()
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its schedule (step -> learning rate); epochs become steps here.

    `rules` are those of `rate_rules`.
    """
    chosen, per_epoch = config.optim, steps / config.epochs
    if chosen.warmup * per_epoch >= MOST_STEPS:
        raise UserError(f"optim.warmup={chosen.warmup:g} epochs are too long for this data")
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
    factory = own.load(chosen.name, "optim.name") if own.is_own(chosen.name) else None
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
        lr_scale=rules,
        plateau=plateau.scale if plateau else None,
        own=partial(own_optimizer, chosen, factory) if factory else None,
    )
    return optim.with_loss_scale(tx) if config.model.dtype == "float16" else tx, schedule


def own_optimizer(
    chosen: Optim, factory: Callable, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer that a factory of the user's own makes, such as `optax.lion`.

    It is given the schedule, `optim.options`, and `optim.weight_decay` where it takes that.

    Raises:
        UserError: it makes none, or takes other options.
    """
    options = dict(chosen.options)
    try:
        takes = inspect.signature(factory).parameters
        if chosen.weight_decay and "weight_decay" in takes:
            mask = {"mask": partial(optim.decayed, what=chosen.decayed)} if "mask" in takes else {}
            options = {"weight_decay": chosen.weight_decay} | mask | options
        elif chosen.weight_decay:
            tell(f"warning: {chosen.name} takes no weight decay; optim.weight_decay has no effect")
        named = {"learning_rate": schedule} if "learning_rate" in takes else {}
        tx = factory(*([] if named else [schedule]), **named, **options)
    except TypeError as error:
        raise UserError(f"optim.name={chosen.name!r} cannot be made: {error}") from None
    if not isinstance(tx, optax.GradientTransformation):
        kind = type(tx).__name__
        raise UserError(f"optim.name={chosen.name!r} makes a {kind}, not an optax transformation")
    return tx


def build_plateau(config: Config) -> optim.Plateau | None:
    """The schedule that is told of evaluations, where the config names it."""
    chosen = config.optim
    if chosen.schedule != "plateau":
        return None
    return optim.Plateau(chosen.decay_rate, chosen.patience, chosen.floor)


def frozen_parameters(params: Any, rules: Sequence[str]) -> Any:
    """Which parameters a factor of 0 freezes; None: none. UserError: a rule fits no parameter."""
    frozen = jax.tree.map(lambda factor: factor == 0, optim.rate_factors(params, rules))
    return frozen if any(jax.tree.leaves(frozen)) else None


class Task:
    """Everything that a config names, built and checked, ready to run.

    Attributes:
        config, model, tx, schedule, preprocess: what the config names.
        train_split, eval_split, class_names, image_shape: the data; (H, W, C).
        spread: the devices.
        steps: updates of the whole run.
        key: of everything random in the steps.
        step: (state, global batch, key) -> (state, values), mapped over the devices. It takes the
            memory of its first argument.
        abstract_state: shapes of the state.
    """

    def __init__(
        self,
        config: Config,
        split: data.Split | None = None,
        *,
        given: Given | None = None,
        among: Sequence[jax.Device] | None = None,
    ):
        """`split` and `given` stand in for what the config names, `among` for the devices."""
        check(config)
        self.config, given = config, given or Given()
        self.spread = Parallel(config.parallel.mapping, config.parallel.devices, among=among)
        self._check_devices()
        learnt, asked = given.train or split, given.evaluation or split
        self.train_split = learnt or data.load(config.data.source, config.data.train_split)
        self.eval_split = asked or data.load(config.data.source, config.data.eval_split)
        self.class_names = self.train_split.class_names
        self.steps = count_steps(config, len(self.train_split))
        self.model = build_model(config, len(self.class_names), given.model)
        check_labels(config, self.train_split, self.eval_split, self.model)
        best, multi_label = config.checkpoint.best, self.train_split.multi_label
        check_best(best, self.model.num_classes, multi_label=multi_label)
        data.check(self.train_split, config.data)
        self.image_shape = data.image_shape(self.train_split, config.data)
        self._check_images()
        rules = rate_rules(config, self.model, self.image_shape)
        self.tx, self.schedule = self._optimizer(given.tx, rules)
        self.plateau = build_plateau(config)
        self.class_weights = weights_of_classes(config, self.train_split, self.model.num_classes)
        self.loss = build_loss(config, self.class_weights, given.loss)
        self.preprocess = build_preprocess(config, self.image_shape[-1])
        self._init_key, self.key = jax.random.split(jax.random.key(config.seed))
        shapes = self._shapes()
        self.abstract_state = self.spread.abstract(shapes)
        self.keeps_products = keeps_products(config, self.model, one_cpu=self.spread.one_cpu)
        self.frozen = frozen_parameters(shapes.params, rules)
        self.step = self.spread.map(self.step_of_share(), split=(False, True, False), donate=True)

    def _check_devices(self) -> None:
        """Raises UserError unless the batch divides among the devices and their parts."""
        images, parts = self.config.data.batch_size, self.config.parallel.accumulate
        self.spread.check("data.batch_size", images)
        share = images // len(self.spread.devices)
        if parts < 1 or share % parts:
            raise UserError(
                f"parallel.accumulate={parts} does not divide the {share} examples of each device"
            )

    def _check_images(self) -> None:
        """Raises UserError unless both splits' images are alike, and batches fit into memory."""
        asked = data.image_shape(self.eval_split, self.config.data)
        if asked != self.image_shape:
            raise UserError(
                f"images to learn from are {self.image_shape}, those of the evaluation {asked}; "
                "data.size and data.channels make them alike"
            )
        for name in ("batch_size", "eval_batch_size"):
            size = getattr(self.config.data, name)
            if size * math.prod(self.image_shape) > MOST_BYTES:
                shape = "x".join(map(str, self.image_shape))
                raise UserError(f"data.{name}={size} images of {shape} do not fit into memory")

    def _optimizer(
        self, tx: optax.GradientTransformation | None, rules: Any
    ) -> tuple[optax.GradientTransformation, optax.Schedule | None]:
        """The given optimizer, whose schedule nobody knows, or that of the config."""
        if tx is None:
            return build_optimizer(self.config, self.steps, rules)
        half = self.config.model.dtype == "float16"
        return (optim.with_loss_scale(tx) if half else tx), None

    def _shapes(self) -> state.TrainState:
        """The shapes of the state. Raises UserError where network, loss and config do not fit."""
        config, on_cpu = self.config, self.spread.devices[0].platform == "cpu"
        create = partial(
            state.create_state,
            self.model,
            self.tx,
            image_shape=self.image_shape,
            ema=config.optim.ema > 0,
        )
        self._create: Any = jax.jit(create, compiler_options=RUNS_ONCE if on_cpu else None)
        try:
            shapes = jax.eval_shape(self._create, self._init_key)
        except ValueError as error:  # images that the model's geometry does not allow
            raise UserError(str(error)) from None
        except Exception as error:
            if own.is_ours(self.model) or isinstance(error, UserError):
                raise
            raise UserError(f"the network fails: {type(error).__name__}: {error}") from error
        if own.is_own(config.loss.name):
            mixed = config.data.augment.mixup or config.data.augment.cutmix
            rows = (self.model.num_classes,) if mixed else self.train_split.label_shape
            labels = jax.ShapeDtypeStruct((2, *rows), jnp.float32 if mixed else jnp.int32)
            check_loss(self.loss, self.model, shapes, self.image_shape, labels)
        if keeps_statistics(config) and shapes.batch_stats and not hasattr(self.model, "bn_frozen"):
            raise UserError(
                "freezing BatchNorm needs a field bn_frozen of the network; "
                f"{config.model.name} has none"
            )
        check_schedule_free(config, shapes)
        return shapes

    def step_of_share(self) -> Callable:
        """(state, one device's share of a batch, key) -> (state, values)."""
        config, several = self.config, len(self.spread.devices) > 1
        policy = step.keep_products(exchanges=several) if self.keeps_products else None
        return partial(
            step.train_step,
            model=self.model,
            tx=self.tx,
            loss_fn=self.loss,
            preprocess=self.preprocess,
            mix=build_mix(config, self.model.num_classes),
            ema=config.optim.ema,
            ema_warmup=config.optim.ema_warmup,
            accumulate=config.parallel.accumulate,
            skip_bad=config.on_nan == "skip" or config.model.dtype == "float16",
            remat_policy=policy,
            frozen=self.frozen,
        )

    def about(self) -> dict[str, Any]:
        """JSON; what the data is like, for config.json and to compare processes."""
        splits = {"train": self.train_split, "evaluation": self.eval_split}
        several = {"multi_label": True} if self.train_split.multi_label else {}
        return several | {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "steps": self.steps,
            "fingerprint": {name: fingerprint(split) for name, split in splits.items()},
        }

    def decided_by(self) -> dict[str, Any]:
        """JSON; what the step is made from, beside versions and source files."""
        return decided_by(self.config) | {
            "image": self.image_shape,
            "classes": len(self.class_names),
            "steps": self.steps,
            "mapping": self.spread.mapping,
            "devices": len(self.spread.devices),
            "class_weights": self.class_weights,
        }

    def fresh_state(self) -> state.TrainState:
        """Initial parameters, on the devices."""
        fresh = self.spread.replicate(self._create(self._init_key))
        self._create.clear_cache()  # it is called once, and holds 100 MB for Inception v3
        return fresh

    def lr(self, current: state.TrainState, number: int) -> float | None:
        """The learning rate of update `number`, counted from one; None where nobody knows it."""
        if self.schedule is None:
            return None
        factor = optim.plateau_factor(current.opt_state) if self.plateau else 1.0
        return float(self.schedule(number - 1)) * factor

    def observe(self, current: state.TrainState, top1: float) -> state.TrainState:
        """The state after an evaluation: a plateau may reduce the rate of the updates to come."""
        if self.plateau is None:
            return current
        opt_state = self.plateau.observe(current.opt_state, top1, self.spread.replicate)
        return current.replace(opt_state=opt_state)

    def batches(self, start: int, attempt: int = 0) -> Iterator[data.Batch]:
        """This process's share of the training batches from a step on.

        Each attempt after a rollback shuffles with its own seed, far from those that users choose.
        """
        seed = self.config.seed + 1_000_003 * attempt
        plan = data.Plan(len(self.train_split), self.config.data.batch_size, seed)
        return data.train_batches(
            self.train_split,
            plan,
            self.config.data,
            start=start,
            stop=self.steps,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
