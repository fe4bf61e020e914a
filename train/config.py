"""Every option of a training run, with its default and its meaning. Recipes return a `Config`.

On the command line an option is `--config.<path>=<value>`, for example `--config.optim.lr=0.1`.
"""

import dataclasses
import inspect
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Model:
    name: str = "lenet5"  # a name of `python -m cnnjax`, or your own: package.module:Class
    num_classes: int = 0  # 0: as many as the data has
    dtype: str = "float32"  # of computing: float32 | bfloat16 | float16; parameters stay float32
    keep: str = "auto"  # for the gradient: all | products (of convolutions, dense) | auto
    options: dict[str, Any] = field(default_factory=dict)  # fields of the model's class: dropout …


@dataclass
class Augment:
    crop: str = "center"  # center | scale (AlexNet, VGG) | area (Inception: any area and aspect)
    short_side: tuple[int, ...] = (256, 256)  # scale: range of the short side
    area: tuple[float, ...] = (0.08, 1.0)  # area: range of the share of the image
    aspect: tuple[float, ...] = (0.75, 1.3333333)  # area: range of width over height
    interpolation: str = "bilinear"  # of the crop: bilinear | bicubic | area | nearest | random
    flip: bool = False  # mirrored left to right, half of the time
    flip_vertical: bool = False  # likewise top to bottom
    rotate: float = 0.0  # degrees: largest random angle
    scale: float = 0.0  # largest random zoom of each axis, as a share: 0.1 is 0.9 to 1.1
    shear: float = 0.0  # largest random horizontal shear
    shift: float = 0.0  # pixels: largest random translation, over black
    distort: str = "device"  # where the four above happen: device | host (in tf.data)
    randaugment: int = 0  # random operations of RandAugment, each image
    magnitude: float = 9.0  # of RandAugment, 0 to 10
    policy: str = "none"  # none | autoaugment | autoaugment_cifar10 | trivialaugment
    jitter: tuple[float, ...] = (0, 0, 0, 0)  # most of brightness, contrast, saturation, hue
    grey: float = 0.0  # probability of losing the colours
    blur: float = 0.0  # pixels: largest deviation of a Gaussian blur
    color: str = "none"  # none | slim | slim_fast (brightness and saturation only)
    lighting: float = 0.0  # deviation of AlexNet's shift of colours; 0.1 in the paper
    permute_channels: bool = False  # red, green and blue in a random order
    erase: float = 0.0  # probability of random erasing
    cutout: int = 0  # side of a black square in pixels
    custom: str = ""  # your own: package.module:function or file.py:function
    noise: float = 0.0  # deviation of Gaussian noise on images in [0, 1]
    mixup: float = 0.0  # alpha of mixup
    cutmix: float = 0.0  # alpha of CutMix; with mixup, one of the two each step


@dataclass
class Transform:
    style: str = "torchvision"  # torchvision | timm | slim | slim_vgg | keras
    resize: int = 0  # short side before the centre is cut out; 0: size / 0.875
    fraction: float = 0.0  # slim: central part of both sides; 0: 0.875
    interpolation: str = ""  # bilinear | bicubic; empty: the style's


@dataclass
class Data:
    source: str = "mnist5k"  # mnist5k | npz:FILE | folder:DIR | csv:FILE | tfds:NAME | module:name
    train_split: str = "train"  # what to learn from; of a TFDS set also train[:90%]
    eval_split: str = "test"  # val, validation and test are synonyms where there is one
    size: int = 0  # side of the images that the model reads; 0: the source's
    channels: int = 0  # 3, or 1 for grey; 0: the source's
    batch_size: int = 128  # examples a step, over all devices
    eval_batch_size: int = 500  # likewise, in evaluation
    mean: tuple[float, ...] = (0.0,)  # subtracted from images in [0, 1]; one, or one a channel
    std: tuple[float, ...] = (1.0,)  # then divided by
    transform: Transform = field(default_factory=Transform)  # of evaluation
    augment: Augment = field(default_factory=Augment)
    exif: bool = False  # turn photographs as their EXIF tag says
    on_bad_image: str = "error"  # error | skip: the next readable one takes its place
    max_pixels: int = 80_000_000  # larger images count as bad
    workers: int = 0  # threads that decode; 0: one a core


@dataclass
class Optim:
    name: str = "sgd"  # sgd | rmsprop (TensorFlow's) | adamw | lars | lamb | optax.contrib:muon …
    options: dict[str, Any] = field(default_factory=dict)  # arguments of an optimizer of your own
    lr: float = 0.1  # the peak learning rate
    lr_per: int = 0  # lr is for a batch of this size, and grows with the batch; 0: it does not
    momentum: float = 0.9  # decay of the velocity; adamw, lamb: of the mean gradient
    nesterov: bool = False  # Nesterov's momentum
    lr_inside: bool = False  # sgd: the rate goes into the velocity, as in Caffe
    decay: float = 0.9  # rmsprop: decay of the mean square
    beta2: float = 0.999  # adamw, lamb: decay of the mean square
    epsilon: float = 1e-8  # rmsprop: added inside the root; adamw, lamb: outside
    weight_decay: float = 0.0  # sgd, rmsprop, lars: L2 in the gradient; adamw, lamb: decoupled
    decayed: str = "kernels"  # kernels | biases (and kernels) | all (and BatchNorm)
    clip: float = 0.0  # largest global norm of the gradient; 0: any
    lr_scale: tuple[str, ...] = ()  # ('bias$=2', '^conv1/=0'): factors of the rate; or freeze=trunk
    freeze_batchnorm: bool = False  # BatchNorm as in evaluation
    schedule: str = "cosine"  # or step, exponential, polynomial, piecewise, plateau, constant
    warmup: float = 0.0  # epochs of linear warm-up from zero
    decay_every: float = 30.0  # step, exponential: epochs between decays
    decay_rate: float = 0.1  # step, exponential, plateau: the factor of a decay
    power: float = 1.0  # polynomial: the exponent
    boundaries: tuple[float, ...] = ()  # piecewise: epochs from which…
    factors: tuple[float, ...] = ()  # …the rate is lr times these
    patience: int = 5  # plateau: evaluations without a better top-1
    floor: float = 0.0  # share of lr that no schedule goes below
    ema: float = 0.0  # decay of the moving averages that are evaluated; 0: none
    ema_warmup: bool = False  # decay at most (1 + t) / (10 + t) in step t


@dataclass
class Loss:
    name: str = "cross_entropy"  # cross_entropy | binary | focal, or your own: module:function
    label_smoothing: float = 0.0  # share of the target that is spread over all classes
    class_weights: str = ""  # balanced, or one number a class: 1,2.5; empty: all classes alike
    gamma: float = 2.0  # focal: how much less the easy examples count
    main_weight: float = 1.0  # of the classifier's cross-entropy
    aux_weight: float = 0.3  # of the mean cross-entropy of the auxiliary heads


@dataclass
class Parallel:
    mapping: str = "auto"  # pmap | shard_map | auto: pmap in one process, shard_map in several
    devices: int = 0  # how many of the local devices; 0: all
    sync_batchnorm: bool = True  # statistics of the whole batch; False: of each device's share
    accumulate: int = 1  # parts of each device's share, for one update: less memory
    compile_cache: str = "~/.cache/cnnjax"  # folder of the program cache; empty: none


@dataclass
class Checkpoint:
    every: int = 1000  # steps between checkpoints; the last step has one
    keep: int = 2  # how many of the latest stay; the best does too
    best: str = "top1"  # what makes it: top1 | top5 | loss | balanced_accuracy | f1 | auc | map …


@dataclass
class Log:
    every: int = 50  # steps between rows of training metrics
    eval_every: int = 500  # steps between evaluations; the last step has one
    to: tuple[str, ...] = ()  # also to tensorboard, wandb, mlflow, trackio
    project: str = "cnnjax"  # its name in wandb, mlflow, trackio
    profile: tuple[int, ...] = ()  # (a, b): trace steps a to b into <workdir>/profile


@dataclass
class Init:
    weights: str = ""  # a name (timm/inception_v3), a file or a run folder; empty: none
    source: str = "cnnjax"  # of a file: keras | torchvision | timm | slim | facenet; cnnjax: any


@dataclass
class Config:
    epochs: float = 40.0  # passes over the training split
    stop_after: int = 0  # evaluations without a better one that end the run; 0: none do
    seed: int = 0  # of parameters, order of the data, augmentation, dropout
    on_nan: str = "stop"  # stop | skip (the update) | rollback (to the last checkpoint)
    rollbacks: int = 3  # how often on_nan=rollback may
    model: Model = field(default_factory=Model)
    init: Init = field(default_factory=Init)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loss: Loss = field(default_factory=Loss)
    parallel: Parallel = field(default_factory=Parallel)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)


# Options that may differ when a run is resumed: they change neither parameters nor logged numbers.
# The number of devices changes dropout and unsynced statistics, but a cluster gives what it has.
HARMLESS = (
    "parallel.mapping",
    "parallel.devices",
    "parallel.compile_cache",
    "checkpoint.",
    "log.to",
    "log.project",
    "log.tensorboard",  # of earlier versions, as is the next
    "log.wandb",
    "log.profile",
    "rollbacks",
    "data.eval_batch_size",
    "data.workers",
)


def to_dict(config: Config) -> dict:
    """Plain values, as in `config.json`: tuples become lists."""
    return dataclasses.asdict(
        config, dict_factory=lambda items: {key: _plain(value) for key, value in items}
    )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(values: dict, cls: type = Config) -> Any:
    """The inverse of `to_dict`; unknown keys are ignored."""
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
    """A line for each option that differs and matters: 'optim.lr: 0.1 -> 0.2'."""
    a, b = flatten(old), flatten(new)
    changed = [
        key for key in sorted({*a, *b}) if a.get(key) != b.get(key) and not key.startswith(HARMLESS)
    ]
    return [f"{key}: {_shown(a.get(key), b.get(key))}" for key in changed]


def _shown(old: Any, new: Any) -> str:
    """'0.1 -> 0.2'; of long lists (of classes) the first differences."""
    if isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) > 8:
        pairs = [f"{i}: {x!r} -> {y!r}" for i, (x, y) in enumerate(zip(old, new)) if x != y]
        return "; ".join(pairs[:3]) or f"{len(old)} of them -> {len(new)}"
    return f"{old} -> {new}"


def describe(cls: type = Config, prefix: str = "--config.") -> list[tuple[str, str, str]]:
    """(flag, default, comment) of every option, read off this file."""
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
