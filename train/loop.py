"""Trains a config in a run folder; the same call goes on where it stopped, to the same bits."""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from train import checkpoint, data, logs, losses, metrics, state, step
from train import config as configs
from train.build import build_model, build_optimizer, build_preprocess, count_steps
from train.errors import DivergedError, UserError
from train.parallel import Parallel


def train(config: configs.Config, workdir: str) -> dict[str, Any]:
    """Runs a config to its end in `workdir`, from its newest checkpoint if it has one; returns the last evaluation."""
    spread = Parallel(config.parallel.mapping, config.parallel.devices)
    spread.check("data.batch_size", config.data.batch_size)
    spread.check("data.eval_batch_size", config.data.eval_batch_size)
    shares = dict(process=jax.process_index(), processes=jax.process_count())
    first_process = jax.process_index() == 0

    train_split = data.load(config.data.source, config.data.train_split)
    eval_split = data.load(config.data.source, config.data.eval_split)
    steps = count_steps(config, len(train_split))
    model = build_model(config, len(train_split.class_names))
    tx, schedule = build_optimizer(config, steps)
    image_shape = train_split.images.shape[1:]
    preprocess = build_preprocess(config, image_shape[-1])

    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    create = partial(state.create_state, model, tx, image_shape=image_shape, ema=config.optim.ema > 0)
    try:
        shapes = jax.eval_shape(create, init_key)
    except ValueError as error:  # images that the model's geometry does not allow
        raise UserError(str(error)) from None
    loss_fn = partial(losses.objective, **dataclasses.asdict(config.loss))
    share = partial(step.train_step, model=model, tx=tx, loss_fn=loss_fn, preprocess=preprocess, ema=config.optim.ema)
    train_step = spread.map(share, split=(False, True, False), donate=True)
    eval_step = map_eval(spread, model, preprocess)
    evaluate = partial(evaluate_split, eval_step, spread, eval_split, config.data.eval_batch_size, model.num_classes)

    folder = open_workdir(workdir, config, train_split.class_names)
    with checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(spread.abstract(shapes))
        current, meta = restored or (spread.replicate(jax.jit(create)(init_key)), {"window": {}, "result": {}})
        window, start = Window(meta["window"]), int(current.step)
        result: dict[str, float] = meta["result"]
        progress = logs.Progress(start, steps, config.data.batch_size, quiet=not first_process)
        rows = logs.Metrics(folder if first_process else None, resume_at=start, tensorboard=config.log.tensorboard)
        if restored:
            progress.say(f"{workdir}: going on at step {start} of {steps}")
        if start < steps:
            progress.say(f"compiling {config.model.name} for {len(spread.devices)} device(s) with {spread.mapping}…")

        plan = data.Plan(len(train_split), config.data.batch_size, config.seed)
        batches = data.train_batches(train_split, plan, config.data.augment, start=start, stop=steps, **shares)
        pace = Pace(config.data.batch_size)
        for number in range(start + 1, steps + 1):
            with pace.waiting():
                batch = next(batches)
            current, measured = train_step(current, spread.shard(batch), run_key)
            window.add(number, measured)
            window.wait(spread.steps_ahead)
            pace.step()
            progress.step()
            if number == start + 1:  # it compiled: time starts behind it
                window.wait(0)
                pace.restart()
                progress.restart()

            last = number == steps
            if number % config.log.every == 0 or last:
                window.fetch()
                values = window.close() | {"lr": float(schedule(number - 1))} | pace.close()
                rows.write(number, "train", values)
                progress.row(number, "train", values)
            evaluated = None
            if number % config.log.eval_every == 0 or last:
                with pace.paused():
                    evaluated = result = evaluate(current.variables)
                rows.write(number, config.data.eval_split, evaluated)
                progress.row(number, config.data.eval_split, evaluated)
            if number % config.checkpoint.every == 0 or last:
                window.fetch()
                checkpoints.save(number, current, {"window": window.sums, "result": result}, evaluated)
        progress.close()
        rows.close()
    return {"step": steps, **result, "workdir": str(workdir)}


def map_eval(spread: Parallel, model, preprocess: Callable) -> Callable:
    """eval_step of the global batch, compiled."""
    return spread.map(partial(step.eval_step, model=model, preprocess=preprocess), split=(False, True))


def evaluate_split(
    eval_step: Callable, spread: Parallel, split: data.Split, batch_size: int, num_classes: int, variables: Any
) -> dict[str, float]:
    """loss, top1 (and top5) and the exact number of examples of a whole split."""
    batches = data.eval_batches(split, batch_size, process=jax.process_index(), processes=jax.process_count())
    return metrics.finalize([eval_step(variables, spread.shard(batch)) for batch in batches], num_classes)


def open_workdir(workdir: str, config: configs.Config, class_names: tuple[str, ...]) -> epath.Path:
    """Makes the run folder or takes up an old one, which must hold the same run."""
    folder = epath.Path(workdir)
    path = folder / "config.json"
    values = configs.to_dict(config) | {"class_names": list(class_names)}
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir={workdir} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
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
        raise UserError(f"{path} is not JSON; take a new --workdir") from None
    return folder


class Window:
    """Training metrics since the last row: values still on the devices, and the sums of those that were fetched."""

    def __init__(self, sums: dict[str, float]):
        self.sums = dict(sums)
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, number: int, values: dict[str, jax.Array]) -> None:
        self._pending.append((number, values))

    def wait(self, ahead: int) -> None:
        """Until at most `ahead` steps are under way: the host must not run far ahead of the devices."""
        if len(self._pending) > ahead:
            jax.block_until_ready(self._pending[-1 - ahead][1])

    def fetch(self) -> None:
        """Adds up what is pending; DivergedError names the first step whose loss is not finite."""
        numbers, values = [number for number, _ in self._pending], jax.device_get([v for _, v in self._pending])
        self._pending.clear()
        for number, of_step in zip(numbers, values):
            if not np.isfinite(of_step["loss"]):
                raise DivergedError(
                    f"the loss of step {number} is {of_step['loss']}; lower optim.lr, or raise optim.warmup"
                )
            for name, value in (of_step | {"steps": 1}).items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def close(self) -> dict[str, float]:
        """The means since the last row; a new window begins."""
        steps, sums, self.sums = self.sums.pop("steps"), self.sums, {}
        return {name: value / steps for name, value in sums.items()}


class Pace:
    """How fast training goes, and what share of the time it waits for data, since the last row."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self) -> None:
        self._steps += 1

    def waiting(self):
        return _Stopwatch(lambda seconds: setattr(self, "_waited", self._waited + seconds))

    def paused(self):
        return _Stopwatch(lambda seconds: setattr(self, "_began", self._began + seconds))

    def close(self) -> dict[str, float]:
        """images_per_second and data_wait (0 to 1)."""
        taken = max(time.perf_counter() - self._began, 1e-9)
        result = {"images_per_second": self._steps * self._batch_size / taken, "data_wait": self._waited / taken}
        self.restart()
        return result


class _Stopwatch:
    def __init__(self, report: Callable[[float], None]):
        self._report = report

    def __enter__(self):
        self._began = time.perf_counter()

    def __exit__(self, *_):
        self._report(time.perf_counter() - self._began)
