"""Trains a config in a run folder; the same call goes on where it stopped, to the same bits."""

import dataclasses
import json
import time
from collections import deque
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cnnjax import create_model
from train import checkpoint, config as configs, data, logs, losses, metrics, optim, parallel, state, step
from train.errors import DivergedError, UserError


def build_model(config: configs.Config, classes: int) -> nn.Module:
    """The model that a config names; UserError for an unknown name, option or type."""
    dtypes = {"float32": None, "bfloat16": jnp.bfloat16}
    if config.model.dtype not in dtypes:
        raise UserError(f"model.dtype is float32 or bfloat16, got {config.model.dtype!r}")
    if config.model.num_classes and config.model.num_classes < classes:
        raise UserError(f"model.num_classes={config.model.num_classes}, but the data has {classes} classes")
    try:
        model = create_model(config.model.name, num_classes=config.model.num_classes or classes,
                             dtype=dtypes[config.model.dtype], **config.model.options)  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.parallel.sync_batchnorm and any(f.name == "bn_axis" for f in dataclasses.fields(model)):
        model = model.clone(bn_axis=step.AXIS)
    return model


def build_optimizer(config: configs.Config, steps: int, steps_per_epoch: float):
    """(optax transformation, step -> learning rate) of a config."""
    o = config.optim
    schedule = optim.make_schedule(o.schedule, o.lr, steps=steps, warmup=round(o.warmup * steps_per_epoch),
                                   decay_every=round(o.decay_every * steps_per_epoch), decay_rate=o.decay_rate)  # fmt: skip
    tx = optim.make_optimizer(o.name, schedule, momentum=o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay)
    return tx, schedule


def open_workdir(workdir: str, config: configs.Config, class_names: tuple[str, ...]) -> epath.Path:
    """Makes the run folder or takes up an old one, which must hold the same run."""
    folder = epath.Path(workdir)
    values = configs.to_dict(config) | {"class_names": list(class_names)}
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir={workdir} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        if path.exists():
            changed = configs.difference(json.loads(path.read_text()), values)
            if changed:
                raise UserError(
                    f"{workdir} holds a run with another config: {'; '.join(changed)}. "
                    "Take a new --workdir, or the old values to resume"
                )
        path.write_text(json.dumps(values, indent=1))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from None
    except json.JSONDecodeError:
        raise UserError(f"{folder / 'config.json'} is not JSON; take a new --workdir") from None
    return folder


class Window:
    """Training metrics since the last row: values still on the devices, and the sums of those that were fetched."""

    def __init__(self, saved: dict | None = None):
        self._pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self.sums: dict[str, float] = dict(saved or {})

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        self._pending.append((step, values))

    def wait(self, behind: int) -> None:
        """Until at most `behind` steps are under way, so that the host never runs far ahead of the devices."""
        if len(self._pending) > behind:
            jax.block_until_ready(self._pending[-1 - behind][1])

    def fetch(self) -> None:
        """Adds up what is pending; DivergedError names the first step whose loss is not finite."""
        fetched = jax.device_get([values for _, values in self._pending])
        steps = [number for number, _ in self._pending]
        self._pending.clear()
        for number, values in zip(steps, fetched):
            if not np.isfinite(values["loss"]):
                raise DivergedError(f"the loss of step {number} is {values['loss']}; lower optim.lr, or lengthen optim.warmup")
            for name, value in (values | {"steps": 1}).items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def close(self) -> dict[str, float]:
        """The means since the last row; a new window begins."""
        steps = self.sums.pop("steps")
        means = {name: value / steps for name, value in self.sums.items()}
        self.sums = {}
        return means


def train(config: configs.Config, workdir: str) -> dict[str, Any]:
    """Runs a config to its end in `workdir`, from its newest checkpoint if it has one; returns the last evaluation."""
    spread = parallel.Parallel(config.parallel.mapping, config.parallel.devices)
    spread.check("data.batch_size", config.data.batch_size)
    spread.check("data.eval_batch_size", config.data.eval_batch_size)
    first_process = jax.process_index() == 0
    shares = dict(process=jax.process_index(), processes=jax.process_count())

    train_split = data.load(config.data.source, config.data.train_split)
    eval_split = data.load(config.data.source, config.data.eval_split)
    classes = len(train_split.class_names)
    plan = data.Plan(len(train_split), config.data.batch_size, config.seed)
    steps_per_epoch = len(train_split) / config.data.batch_size
    steps = round(config.epochs * steps_per_epoch)
    if steps < 1:
        raise UserError(f"epochs={config.epochs} of {len(train_split)} examples make no step of {config.data.batch_size}")

    model = build_model(config, classes)
    tx, schedule = build_optimizer(config, steps, steps_per_epoch)
    folder = open_workdir(workdir, config, train_split.class_names)
    progress = logs.Progress(0, steps, config.data.batch_size, quiet=not first_process)

    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    try:
        current = state.create_state(model, tx, init_key, train_split.images.shape[1:], ema=config.optim.ema > 0)
    except ValueError as error:
        raise UserError(str(error)) from None
    current = spread.replicate(current)
    preprocess = partial(step.normalize, mean=config.data.mean, std=config.data.std)
    loss_fn = partial(losses.objective, **dataclasses.asdict(config.loss))
    train_step = spread.map(partial(step.train_step, model=model, tx=tx, loss_fn=loss_fn, preprocess=preprocess,
                                    ema=config.optim.ema), split=(False, True, False), donate=True)  # fmt: skip
    eval_step = spread.map(partial(step.eval_step, model=model, preprocess=preprocess), split=(False, True))

    def evaluate(variables) -> dict[str, float]:
        batches = data.eval_batches(eval_split, config.data.eval_batch_size, **shares)
        return metrics.finalize((eval_step(variables, spread.shard(batch)) for batch in batches), model.num_classes)

    with checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep) as checkpoints:
        window, result = Window(), {}
        restored = checkpoints.restore_latest(current)
        if restored:
            current, meta = restored
            window, result = Window(meta["window"]), meta["result"]
        start = int(current.step)
        if restored:
            progress.say(f"resuming {workdir} at step {start} of {steps}")
        rows = logs.Metrics(folder, resume_at=start, tensorboard=config.log.tensorboard) if first_process else None
        progress = logs.Progress(start, steps, config.data.batch_size, quiet=not first_process)
        batches = data.train_batches(train_split, plan, config.data.augment, start=start, stop=steps, **shares)
        if start < steps:
            progress.say(f"compiling {config.model.name} for {len(spread.devices)} device(s), {spread.mapping}…")
        # One step runs while the next waits, except on several fake devices of one CPU, whose collectives could dead-lock.
        behind = 0 if len(spread.devices) > 1 and spread.devices[0].platform == "cpu" else 1
        began, waited = time.perf_counter(), 0.0
        for number in range(start + 1, steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            current, values = train_step(current, spread.shard(batch), step_key)
            window.add(number, values)
            window.wait(behind)
            progress.step()
            if number == start + 1:
                window.wait(0)
                progress.compiled()
                began, waited = time.perf_counter(), 0.0

            last = number == steps
            if number % config.log.every == 0 or last:
                window.fetch()
                taken = time.perf_counter() - began
                means = window.close() | {"lr": float(schedule(number - 1)),
                                          "images_per_second": config.data.batch_size * config.log.every / max(taken, 1e-9),
                                          "data_wait": waited / max(taken, 1e-9)}  # fmt: skip
                progress.row(number, "train", means)
                if rows:
                    rows.write(number, "train", means)
                began, waited = time.perf_counter(), 0.0
            evaluated = None
            if number % config.log.eval_every == 0 or last:
                paused = time.perf_counter()
                evaluated = result = evaluate(current.variables)
                progress.row(number, config.data.eval_split, evaluated)
                if rows:
                    rows.write(number, config.data.eval_split, evaluated)
                began += time.perf_counter() - paused
            if number % config.checkpoint.every == 0 or last:
                window.fetch()
                checkpoints.save(number, current, {"window": window.sums, "result": result}, evaluated)
        progress.close()
        checkpoints.wait()
        if rows:
            rows.close()
    return {"step": steps, **result, "workdir": str(workdir)}
