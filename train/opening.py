"""The first lines of a run: which images and classes, which network, how long, where."""

import textwrap
from typing import Any

import jax

from cnnjax.trees import flatten
from train.build import Task
from train.config import Config
from train.data.counts import describe, majority
from train.progress import columns


def first_lines(task: Task, workdir: str) -> str:
    """What a run trains on, and with what, as lines for people."""
    config = task.config
    splits = {config.data.train_split: task.train_split, config.data.eval_split: task.eval_split}
    height, width, channels = task.image_shape
    count = len(task.class_names)
    lines = [("data", f"{config.data.source}, {count:,} {'class' if count == 1 else 'classes'}")]
    lines += [("", f"{name}: {describe(split)}") for name, split in splits.items()]
    base = majority(task.eval_split)
    if base:
        lines.append(("", f"always answering {base[0]!r} is right for {base[1]:.1%} of these"))
    lines += [
        ("network", network(task)),
        (
            "run",
            f"{task.steps:,} steps of {config.data.batch_size} images {height}x{width}x{channels} "
            f"({config.epochs:g} epochs), into {workdir}",
        ),
    ]
    if harder := harder_in_training(config, task):
        reasons = " and ".join(filter(None, [", ".join(harder[:-1]), harder[-1]]))
        lines.append(("loss", f"higher in rows of training than of evaluation: {reasons}"))
    wide = min(columns(), 100)
    return "\n".join(
        textwrap.fill(f"{head:<9}{text}", wide, subsequent_indent=" " * 11) for head, text in lines
    )


def network(task: Task) -> str:
    """The network, and how many of its parameters train."""
    params = task.abstract_state.params
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    text = f"{task.config.model.name}, {total:,} parameters"
    if task.frozen is None:
        return text
    frozen = [path for path, is_frozen in flatten(task.frozen).items() if is_frozen]
    sizes = {path: leaf.size for path, leaf in flatten(params).items()}
    trained = total - sum(sizes[path] for path in frozen)
    layers = dict.fromkeys(path.partition("/")[0] for path in frozen)
    return f"{text}, of which {trained:,} train; frozen: {some(list(layers))}"


def some(names: list[str], most: int = 6) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def harder_in_training(config: Config, task: Task) -> list[str]:
    """Why the loss in training is above that in evaluation."""
    default, chosen = vars(type(config.data.augment)()), vars(config.data.augment)
    quiet = ("distort", "interpolation", "short_side", "area", "aspect", "magnitude")
    changed = any(chosen[key] != default[key] for key in chosen if key not in quiet)
    smoothing, model = config.loss.label_smoothing, task.model
    reasons: dict[str, Any] = {
        f"it includes label smoothing of {smoothing:g}": smoothing,
        "it includes that of the auxiliary heads": getattr(model, "aux", 0)
        and config.loss.aux_weight,
        "the images are changed at random": changed,
        "dropout is on": getattr(model, "dropout", 0),
    }
    return [reason for reason, holds in reasons.items() if holds]
