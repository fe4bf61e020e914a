"""Trains a config in a run folder; the same call goes on where it stopped, to the same bits."""

import time
from typing import Any

import jax

from train import checkpoint, config, cpu, logs, parallel, pretrained
from train.build import Task, is_small, recomputes
from train.config import Config
from train.errors import CheckpointError, DivergedError, OutOfMemoryError, Preempted, UserError
from train.evaluate import Evaluator
from train.interrupt import Interrupt
from train.kept import Kept
from train.memory import keep_memory
from train.run import open_workdir
from train.state import TrainState


def train(config: Config, workdir: str, *, recipe: str = "") -> dict[str, Any]:
    """Runs a config to its end in `workdir`, from its newest checkpoint if it has one.

    `recipe` is the file, and its argument, that the config is from, where this process runs it and nothing else: what is
    compiled is then kept for the next start.

    Returns the last evaluation, and the speed behind the first step: all but compilation and evaluation. Preempted: a signal
    asked for the end, and everything is saved.
    """
    folder = parallel.cache_programs(config.parallel.compile_cache)
    cpu.tune(recomputes=recomputes(config), small=is_small(config))
    keep_memory()
    with Interrupt() as interrupt:
        task = Task(config, kept=Kept(folder, recipe) if folder and recipe and jax.process_count() == 1 else None)
        try:
            return Training(task, workdir, interrupt).run()
        except UserError:
            raise
        except Exception as error:
            if jax.process_count() > 1 and parallel.is_lost_peer(error):
                parallel.lost()
            if memory_is_out(error):
                raise OutOfMemoryError(out_of_memory(task)) from error
            raise


class Training:
    """One run, from a run folder and back into it."""

    def __init__(self, task: Task, workdir: str, interrupt: Interrupt):
        self.task, self.interrupt, self.config = task, interrupt, task.config
        self.evaluator = Evaluator(task.spread, task.model, task.preprocess, self.config.data)
        self.workdir, self.first_process = workdir, jax.process_index() == 0
        if not self.first_process:
            parallel.first_process_says()  # that the folder has the config which all others compare with theirs
        self.folder = open_workdir(workdir, self.config, task.class_names, task.image_shape, task.steps)
        if self.first_process:
            parallel.first_process_says()
        self.told_of_waiting = False

    def run(self) -> dict[str, Any]:
        attempt = 0
        with checkpoint.Checkpoints(self.folder / "checkpoints", self.config.checkpoint.keep) as self.checkpoints:
            while True:
                attempt = self.restore(attempt)
                try:
                    return self.go_on(attempt)
                except DivergedError as error:
                    if self.config.on_nan != "rollback":
                        raise
                    if attempt >= self.config.rollbacks:
                        raise DivergedError(f"{error}; {attempt} rollback(s) did not help") from None
                    attempt += 1
                    self.checkpoints.wait()
                    self.progress.say(f"warning: {error}; going back to the last checkpoint, then on in another order")
                finally:
                    self.trace.close(0)
                    self.progress.close()
                    self.rows.close()

    def restore(self, attempt: int) -> int:
        """The newest checkpoint, or the start. Returns which attempt this is: the checkpoint's, or a later one."""
        task, skip_bad = self.task, self.config.on_nan == "skip"
        restored = self.checkpoints.restore_latest(task.abstract_state)
        meta: dict[str, Any] = restored[1] if restored else {}
        self.state: TrainState = restored[0] if restored else task.fresh_state()
        self.start = int(self.state.step)
        self.window = logs.Window(meta.get("window", {}), skip_bad=skip_bad)
        self.result: dict[str, float] = meta.get("result", {})
        self.best: float = meta.get("best", -1.0)  # top-1 of the best evaluation so far
        self.trace = logs.Trace(self.config.log.profile if self.first_process else (), self.folder / "profile")
        self.rows = logs.Metrics(
            self.folder if self.first_process else None, resume_at=self.start, tensorboard=self.config.log.tensorboard,
            wandb=self.config.log.wandb, config=config.to_dict(self.config),
        )  # fmt: skip
        self.progress = logs.Progress(self.start, task.steps, self.config.data.batch_size, quiet=not self.first_process)
        if restored:
            self.progress.say(f"{self.workdir}: going on at step {self.start} of {task.steps}")
        elif self.config.init.weights:
            self.state = pretrained.start_from(self.config, task, self.state, self.progress.say)
        return max(attempt, meta.get("attempt", 0))

    def go_on(self, attempt: int) -> dict[str, Any]:
        task, every, window, progress = self.task, self.config.log, self.window, self.progress
        spread, steps, start = task.spread, task.steps, self.start
        if start < steps:
            if self.config.optim.warmup >= self.config.epochs:
                progress.say(f"warning: the warm-up of {self.config.optim.warmup:g} epochs is as long as the run")
            progress.say(
                f"compiling {self.config.model.name} for {len(spread.devices)} device(s) with {spread.mapping}…"
            )
        began = time.perf_counter()
        batches = task.batches(start, attempt)
        pace, whole = (logs.Pace(self.config.data.batch_size) for _ in range(2))
        for number in range(start + 1, steps + 1):
            self.trace.before(number)
            asked = time.perf_counter()
            batch = next(batches)
            if window.idle():  # else the devices were still busy, and what it took cost nothing
                pace.waited(time.perf_counter() - asked)
            placed = spread.shard(batch)
            if number == start + 1:
                step = task.ready_step(self.state, placed)
            self.state, measured = step(self.state, placed, task.key)
            window.add(number, measured)
            window.wait(spread.steps_ahead)
            pace.step()
            whole.step()
            progress.step()
            if number == start + 1:  # it compiled: time starts behind it
                window.wait(0)
                progress.say(f"compiled, first step done, in {time.perf_counter() - began:.1f} s")
                self.checkpoints.prepare()
                pace.restart()
                whole.restart()
                progress.restart()

            last = number == steps
            if self.trace.ends_with(number) or last:
                window.wait(0)
                if said := self.trace.close(number):
                    progress.say(said)
            if number % every.every == 0 or last:
                self.log(number, pace)
            evaluated, better = None, False
            if number % every.eval_every == 0 or last:
                with pace.paused(), whole.paused():
                    evaluated = self.evaluate(number)
                better = evaluated["top1"] > self.best
                self.best = max(self.best, evaluated["top1"])
            interrupted = self.interrupt.requested(number)
            if number % self.config.checkpoint.every == 0 or last or interrupted or better:
                self.save(number, evaluated, attempt)
            if interrupted and not last:
                self.checkpoints.wait()
                self.require(number)
                raise Preempted(
                    f"ended by a signal behind step {number} of {steps}, and saved; the same command goes on"
                )
        if start < steps:
            self.checkpoints.wait()
            self.require(steps)
        speed = {"images_per_second": round(whole.close()["images_per_second"])} if steps - start > 1 else {}
        return {"step": steps, **self.result, **speed, **self.bad_images(), "workdir": str(self.workdir)}

    def log(self, number: int, pace: logs.Pace) -> None:
        self.window.fetch()
        epoch, speed = number * self.config.epochs / self.task.steps, pace.close()
        rate = {"lr": self.task.lr(self.state, number)}
        values = {"epoch": epoch} | self.window.close() | rate | speed | self.bad_images()
        self.rows.write(number, "train", values)
        self.progress.row(number, "train", values)
        if speed.get("data_wait", 0) > 0.2 and not self.told_of_waiting:
            self.told_of_waiting = True
            self.progress.say(
                f"warning: {speed['data_wait']:.0%} of the time goes into waiting for data; data.workers, smaller or packed "
                "images (python -m train.data prepare folder), or fewer augmentations help"
            )

    def bad_images(self) -> dict[str, int]:
        """How many unreadable images of the training split this process has met since it started, where they are skipped."""
        return {"bad_images": len(self.task.train_split.bad)} if self.config.data.on_bad_image == "skip" else {}

    def evaluate(self, number: int) -> dict[str, float]:
        try:
            self.result = self.evaluator(self.state.variables, self.task.eval_split)
        except Exception as error:
            if memory_is_out(error):
                size = self.config.data.eval_batch_size
                raise OutOfMemoryError(
                    f"out of memory in evaluation; try less than data.eval_batch_size={size}"
                ) from error
            raise
        self.rows.write(number, self.config.data.eval_split, self.result)
        self.progress.row(number, self.config.data.eval_split, self.result)
        self.state = self.task.observe(self.state, self.result["top1"])
        return self.result

    def save(self, number: int, evaluated: dict | None, attempt: int) -> None:
        self.window.fetch()  # a state that diverged is never saved
        # Nor one whose rows are not on disk: they could not be written again.
        if parallel.first_process_says(self.rows.flush()):
            meta = {"window": self.window.sums, "result": self.result, "best": self.best, "attempt": attempt}
            self.checkpoints.save(number, self.state, meta, evaluated)

    def require(self, number: int) -> None:
        if number not in self.checkpoints.steps():
            raise CheckpointError(
                f"step {number} is done, but could not be saved in {self.folder}; make space, and the same command goes on "
                "from the last checkpoint"
            )


def memory_is_out(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) and "No space left" not in str(error)


def out_of_memory(task: Task) -> str:
    """What was too much, and what makes it less."""
    config, devices = task.config, len(task.spread.devices)
    share, parts = config.data.batch_size // devices, config.parallel.accumulate
    advice = [f"parallel.accumulate={2 * parts}"] if share % (2 * parts) == 0 else ["a smaller data.batch_size"]
    if not task.keeps_products and task.abstract_state.batch_stats:
        advice.append("model.keep=products (less memory for activations)")
    if hasattr(task.model, "remat") and not task.model.remat:
        advice.append("model.options.remat=true (a third more time)")
    if config.model.dtype == "float32":
        advice.append("model.dtype=bfloat16")
    at_once = f"{share // parts} images at once on each of {devices} device(s)"
    return f"out of memory with {config.model.name} and {at_once}; try {', then '.join(advice)}, then a smaller data.batch_size"
