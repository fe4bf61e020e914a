"""Every option of a training run: its default and its meaning, once. Recipes in `configs/` return a `Config`.

On the command line each is `--config.<path>=<value>`, for example `--config.optim.lr=0.1`.
"""

import dataclasses
import inspect
import math
import re
from dataclasses import dataclass, field
from typing import Any

from train.errors import UserError


@dataclass
class Model:
    name: str = "lenet5"  # a name of `python -m cnnjax`
    num_classes: int = 0  # 0: as many as the data has
    dtype: str = "float32"  # compute type: float32 or bfloat16; parameters and logits stay float32
    keep: str = "auto"  # for the gradient: all | products (the rest anew) | auto: products on one CPU with BatchNorm
    options: dict[str, Any] = field(
        default_factory=dict
    )  # further fields of the model's class, for example dropout


@dataclass
class Augment:
    crop: str = "center"  # center | scale (AlexNet, VGG: of the scaled image) | area (Inception: any area and aspect)
    short_side: tuple[int, ...] = (
        256,
        256,
    )  # scale: the short side is scaled to a random length from here
    area: tuple[float, ...] = (0.08, 1.0)  # area: the share of the image, from here
    aspect: tuple[float, ...] = (0.75, 1.3333333)  # area: width over height, from here
    interpolation: str = "bilinear"  # of the crop: bilinear | bicubic | area | nearest | random
    flip: bool = False  # mirrored, left to right, every other time
    rotate: float = 0.0  # degrees: a random angle within plus and minus this
    scale: float = 0.0  # zoom by a random factor within 1 plus and minus this, for each axis
    shear: float = 0.0  # a random horizontal shear within plus and minus this
    shift: float = 0.0  # pixels: a random translation within plus and minus this, over black
    distort: str = "device"  # where the four above are carried out: device | host (in tf.data)
    randaugment: int = 0  # how many random operations of RandAugment
    magnitude: float = 9.0  # of RandAugment, 0 to 10
    color: str = "none"  # none | slim (brightness, saturation, hue, contrast) | slim_fast (brightness, saturation)
    lighting: float = 0.0  # standard deviation of AlexNet's shift along the colours' principal components: 0.1 there
    permute_channels: bool = False  # red, green and blue in a random order
    erase: float = 0.0  # probability of random erasing
    cutout: int = 0  # side of a black square in pixels, its centre anywhere
    custom: str = ""  # a function of your own: package.module:function or path/file.py:function
    noise: float = 0.0  # standard deviation of Gaussian noise, for images in [0, 1]; on the device
    mixup: float = 0.0  # alpha of mixup; on the device
    cutmix: float = 0.0  # alpha of CutMix; on the device; with mixup, either of the two each time


@dataclass
class Transform:
    style: str = (
        "torchvision"  # torchvision | timm | slim | slim_vgg | keras: whose evaluation transform
    )
    resize: int = 0  # length of the short side before the centre is cut out; 0: size / 0.875, as the style rounds it
    fraction: float = 0.0  # slim: the central part of both sides; 0: 0.875
    interpolation: str = ""  # bilinear | bicubic; empty: as the style has it


@dataclass
class Data:
    source: str = "mnist5k"  # mnist5k | npz:FILE | folder:DIR | tfds:NAME | synthetic:HxWxC/K
    train_split: str = (
        "train"  # the examples to learn from, for example train, or of a TFDS set train[:90%]
    )
    eval_split: str = (
        "test"  # val, validation and test stand for each other where there is only one of them
    )
    size: int = 0  # side of the square images that the model reads; 0: as they are in the source
    channels: int = 0  # 3, or 1 for grey; 0: as the source has them
    batch_size: int = 128  # examples a step, over all devices
    eval_batch_size: int = 500  # likewise
    mean: tuple[float, ...] = (
        0.0,
    )  # subtracted on the device from images in [0, 1]; one value, or one a channel
    std: tuple[float, ...] = (1.0,)  # then divided by
    transform: Transform = field(
        default_factory=Transform
    )  # of evaluation, and of training without a random crop
    augment: Augment = field(default_factory=Augment)
    exif: bool = False  # turn photographs the way their EXIF tag says; others ignore it, and slower
    on_bad_image: str = (
        "error"  # error | skip: the next readable example takes the place of an unreadable one
    )
    max_pixels: int = 80_000_000  # larger images count as bad
    workers: int = 0  # threads that decode; 0: as many as there are cores


@dataclass
class Optim:
    name: str = "sgd"  # sgd | rmsprop (TensorFlow's) | adamw | lars | lamb
    lr: float = 0.1  # the peak learning rate
    lr_per: int = 0  # lr is for a batch of so many images and grows with the batch; 0: lr is for the whole batch
    momentum: float = (
        0.9  # share of the velocity that the next step keeps; adamw, lamb: of the mean gradient
    )
    nesterov: bool = False  # look ahead along the velocity
    lr_inside: bool = False  # sgd: the rate goes into the velocity, as in the older papers and Caffe; rmsprop: always
    decay: float = 0.9  # rmsprop: share of the mean square that the next step keeps
    beta2: float = 0.999  # adamw, lamb: likewise
    epsilon: float = 1e-8  # rmsprop: added inside the root; adamw, lamb: outside
    weight_decay: float = (
        0.0  # sgd, rmsprop, lars: L2, added to the gradient; adamw, lamb: decoupled
    )
    decayed: str = "kernels"  # what weight decay touches: kernels | biases (of kernels, too) | all (BatchNorm, too)
    clip: float = 0.0  # largest global norm of the gradient, before weight decay; 0: any
    lr_scale: tuple[
        str, ...
    ] = ()  # factors of the rate, first match counts: ('bias$=2', '^conv1/=0'); 0 freezes
    freeze_batchnorm: bool = (
        False  # BatchNorm normalises by its moving averages and leaves them as they are
    )
    schedule: str = (
        "cosine"  # cosine | step | exponential | polynomial | piecewise | plateau | constant
    )
    warmup: float = 0.0  # epochs of linear warm-up from zero
    decay_every: float = 30.0  # step, exponential: epochs between two decays
    decay_rate: float = 0.1  # step, exponential: the factor of each; plateau: of a reduction
    power: float = 1.0  # polynomial: the exponent of what is left of the run
    boundaries: tuple[float, ...] = ()  # piecewise: epochs from which…
    factors: tuple[float, ...] = ()  # …the rate is so many times lr
    patience: int = 5  # plateau: evaluations in a row without a better top-1 that reduce the rate
    floor: float = 0.0  # share of lr below which no schedule falls
    ema: float = (
        0.0  # decay of the moving average of parameters and statistics that is evaluated; 0: none
    )
    ema_warmup: bool = False  # in step t the decay is at most (1 + t) / (10 + t), as TensorFlow's


@dataclass
class Loss:
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    main_weight: float = 1.0  # of the classifier's cross-entropy
    aux_weight: float = (
        0.3  # of the mean cross-entropy of the auxiliary heads, where the model has any
    )


@dataclass
class Parallel:
    mapping: str = "auto"  # pmap | shard_map | auto: pmap in one process, shard_map in several
    devices: int = 0  # how many of the local devices; 0: all
    sync_batchnorm: bool = True  # statistics over the whole batch; False: over each device's share
    accumulate: int = 1  # parts that each device's share is worked through in, for one update: less memory, same time
    compile_cache: str = (
        "~/.cache/cnnjax"  # where compiled programs are kept for the next run; empty: nowhere
    )


@dataclass
class Checkpoint:
    every: int = 1000  # steps between two checkpoints; the last step always has one
    keep: int = 2  # the latest k are kept, and the best


@dataclass
class Log:
    every: int = 50  # steps between two lines of training metrics
    eval_every: int = 500  # steps between two evaluations; the last step always has one
    tensorboard: bool = False  # event files in <workdir>/tensorboard (needs tensorboardX)
    wandb: str = ""  # project of Weights & Biases to log to (needs wandb)
    profile: tuple[int, ...] = ()  # (a, b): a trace of steps a to b in <workdir>/profile


@dataclass
class Init:
    weights: str = ""  # what to start from: a run folder, or a file of published weights; empty: random parameters
    source: str = "cnnjax"  # whose file: cnnjax | keras | torchvision | timm | slim | facenet


@dataclass
class Config:
    epochs: float = 40.0  # passes over the training split
    seed: int = 0  # of the initial parameters, the order of the data, augmentation and dropout
    on_nan: str = "stop"  # stop | skip (the update) | rollback (to the last checkpoint, then data in another order)
    rollbacks: int = 3  # rollback: at most so many times
    model: Model = field(default_factory=Model)
    init: Init = field(default_factory=Init)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loss: Loss = field(default_factory=Loss)
    parallel: Parallel = field(default_factory=Parallel)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)


# What may differ when a run is resumed: it changes neither the parameters nor the numbers that are logged. The number of
# devices does in two cases, dropout's draws and statistics that are not synced, but a cluster gives what it has.
HARMLESS = (
    "parallel.mapping", "parallel.devices", "parallel.compile_cache", "checkpoint.", "log.tensorboard",
    "log.wandb", "log.profile", "rollbacks", "data.eval_batch_size", "data.workers",
)  # fmt: skip


# The smallest and the largest value of options that have one: beyond them a run would go wrong without a word.
LIMITS = {
    "epochs": (0, math.inf), "seed": (0, math.inf), "rollbacks": (0, math.inf),
    "data.augment.noise": (0, math.inf), "data.augment.mixup": (0, math.inf), "data.augment.cutmix": (0, math.inf),
    "optim.lr": (0, math.inf), "optim.lr_per": (0, math.inf), "optim.momentum": (0, 1), "optim.decay": (0, 1),
    "optim.beta2": (0, 1), "optim.epsilon": (0, math.inf), "optim.weight_decay": (0, math.inf), "optim.clip": (0, math.inf),
    "optim.warmup": (0, math.inf), "optim.decay_every": (0, math.inf), "optim.decay_rate": (0, 1),
    "optim.power": (0, math.inf), "optim.patience": (1, math.inf), "optim.floor": (0, 1), "optim.ema": (0, 1),
    "loss.label_smoothing": (0, 1), "loss.main_weight": (0, math.inf), "loss.aux_weight": (0, math.inf),
    "checkpoint.every": (1, math.inf), "checkpoint.keep": (1, math.inf),
    "log.every": (1, math.inf), "log.eval_every": (1, math.inf),
}  # fmt: skip


def check(config: Config) -> None:
    """UserError for a value that no run can have."""
    values = flatten(to_dict(config))
    for key, (low, high) in LIMITS.items():
        if not (low <= values[key] <= high and math.isfinite(values[key])):
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise UserError(
                f"{key}={values[key]} must be {bounds}"
                + ("" if math.isfinite(values[key]) else ", and finite")
            )
    steps = config.log.profile
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"log.profile={steps} must be two steps (a, b), counted from 1, of which a is not behind b"
        )
    if not all(std > 0 for std in config.data.std):
        raise UserError(f"data.std={config.data.std} must be positive: images are divided by it")


def to_dict(config: Config) -> dict:
    """Plain values, as in `config.json`: tuples become lists."""
    return dataclasses.asdict(
        config, dict_factory=lambda items: {key: _plain(value) for key, value in items}
    )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(values: dict, cls: type = Config) -> Any:
    """The inverse of `to_dict`; keys that this version does not know are ignored."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.name in values}
    return cls(**{name: _value(f.type, values[name]) for name, f in known.items()})


def _value(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_dict(value, kind)
    return tuple(value) if isinstance(value, list) else value


def decided_by(config: Config) -> dict[str, Any]:
    """The options that a run's numbers depend on, flat."""
    values = flatten(to_dict(config))
    return {key: value for key, value in values.items() if not key.startswith(HARMLESS)}


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(old: dict, new: dict) -> list[str]:
    """One line for each option that differs between two `to_dict`s and matters: 'optim.lr: 0.1 -> 0.2'."""
    a, b = flatten(old), flatten(new)
    changed = [
        key for key in sorted({*a, *b}) if a.get(key) != b.get(key) and not key.startswith(HARMLESS)
    ]
    return [f"{key}: {_shown(a.get(key), b.get(key))}" for key in changed]


def _shown(old: Any, new: Any) -> str:
    """'0.1 -> 0.2'; of long lists, which are those of classes, the first differences."""
    if isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) > 8:
        pairs = [f"{i}: {x!r} -> {y!r}" for i, (x, y) in enumerate(zip(old, new)) if x != y]
        return "; ".join(pairs[:3]) or f"{len(old)} of them -> {len(new)}"
    return f"{old} -> {new}"


def describe(cls: type = Config, prefix: str = "--config.") -> list[tuple[str, str, str]]:
    """(flag, default, comment) of every option, read off this file, which is the only place that says them."""
    comments = dict(
        re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), flags=re.MULTILINE)
    )
    rows = []
    for f in dataclasses.fields(cls):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            rows += describe(f.type, f"{prefix}{f.name}.")
        else:
            default = (
                f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            )
            rows.append((prefix + f.name, str(default), comments.get(f.name, "")))
    return rows
