"""Fine-tuning: where the values of a new run come from, if not from chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.config import Config
from train.errors import CheckpointError, UserError
from train.state import TrainState


def start_from(
    config: Config, task: Any, state: TrainState, say: Callable[[str], None]
) -> TrainState:
    """The state with the values of `init.weights` wherever they fit; the sentence says which parts stay fresh.

    Only a classifier may differ: a layer whose last axis, the classes, has another length. CheckpointError for anything else.
    """
    source = config.init.weights
    given = (
        from_run(source)
        if (Path(source) / "config.json").exists()
        else from_file(config, task, say)
    )
    fresh: list[str] = []
    wrong: list[str] = []

    def pick(path, mine):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        theirs = found.get(name)
        if theirs is not None and theirs.shape == mine.shape:
            return np.asarray(theirs, mine.dtype)
        layer = name.rpartition("/")[0]
        if theirs is None or theirs.shape[:-1] == mine.shape[:-1]:
            fresh.append(layer)
        else:
            wrong.append(f"{name} is {theirs.shape} there and {mine.shape} here")
        return mine

    mine = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    found = flatten(given)
    new = jax.tree.map_with_path(pick, mine)
    heads = {
        layer
        for layer in fresh
        if layer.removeprefix("params/") in classifiers(mine["params"], task.model.num_classes)
    }
    wrong += [
        f"it has no {layer}"
        for layer in dict.fromkeys(fresh)
        if layer not in heads and "/aux" not in layer
    ]
    if wrong:
        more = f"; {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{source} does not fit {config.model.name}: {'; '.join(wrong[:3])}{more}"
        )
    say(
        f"starting from {source}"
        + (f"; fresh: {', '.join(dict.fromkeys(fresh)).replace('params/', '')}" if fresh else "")
    )
    averages = jax.tree.map(np.copy, new) if state.ema is not None else None
    state = state.replace(params=new["params"], batch_stats=new["batch_stats"], ema=averages)
    return task.spread.replicate(jax.device_get(state))


def classifiers(params: dict, num_classes: int) -> set[str]:
    """The layers whose biases, or kernels, end in the classes."""
    names = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    ]
    return {name.rpartition("/")[0] for name, leaf in names if leaf.shape[-1] == num_classes}


def flatten(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree.leaves_with_path(tree)
    }


def from_run(folder: str) -> dict[str, Any]:
    """The best checkpoint of a run folder, or its latest."""
    from train.run import Run

    run = Run(folder)
    try:
        return run.restore("best")[1]
    except CheckpointError:
        return run.restore("latest")[1]


def from_file(config: Config, task: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """A file of published weights; UserError names the options that the model needs to compute what they were trained for."""
    from cnnjax import weights

    try:
        loaded = weights.load(
            config.init.weights,
            config.model.name,
            config.init.source,
            num_classes=task.model.num_classes,
        )
    except (weights.WeightsError, ValueError, OSError) as error:
        raise CheckpointError(f"init.weights={config.init.weights}: {error}") from None
    fields = [
        name
        for name in vars(loaded.model)
        if name not in (*weights.HOW, "dropout", "aux_dropout", "aux", "bn_momentum")
    ]
    needed = [
        name
        for name in fields
        if not name.startswith("_")
        and getattr(loaded.model, name) != getattr(task.model, name, None)
    ]
    if needed:
        options = ", ".join(
            f"model.options.{name}={getattr(loaded.model, name)!r}" for name in needed
        )
        raise UserError(f"the weights of {config.init.source} need {options}")
    if loaded.preprocessing.channels == "BGR":
        say("warning: these weights were trained on BGR images; here they get RGB")
    for name in ("mean", "std"):
        theirs = tuple(round(value / 255, 4) for value in getattr(loaded.preprocessing, name))
        ours = getattr(config.data, name)
        if np.abs(np.subtract(theirs, ours)).max() > 1e-3:
            say(f"warning: these weights were trained with data.{name}={theirs}; here it is {ours}")
    return {
        "params": loaded.variables["params"],
        "batch_stats": loaded.variables.get("batch_stats", {}),
    }
