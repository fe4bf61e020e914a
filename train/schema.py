"""What the value of each option may be: its type, its bounds, its choices.

All options are checked, those that a run does not use too, before anything is read or written.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from cnnjax.spelling import choice
from cnnjax.weights import SOURCES
from train.config import Config
from train.errors import UserError
from train.own import is_own

OWN = ("optim.name", "loss.name")  # options that may name something of the user's own
FREEZE = "freeze="  # begins a rule of optim.lr_scale that is a preset

CHOICES: dict[str, tuple[str, ...]] = {
    "on_nan": ("stop", "skip", "rollback"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.keep": ("auto", "all", "products"),
    "init.source": ("cnnjax", *SOURCES),
    "data.on_bad_image": ("error", "skip"),
    "data.transform.style": ("torchvision", "timm", "slim", "slim_vgg", "keras"),
    "data.transform.interpolation": ("", "bilinear", "bicubic"),
    "data.augment.crop": ("center", "scale", "area"),
    "data.augment.interpolation": ("bilinear", "bicubic", "area", "nearest", "random"),
    "data.augment.distort": ("device", "host"),
    "data.augment.policy": ("none", "autoaugment", "autoaugment_cifar10", "trivialaugment"),
    "data.augment.color": ("none", "slim", "slim_fast"),
    "optim.name": ("sgd", "rmsprop", "adamw", "lars", "lamb"),
    "loss.name": ("cross_entropy", "binary", "focal"),
    "checkpoint.best": (
        "top1",
        "top5",
        "loss",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "auc",
        "map",
    ),
    "log.to": ("tensorboard", "wandb", "mlflow", "trackio"),
    "optim.decayed": ("kernels", "biases", "all"),
    "optim.schedule": (
        "cosine",
        "step",
        "exponential",
        "polynomial",
        "piecewise",
        "plateau",
        "constant",
    ),
    "parallel.mapping": ("auto", "pmap", "shard_map"),
}


class Bounds(NamedTuple):
    """From `low` to `high`, both allowed unless `below` excludes the upper one."""

    low: float = 0
    high: float = math.inf
    below: bool = False

    def hold(self, value: float) -> bool:
        inside = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and self.low <= value and inside

    def describe(self, value: float) -> str:
        """What a value that they do not hold must be."""
        finite = "" if math.isfinite(value) else ", and finite"
        if value > self.high >= 1000:
            return f"at most {self.high:g}{finite}"
        if self.high >= 1000:
            return f"at least {self.low:g}{finite}"
        excluded = f", {self.high:g} excluded" if self.below else ""
        return f"from {self.low:g} to {self.high:g}{excluded}{finite}"


POSITIVE, COUNT, SHARE = Bounds(), Bounds(1), Bounds(0, 1)
DECAY = Bounds(0, 1, below=True)  # at 1 nothing would ever change
PIXELS = Bounds(0, 8192)
FACTOR = Bounds(0, 1e6)

# Every number has bounds; those of a tuple are its elements'.
BOUNDS: dict[str, Bounds] = {
    "epochs": Bounds(0, 1e9),
    "seed": Bounds(0, 2**63 - 1),
    "rollbacks": POSITIVE,
    "stop_after": POSITIVE,
    "model.num_classes": Bounds(0, 2**20),
    "data.size": PIXELS,
    "data.channels": Bounds(0, 3),
    "data.batch_size": Bounds(0, 2**20),
    "data.eval_batch_size": Bounds(0, 2**20),
    "data.mean": Bounds(-255, 255),
    "data.std": Bounds(0, 255),
    "data.max_pixels": COUNT,
    "data.workers": Bounds(0, 1024),
    "data.transform.resize": PIXELS,
    "data.transform.fraction": SHARE,
    "data.augment.short_side": Bounds(1, 8192),
    "data.augment.area": SHARE,
    "data.augment.aspect": Bounds(0.01, 100),
    "data.augment.rotate": Bounds(0, 180),
    "data.augment.scale": DECAY,
    "data.augment.shear": Bounds(0, 10),
    "data.augment.shift": PIXELS,
    "data.augment.randaugment": Bounds(0, 14),
    "data.augment.magnitude": Bounds(0, 10),
    "data.augment.jitter": Bounds(0, 10),
    "data.augment.grey": SHARE,
    "data.augment.blur": Bounds(0, 20),
    "data.augment.lighting": Bounds(0, 10),
    "data.augment.erase": SHARE,
    "data.augment.cutout": PIXELS,
    "data.augment.noise": Bounds(0, 10),
    "data.augment.mixup": Bounds(0, 1e3),
    "data.augment.cutmix": Bounds(0, 1e3),
    "optim.lr": Bounds(0, 1e30),  # a float32
    "optim.lr_per": POSITIVE,
    "optim.momentum": DECAY,
    "optim.decay": DECAY,
    "optim.beta2": DECAY,
    "optim.epsilon": Bounds(0, 1e6),
    "optim.weight_decay": Bounds(0, 1e3),
    "optim.clip": Bounds(0, 1e9),
    "optim.warmup": Bounds(0, 1e9),
    "optim.decay_every": Bounds(0, 1e9),
    "optim.decay_rate": SHARE,
    "optim.power": Bounds(0, 1e3),
    "optim.boundaries": Bounds(0, 1e9),
    "optim.factors": FACTOR,
    "optim.patience": COUNT,
    "optim.floor": SHARE,
    "optim.ema": DECAY,
    "loss.label_smoothing": DECAY,
    "loss.gamma": Bounds(0, 100),
    "loss.main_weight": Bounds(0, 1e6),
    "loss.aux_weight": Bounds(0, 1e6),
    "parallel.devices": POSITIVE,
    "parallel.accumulate": COUNT,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
    "log.every": COUNT,
    "log.eval_every": COUNT,
}


def check(config: Config) -> None:
    """Raises UserError, which names the option, for a value that no run can have."""
    for key, kind, value in options(config):
        check_type(key, kind, value)
        for item in value if isinstance(value, tuple) else (value,):
            if key in CHOICES and not (key in OWN and is_own(item)):
                choice(key, item, CHOICES[key], UserError)
            bounds = BOUNDS.get(key)
            if bounds and not bounds.hold(item):
                raise UserError(f"{key}={value} must be {bounds.describe(item)}")
    steps = config.log.profile
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"log.profile={steps} must be two steps (a, b), counted from 1, with a up to b"
        )
    for key in ("short_side", "area", "aspect"):
        values = getattr(config.data.augment, key)
        if len(values) != 2 or not values[0] <= values[1] or values[0] <= 0:
            raise UserError(f"data.augment.{key}={values} must be a range (low, high) above 0")
    jitter = config.data.augment.jitter
    if len(jitter) != 4 or jitter[3] > 0.5:
        raise UserError(
            f"data.augment.jitter={jitter} must be four numbers, for brightness, contrast, "
            "saturation and hue; that of the hue is at most 0.5"
        )
    if not all(std > 0 for std in config.data.std):
        raise UserError(f"data.std={config.data.std} must be positive: images are divided by it")
    if not (config.data.mean and config.data.std):
        raise UserError("data.mean and data.std are one value, or one for each channel")
    if config.optim.options and not is_own(config.optim.name):
        names = ", ".join(config.optim.options)
        raise UserError(f"optim.options ({names}) are for an optimizer of your own, not for ours")
    if class_weights(config.loss.class_weights) and is_own(config.loss.name):
        raise UserError(f"loss.class_weights is for our losses, not for {config.loss.name}")
    for rule in config.optim.lr_scale:
        if not rule.startswith(FREEZE):
            parse_rule(rule)


def class_weights(text: str) -> tuple[float, ...] | str:
    """`loss.class_weights`: "", "balanced" or a weight for each class. UserError: it is none."""
    if text in ("", "balanced"):
        return text
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(FACTOR.hold(weight) for weight in weights):
        raise UserError(
            f"loss.class_weights={text!r} must be balanced, or a positive number for each class, "
            "as in 1,2.5"
        )
    return weights


def parse_rule(rule: str) -> tuple[re.Pattern, float]:
    """The pattern and the factor of a rule of `optim.lr_scale`, 'pattern=factor'.

    Raises:
        UserError: it is none, or the factor is negative.

    >>> parse_rule("bias$=2")
    (re.compile('bias$'), 2.0)
    """
    pattern, equals, factor = rule.rpartition("=")
    try:
        parsed = re.compile(pattern), float(factor if equals else "")
    except (re.error, ValueError):
        raise UserError(f"optim.lr_scale takes rules such as 'bias$=2', got {rule!r}") from None
    if not FACTOR.hold(parsed[1]):
        raise UserError(f"optim.lr_scale={rule!r}: a factor must be {FACTOR.describe(parsed[1])}")
    return parsed


def options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, type, value) of every option: ("optim.lr", float, 0.1)."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            if not isinstance(value, hints[field.name]):
                raise UserError(f"{prefix}{field.name} is a group of options, got {value!r}")
            yield from options(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name], value


def check_type(key: str, kind: Any, value: Any) -> None:
    """Raises UserError unless the value has the option's type. Whole numbers are numbers, too."""
    if typing.get_origin(kind) is tuple:
        (element, _) = typing.get_args(kind)
        fits = isinstance(value, tuple) and all(is_a(element, item) for item in value)
    else:
        fits = is_a(typing.get_origin(kind) or kind, value)
    if not fits:
        raise UserError(f"{key} takes {describe_type(kind)}, got {value!r}")


def is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def describe_type(kind: Any) -> str:
    """'a tuple of numbers such as (0.5,)'."""
    names: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple[int, ...]: "a tuple of whole numbers such as (256, 512)",
        tuple[float, ...]: "a tuple of numbers such as (0.5,)",
        tuple[str, ...]: "a tuple of texts such as ('bias$=2',)",
    }
    return names.get(kind, str(kind))
