"""Fine-tuning: a new run that starts from a run folder or from published weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cnnjax
from cnnjax.trees import flatten, name
from cnnjax.weights.assemble import HOW, TRAINING
from train.config import Init
from train.errors import CheckpointError, UserError, tell
from train.state import TrainState

# Fields of a model that may differ from those that its weights were trained with.
FREE = (*TRAINING, "aux")


def read(task: Any) -> dict[str, Any]:
    """The variables of `init.weights`, a run folder or a file, by their paths.

    Raises:
        CheckpointError: it cannot be read, or does not fit the network.
        UserError: the model needs other options.
    """
    weights = task.config.init.weights
    in_run = (Path(weights).expanduser() / "config.json").exists()
    published = flatten(from_run(weights) if in_run else from_file(task))
    adapt_channels(task, published)
    fresh_layers(task, published)
    return published


def adapt_channels(task: Any, published: dict[str, Any]) -> None:
    """Kernels that read colour, for a network that reads grey, and the other way round.

    The sum over the channels, or a third of it in each: grey images give what they gave in three
    equal channels, where mean and std of the channels are alike.
    """
    for path, leaf in flatten({"params": task.abstract_state.params}).items():
        given = published.get(path)
        if given is None or not len(leaf.shape) == len(given.shape) == 4:
            continue
        if {given.shape[2], leaf.shape[2]} != {1, 3}:
            continue
        kernel = np.asarray(given).sum(2, keepdims=True)
        published[path] = kernel if leaf.shape[2] == 1 else np.repeat(kernel / 3, 3, axis=2)
        layer = path.rpartition("/")[0].removeprefix("params/")
        warn(f"{layer} was trained on {given.shape[2]} channel(s), and gets {leaf.shape[2]} here")


def start_from(
    task: Any, state: TrainState, published: dict[str, Any], say: Callable[[str], None]
) -> TrainState:
    """The state with what `read` returned. `say` is told which layers stay as initialised."""
    fresh = fresh_layers(task, published)
    note = f"; fresh: {', '.join(fresh)}" if fresh else ""
    say(f"starting from {task.config.init.weights}{note}")

    def pick(path, value):
        given = published.get(name(path))
        fits = given is not None and given.shape == value.shape
        return np.asarray(given, value.dtype) if fits else value

    ours = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    new = jax.tree.map_with_path(pick, ours)
    averages = jax.tree.map(np.copy, new) if state.ema is not None else None
    state = state.replace(params=new["params"], batch_stats=new["batch_stats"], ema=averages)
    return task.spread.replicate(jax.device_get(state))


def fresh_layers(task: Any, published: dict[str, Any]) -> list[str]:
    """The layers that the published values leave as initialised.

    Only classifiers may be among them, auxiliary ones included: layers whose last axis, the
    classes, has another length.

    Raises:
        CheckpointError: another layer is missing, or has another shape.
    """
    shapes = task.abstract_state
    ours = flatten({"params": shapes.params, "batch_stats": shapes.batch_stats})
    heads = classifiers(shapes.params, task.model.num_classes)
    fresh: list[str] = []
    misfits: list[str] = []
    for path, leaf in ours.items():
        given = published.get(path)
        layer = path.rpartition("/")[0].partition("/")[2]
        if given is not None and given.shape == leaf.shape:
            continue
        if given is not None and given.shape[:-1] != leaf.shape[:-1]:
            misfits.append(f"{path} is {given.shape} there and {leaf.shape} here")
        elif layer in heads or layer.startswith("aux"):
            fresh.append(layer)
        else:
            misfits.append(f"it has no {layer}")
    if misfits:
        misfits = list(dict.fromkeys(misfits))
        more = f"; {len(misfits) - 3} more" if len(misfits) > 3 else ""
        weights, model = task.config.init.weights, task.config.model.name
        raise CheckpointError(f"{weights} does not fit {model}: {'; '.join(misfits[:3])}{more}")
    return list(dict.fromkeys(fresh))


def classifiers(params: dict, num_classes: int) -> set[str]:
    """The layers whose biases or kernels end in the classes."""
    return {
        path.rpartition("/")[0]
        for path, leaf in flatten(params).items()
        if leaf.shape[-1] == num_classes
    }


def from_run(folder: str) -> dict[str, Any]:
    """The variables of a run folder's best checkpoint, or of its latest."""
    from train.run import Run

    run = Run(folder)
    return run.restore(run.best_or_latest())[1]


def needed_options(init: Init, model: str) -> dict[str, Any]:
    """The fields of a model that published weights need, where `init.weights` is their name."""
    from cnnjax.weights import SOURCES, named

    if not named.is_published(init.weights):
        return {}
    record = named.find_record(init.weights)
    publisher = next(source for source in SOURCES[record.source] if record.model in source.maps)
    return publisher.maps[model].options if record.model == model else {}


def from_file(task: Any) -> dict[str, Any]:
    """The variables of published weights, or of a file.

    Raises:
        CheckpointError: they cannot be fetched, or the file is not what it is said to be.
        UserError: the model needs other options to compute what the weights were trained for.
    """
    from cnnjax import weights

    config = task.config
    init, classes = config.init, task.model.num_classes
    try:
        if init.source == "cnnjax":
            loaded = cnnjax.pretrained(init.weights, num_classes=classes)
        else:
            loaded = weights.load(init.weights, config.model.name, init.source, num_classes=classes)
    except (weights.WeightsError, ValueError, OSError) as error:
        raise CheckpointError(f"init.weights={init.weights}: {error}") from None
    if loaded.name != config.model.name:
        raise CheckpointError(
            f"init.weights={init.weights} holds {loaded.name}, but model.name={config.model.name}"
        )
    fields = [
        field
        for field in vars(loaded.model)
        if not field.startswith("_") and field not in (*HOW, *FREE)
    ]
    options = [
        f"model.options.{field}={getattr(loaded.model, field)!r}"
        for field in fields
        if getattr(loaded.model, field) != getattr(task.model, field, None)
    ]
    if options:
        raise UserError(f"{init.weights} needs {', '.join(options)}")
    if loaded.preprocessing.channels == "BGR":
        warn("these weights were trained on BGR images; here they get RGB")
    for field in ("mean", "std"):
        trained_with = tuple(round(x / 255, 4) for x in getattr(loaded.preprocessing, field))
        ours = getattr(config.data, field)
        if np.abs(np.subtract(trained_with, ours)).max() > 1e-3:
            warn(f"these weights were trained with data.{field}={trained_with}; here it is {ours}")
    variables = loaded.variables
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def warn(text: str) -> None:
    if jax.process_index() == 0:
        tell(f"warning: {text}")
