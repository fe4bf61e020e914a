"""What a recipe will take: one step is compiled, and of the data only its shape is read.

Known data sets need not be there: their numbers stand in.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import analysis
from train import data
from train.build import Task
from train.config import Config
from train.data import affine
from train.errors import DataError
from train.progress import waiting
from train.start import start

BARS = " ▁▂▃▄▅▆▇█"


class Known(data.Split):
    """A split that is not here: its numbers, and no image."""

    def __init__(
        self, examples: int, classes: int, image_shape: tuple[int | None, int | None, int]
    ):
        super().__init__()
        self._examples, self.image_shape = examples, image_shape
        self.class_names = tuple(map(str, range(classes)))

    def __len__(self) -> int:
        return self._examples


KNOWN = {
    "tfds:imagenet2012": Known(1_281_167, 1000, (None, None, 3)),
    "tfds:mnist": Known(60_000, 10, (28, 28, 1)),
    "tfds:fashion_mnist": Known(60_000, 10, (28, 28, 1)),
    "tfds:cifar10": Known(50_000, 10, (32, 32, 3)),
    "tfds:cifar100": Known(50_000, 100, (32, 32, 3)),
}


def build(config: Config, among: Sequence[jax.Device] | None = None) -> Task:
    """The task of a config, on its data or on the numbers of a known data set.

    `among` are devices to compile for.
    """
    try:
        return Task(config, among=among)
    except DataError as error:
        known = KNOWN.get(config.data.source)
        if not known:
            raise
        if jax.process_index() == 0:
            print(
                f"{error}; its known number of examples, {len(known):,}, is used",
                file=sys.stderr,
                flush=True,
            )
        return Task(config, known, among=among)


def arguments(task: Task) -> tuple[Any, Any, Any]:
    """The shapes that the task's step takes: state, global batch, key."""
    count = task.config.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, *task.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct((count, *task.train_split.label_shape), np.int32),
        "mask": jax.ShapeDtypeStruct((count,), bool),
    }
    if affine.wanted(task.config.data.augment):
        batch["affine"] = jax.ShapeDtypeStruct((count, 6), np.float32)
    spread = task.spread
    return task.abstract_state, spread.abstract_batch(batch), spread.abstract(task.key)


def dry_run(config: Config) -> dict[str, Any]:
    """Compiles the step; returns parameters, multiply-adds, memory, devices, steps."""
    start(config)
    task = build(config)
    with waiting(f"compiling {config.model.name}", quiet=jax.process_index() > 0):
        compiled = task.step.lower(*arguments(task)).compile()
    memory = compiled.memory_analysis()
    summary = analysis.summarize(task.model, task.image_shape)
    result = {
        "model": config.model.name,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "devices": len(task.spread.devices),
        "processes": jax.process_count(),
        "steps": task.steps,
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(task.abstract_state)),
        # The compiler's plan for one device: inputs, results in memory of their own, temporaries.
        "device_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
    }
    if jax.process_index() == 0:
        print(describe(task, result), file=sys.stderr, flush=True)
    return result


def describe(task: Task, result: dict[str, Any]) -> str:
    config = task.config
    kind = task.spread.devices[0].device_kind
    each = config.data.batch_size // result["devices"]
    mib = {key: result[key] / 2**20 for key in ("device_bytes", "state_bytes")}
    lines = [
        f"model      {result['model']}, {result['parameters']:,} parameters, "
        f"{result['multiply_adds']:,} multiply-adds",
        f"devices    {result['devices']} x {kind} in {result['processes']} process(es), "
        f"by {task.spread.mapping}",
        f"batch      {config.data.batch_size}, {each} on each device, "
        f"in {config.parallel.accumulate} part(s)",
        f"memory     {mib['device_bytes']:,.1f} MiB a device, "
        f"{mib['state_bytes']:,.1f} of them state",
        f"run        {result['steps']:,} steps, {config.epochs:g} epochs of "
        f"{len(task.train_split):,} images",
        "rate",
        picture(task.schedule, task.steps),
    ]
    return "\n".join(lines)


def picture(schedule: Any, steps: int, width: int = 64, height: int = 4) -> str:
    """A schedule over the run as a picture of text."""
    at = (np.arange(width) + 0.5) * steps / width
    rates = np.array(jax.vmap(schedule)(jnp.array(at.astype(np.int32))))
    peak = max(rates.max(), 1e-30)
    levels = np.rint(rates / peak * height * 8).astype(int)
    rows = []
    for row in reversed(range(height)):
        bars = "".join(BARS[min(max(level - 8 * row, 0), 8)] for level in levels)
        label = f"{peak:9.3g} " if row == height - 1 else f"{0:9} " if row == 0 else " " * 10
        rows.append(f"{label}|{bars}|")
    return "\n".join(rows)
