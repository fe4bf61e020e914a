"""Every option of a training run: its default and its meaning, once. Recipes in `configs/` return a `Config`.

On the command line each is `--config.<path>=<value>`, for example `--config.optim.lr=0.1`.
"""

import dataclasses
import inspect
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Model:
    name: str = "lenet5"  # a name of `python -m cnnjax`
    num_classes: int = 0  # 0: as many as the data has
    dtype: str = "float32"  # compute type: float32 or bfloat16; parameters and logits stay float32
    options: dict[str, Any] = field(default_factory=dict)  # further fields of the model's class, for example dropout


@dataclass
class Augment:
    rotate: float = 0.0  # degrees: a random angle within plus and minus this
    scale: float = 0.0  # zoom by a random factor within 1 plus and minus this, for each axis
    shear: float = 0.0  # a random horizontal shear within plus and minus this
    shift: float = 0.0  # pixels: a random translation within plus and minus this, over black


@dataclass
class Data:
    source: str = "mnist5k"  # mnist5k | npz:FILE | synthetic:HxWxC/K
    train_split: str = "train"  # a split of the source
    eval_split: str = "test"  # likewise; its name labels the rows of metrics.jsonl
    batch_size: int = 128  # examples a step, over all devices
    eval_batch_size: int = 500  # likewise
    mean: tuple[float, ...] = (0.0,)  # subtracted on the device from images in [0, 1]; one value, or one a channel
    std: tuple[float, ...] = (1.0,)  # then divided by
    augment: Augment = field(default_factory=Augment)


@dataclass
class Optim:
    name: str = "sgd"  # sgd
    lr: float = 0.1  # the peak learning rate, for the whole batch
    momentum: float = 0.9  # share of the velocity that the next step keeps
    nesterov: bool = False  # look ahead along the velocity
    weight_decay: float = 0.0  # L2, added to the gradient of kernels; biases and norms are spared
    schedule: str = "cosine"  # cosine | step | constant
    warmup: float = 0.0  # epochs of linear warm-up from zero
    decay_every: float = 30.0  # step: epochs between two decays
    decay_rate: float = 0.1  # step: the factor of each
    ema: float = 0.0  # decay of the moving average of parameters and statistics that is evaluated; 0: none


@dataclass
class Loss:
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    main_weight: float = 1.0  # of the classifier's cross-entropy
    aux_weight: float = 0.3  # of the mean cross-entropy of the auxiliary heads, where the model has any


@dataclass
class Parallel:
    mapping: str = "auto"  # pmap | shard_map | auto: pmap in one process, shard_map in several
    devices: int = 0  # how many of the local devices; 0: all
    sync_batchnorm: bool = True  # statistics over the whole batch; False: over each device's share


@dataclass
class Checkpoint:
    every: int = 1000  # steps between two checkpoints; the last step always has one
    keep: int = 2  # the latest k are kept, and the best


@dataclass
class Log:
    every: int = 50  # steps between two lines of training metrics
    eval_every: int = 500  # steps between two evaluations; the last step always has one
    tensorboard: bool = False  # event files in <workdir>/tensorboard (needs tensorboardX)


@dataclass
class Config:
    epochs: float = 40.0  # passes over the training split
    seed: int = 0  # of the initial parameters, the order of the data, augmentation and dropout
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    loss: Loss = field(default_factory=Loss)
    parallel: Parallel = field(default_factory=Parallel)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)


# What may differ when a run is resumed: it changes neither the parameters nor the numbers that are logged.
HARMLESS = ("parallel.mapping", "parallel.devices", "checkpoint.", "log.tensorboard", "data.eval_batch_size")


def to_dict(config: Config) -> dict:
    """Plain values, as in `config.json`: tuples become lists."""
    return dataclasses.asdict(config, dict_factory=lambda items: {key: _plain(value) for key, value in items})


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(values: dict, cls: type = Config) -> Any:
    """The inverse of `to_dict`; keys that this version does not know are ignored."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.name in values}
    return cls(**{name: _value(f.type, values[name]) for name, f in known.items()})


def _value(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(value, kind)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


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
    changed = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key) and not key.startswith(HARMLESS)]
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in changed]


def describe(cls: type = Config, prefix: str = "--config.") -> list[tuple[str, str, str]]:
    """(flag, default, comment) of every option, read off this file, which is the only place that says them."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), flags=re.MULTILINE))
    rows = []
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.type):
            rows += describe(f.type, f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            rows.append((prefix + f.name, str(default), comments.get(f.name, "")))
    return rows
