"""Trains a config in a run folder; the same call goes on where it stopped, to the same bits."""

from typing import Any

import jax

from train import checkpoint, logs
from train.build import Task
from train.config import Config
from train.evaluate import Evaluator
from train.run import open_workdir


def train(config: Config, workdir: str) -> dict[str, Any]:
    """Runs a config to its end in `workdir`, from its newest checkpoint if it has one.

    Returns the last evaluation, and the speed behind the first step: all but compilation and evaluation.
    """
    task = Task(config)
    evaluator = Evaluator(task.spread, task.model, task.preprocess, config.data)
    folder = open_workdir(workdir, config, task.class_names)
    first_process = jax.process_index() == 0
    with checkpoint.Checkpoints(folder / "checkpoints", config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(task.abstract_state)
        state, meta = restored or (task.fresh_state(), {"window": {}, "result": {}})
        window, start, steps = logs.Window(meta["window"]), int(state.step), task.steps
        result: dict[str, float] = meta["result"]
        rows = logs.Metrics(folder if first_process else None, resume_at=start, tensorboard=config.log.tensorboard)
        progress = logs.Progress(start, steps, config.data.batch_size, quiet=not first_process)
        if restored:
            progress.say(f"{workdir}: going on at step {start} of {steps}")
        if start < steps:
            progress.say(
                f"compiling {config.model.name} for {len(task.spread.devices)} device(s) with {task.spread.mapping}…"
            )

        batches = task.batches(start)
        pace, whole = (logs.Pace(config.data.batch_size) for _ in range(2))
        for number in range(start + 1, steps + 1):
            with pace.waiting():
                batch = next(batches)
            state, measured = task.step(state, task.spread.shard(batch), task.key)
            window.add(number, measured)
            window.wait(task.spread.steps_ahead)
            pace.step()
            whole.step()
            progress.step()
            if number == start + 1:  # it compiled: time starts behind it
                window.wait(0)
                pace.restart()
                whole.restart()
                progress.restart()

            last = number == steps
            if number % config.log.every == 0 or last:
                window.fetch()
                values = window.close() | {"lr": float(task.schedule(number - 1))} | pace.close()
                rows.write(number, "train", values)
                progress.row(number, "train", values)
            evaluated = None
            if number % config.log.eval_every == 0 or last:
                with pace.paused(), whole.paused():
                    evaluated = result = evaluator(state.variables, task.eval_split)
                rows.write(number, config.data.eval_split, evaluated)
                progress.row(number, config.data.eval_split, evaluated)
            if number % config.checkpoint.every == 0 or last:
                window.fetch()  # a state that diverged is never saved
                checkpoints.save(number, state, {"window": window.sums, "result": result}, evaluated)
        progress.close()
        rows.close()
        speed = {"images_per_second": round(whole.close()["images_per_second"])} if steps - start > 1 else {}
    return {"step": steps, **result, **speed, "workdir": str(workdir)}
