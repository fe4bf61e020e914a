"""Trains a config in a run folder; the same call resumes it, to the same bits.

One file from the first line of a run to its last, because what is saved, resumed and undone has to
be seen together.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax

from train import checkpoint, config, logs, pretrained, run, trackers
from train.agreement import agree
from train.build import Given, Task
from train.config import Config
from train.data.counts import majority
from train.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    LostError,
    OutOfMemoryError,
    Preempted,
    UserError,
)
from train.evaluator import Evaluator
from train.lock import Lock
from train.meters import Meters
from train.opening import first_lines
from train.progress import Progress, accuracy, against_majority, duration, is_live, waiting
from train.runtime import cluster, malloc, programs
from train.runtime.signals import Interrupt
from train.start import start
from train.state import TrainState


def train(
    config: Config,
    workdir: str,
    *,
    recipe: str = "",
    interrupt: Interrupt | None = None,
    given: Given | None = None,
) -> dict[str, Any]:
    """Runs a config to its end in a run folder, from its newest checkpoint if it has one.

    Args:
        config: what to train, as a recipe's `get_config()` returns it.
        workdir: the run folder; made if it is missing.
        recipe: the file, and its argument, that the config is from, where this process runs it and
            nothing else. The traced step is then cached for the next start.
        interrupt: what a signal does; by default SIGTERM and SIGUSR1 stop the run after a step.
        given: what takes the place of things that the config names.

    Returns:
        The last evaluation, the step, and the speed: first (compiling) step and evaluations
        excluded.

    Raises:
        UserError: and its subclasses, each with an exit code. `Preempted`: a signal asked for the
            end, and everything is saved.

    >>> from train import recipe
    >>> train(recipe.load("configs/lenet_mnist.py"), "runs/lenet")["top1"]
    0.99
    """
    cache = start(config, recipe)
    cluster.check_devices()
    trackers.check(config.log.to)
    with contextlib.nullcontext(interrupt) if interrupt else Interrupt() as interrupt:
        quiet = not is_live() or jax.process_index() > 0
        with waiting(f"reading {config.data.source}", quiet=quiet):
            task = Task(config, given=given)
        try:
            return Training(task, workdir, interrupt, cache).run()
        except UserError:
            raise
        except Exception as error:
            if cluster.is_lost_peer(error):
                raise LostError(LostError.sentence) from error
            if memory_is_out(error):
                raise OutOfMemoryError(out_of_memory(task)) from error
            raise


class Training:
    """One run, from a run folder and back into it."""

    def __init__(
        self,
        task: Task,
        workdir: str,
        interrupt: Interrupt,
        cache: programs.Cache | None = None,
    ):
        self.task, self.interrupt, self.cache = task, interrupt, cache
        self.config, self.workdir = task.config, workdir
        self.evaluator = Evaluator(task.spread, task.model, task.preprocess, self.config.data)
        self.first_process = jax.process_index() == 0
        self.about = task.about()
        agree(self.config, self.about)
        # Weights are read before the folder is made: a run that is refused leaves nothing.
        self.given: dict[str, Any] | None = None
        if self.config.init.weights and not checkpoint.exists(workdir):
            self.given = pretrained.read(task)
        self.warned_of_waiting = False
        self.began: float | None = None  # when the first step began

    def run(self) -> dict[str, Any]:
        """Holds the run folder, and trains in it."""
        if not self.first_process:
            cluster.first_process_says()  # that config.json is there, to compare with
        self.folder = run.make_folder(self.workdir)
        with contextlib.ExitStack() as held:
            if self.first_process:
                held.enter_context(Lock(self.folder))
            run.claim(self.folder, self.config, self.about, self.task.eval_split)
            if self.first_process:
                cluster.first_process_says()
            folder, keep = self.folder / "checkpoints", self.config.checkpoint.keep
            best = self.config.checkpoint.best
            self.checkpoints = held.enter_context(checkpoint.Checkpoints(folder, keep, best=best))
            return self.attempts()

    def attempts(self) -> dict[str, Any]:
        """Trains; after a divergence, again from the last checkpoint, if the config says so."""
        self.attempt = 0
        while True:
            self.restore()
            failed = True
            try:
                result = self.train()
                failed = False
                return result
            except DivergedError as error:
                if self.config.on_nan != "rollback":
                    raise
                if self.attempt >= self.config.rollbacks:
                    raise DivergedError(
                        f"{error}; {self.attempt} rollback(s) did not help"
                    ) from None
                self.attempt += 1
                self.checkpoints.wait()
                self.progress.say(
                    f"warning: {error}; back to the last checkpoint, with the data reshuffled"
                )
            finally:
                self.trace.close(0)
                self.progress.close()
                self.rows.close(failed)

    def restore(self) -> None:
        """The newest checkpoint, or a fresh state; and which attempt this is."""
        task, config_, first = self.task, self.config, self.first_process
        restored = self.checkpoints.restore_latest(task.abstract_state)
        meta: dict[str, Any] = restored[1] if restored else {}
        self.state: TrainState = restored[0] if restored else task.fresh_state()
        self.start = int(self.state.step)
        self.result: dict[str, float] = meta.get("result", {})
        known = meta if meta.get("of", "top1") == config_.checkpoint.best else {}
        self.best: float | None = known.get("best")  # `goodness` of the best evaluation so far
        self.stale: int = known.get("stale", 0)  # evaluations since then
        self.meters = Meters(
            config_.data.batch_size,
            task.spread.steps_ahead,
            meta.get("window", {}),
            skip_bad=config_.on_nan == "skip",
            scaled=config_.model.dtype == "float16",
        )
        self.trace = logs.Trace(config_.log.profile if first else (), self.folder / "profile")
        self.rows = logs.Metrics(
            self.folder if first else None,
            resume_at=self.start,
            to=config_.log.to,
            project=config_.log.project,
            config=config.to_dict(config_),
        )
        self.progress = Progress(
            self.start,
            task.steps,
            config_.data.batch_size,
            eval_every=config_.log.eval_every,
            quiet=not first,
        )
        if restored:
            ended = self.start >= task.steps or self.is_enough()
            done = "nothing is left to train" if ended else "resuming"
            self.progress.say(f"{self.workdir}: {done} at step {self.start} of {task.steps}")
            lost = -(-self.start // config_.log.every) - self.rows.train_rows
            if not ended:
                lost = self.start // config_.log.every - self.rows.train_rows
            if lost > 0 and first:
                self.progress.say(
                    f"warning: {lost} row(s) of training are missing in metrics.jsonl; "
                    "the log will have a gap"
                )
        elif self.given is not None:
            self.state = pretrained.start_from(task, self.state, self.given, self.progress.say)
        self.attempt = max(self.attempt, meta.get("attempt", 0))

    def train(self) -> dict[str, Any]:
        """The loop: from the state's step to the last one."""
        task, meters, steps, every = self.task, self.meters, self.task.steps, self.config.log
        number = steps = self.start if self.is_enough() else steps
        self.mark_end(steps if self.is_enough() else None)
        self.announce(steps)
        batches = task.batches(self.start, self.attempt)
        step: Callable | None = None
        for number in range(self.start + 1, steps + 1):
            self.trace.before(number)
            with meters.waiting_for_data():
                host_batch = next(batches)
            batch = task.spread.shard(host_batch)
            if step is None:
                step = self.compile(batch)
            self.state, values = step(self.state, batch, task.key)
            meters.step(number, values)
            self.progress.step()
            if number == self.start + 1:
                self.first_step_done()

            def due(period: int, number: int = number) -> bool:
                return number % period == 0 or number == steps

            last = number == steps
            if self.trace.ends_with(number) or last:
                meters.window.wait(0)
                self.progress.say(self.trace.close(number))
            if due(every.every):
                self.log(number)
            evaluated = self.evaluate(number) if due(every.eval_every) else None
            best, stop = self.is_best(evaluated), self.interrupt.requested(number)
            enough = self.is_enough()
            if due(self.config.checkpoint.every) or best or stop or enough:
                self.save(number, evaluated)
            if enough and not last:
                self.end_early(number)
                break
            if stop and not last:
                self.require_checkpoint(number)
                raise Preempted(
                    f"stopped by a signal after step {number} of {steps}; saved. "
                    "Run the same command to resume."
                )
        if self.start < steps:
            self.require_checkpoint(number)
        speed = meters.images_per_second()
        result = {"step": number, **self.result}
        self.progress.say(self.last_line())
        if speed is not None:
            result["images_per_second"] = round(speed)
        return result | self.bad_images() | {"workdir": str(self.workdir)}

    def announce(self, steps: int) -> None:
        if self.start == steps:
            return
        optim, spread = self.config.optim, self.task.spread
        if self.config.data.train_split == self.config.data.eval_split:
            self.progress.say(
                f"warning: the run is evaluated on the split that it trains on, "
                f"{self.config.data.train_split}"
            )
        if optim.warmup >= self.config.epochs:
            self.progress.say(
                f"warning: the warm-up of {optim.warmup:g} epochs is as long as the run; "
                "lower optim.warmup"
            )
        self.progress.say(first_lines(self.task, self.workdir))
        self.progress.wait_for(
            f"compiling {self.config.model.name} for {len(spread.devices)} device(s) "
            f"with {spread.mapping}"
        )
        self.began = time.perf_counter()

    def last_line(self) -> str:
        """What the run has come to, and what to do next."""
        if not self.result:
            return ""
        took = ""
        if self.began is not None:
            took = f", after {duration(time.perf_counter() - self.began)}"
        asked = self.task.eval_split
        told = accuracy(self.result, self.config.data.eval_split, multi_label=asked.multi_label)
        if poor := against_majority(self.result, majority(asked)):
            took += f"{poor}; more epochs or a lower optim.lr may help"
        return f"{told}{took}\nnext: python -m train.report --workdir={self.workdir}"

    def compile(self, batch: dict[str, Any]) -> Callable:
        """The step, compiled for the state and the batches of this run."""
        task, arguments = self.task, (self.state, batch, self.task.key)
        step = task.step
        if self.cache:
            traced = self.cache.traced(step, arguments, task.decided_by())
            step = jax.jit(traced, donate_argnums=0) if traced is not step else step
        compiled = step.lower(*arguments).compile()
        malloc.give_back()  # what compiling leaves, before the step takes its own
        return compiled

    def first_step_done(self) -> None:
        self.meters.window.wait(0)
        assert self.began is not None
        seconds = time.perf_counter() - self.began
        self.progress.restart()
        self.progress.say(f"compiled, first step done, in {seconds:.1f} s")
        self.checkpoints.prepare()
        self.interrupt.hold()
        self.meters.restart()
        self.progress.restart()

    def log(self, number: int) -> None:
        means, speed = self.meters.row()
        epoch = number * self.config.epochs / self.task.steps
        if "loss" not in means:  # all of few steps left float16's range
            self.rows.write(number, "train", {"epoch": epoch} | means)
            return
        lr = self.task.lr(self.state, number)
        rate = {} if lr is None else {"lr": lr}
        values = {"epoch": epoch} | means | rate | speed | self.bad_images()
        self.rows.write(number, "train", values)
        self.progress.row(number, "train", values)
        if speed.get("data_wait", 0) > 0.2 and not self.warned_of_waiting:
            self.warned_of_waiting = True
            self.progress.say(
                f"warning: the devices wait for data {speed['data_wait']:.0%} of the time; more "
                "data.workers, smaller or packed images (python -m train.data prepare folder), or "
                "fewer augmentations help"
            )

    def bad_images(self) -> dict[str, int]:
        """How many unreadable images this process has skipped since it started, where it may."""
        if self.config.data.on_bad_image != "skip":
            return {}
        return {"bad_images": len(self.task.train_split.bad)}

    def evaluate(self, number: int) -> dict[str, float]:
        split = self.config.data.eval_split
        with self.meters.paused(), self.progress.evaluating(split):
            try:
                self.result = self.evaluator(self.state.variables, self.task.eval_split)
            except DataError:  # of the evaluation's images: the training so far is kept
                if jax.process_count() == 1:  # saving needs all processes, and this may be one's
                    self.save(number, None)
                    self.checkpoints.wait()
                raise
            except Exception as error:
                if memory_is_out(error):
                    size = self.config.data.eval_batch_size
                    raise OutOfMemoryError(
                        f"out of memory in evaluation; try less than data.eval_batch_size={size}"
                    ) from error
                raise
            self.rows.write(number, split, self.result)
            self.progress.row(number, split, self.result)
            self.state = self.task.observe(self.state, self.result["top1"])
        return self.result

    def is_best(self, evaluated: dict[str, float] | None) -> bool:
        """Whether an evaluation is better than all before."""
        if evaluated is None:
            return False
        value = checkpoint.goodness(evaluated, name=self.config.checkpoint.best)
        better = self.best is None or value > self.best
        self.best = value if better else self.best
        self.stale = 0 if better else self.stale + 1
        return better

    def is_enough(self) -> bool:
        """Whether so many evaluations in a row were no better that the run ends."""
        return 0 < self.config.stop_after <= self.stale

    def end_early(self, number: int) -> None:
        best = self.config.checkpoint.best
        self.progress.say(
            f"the last {self.stale} evaluations brought no better {best}: the run ends at step "
            f"{number} of {self.task.steps} (stop_after={self.config.stop_after})"
        )
        self.mark_end(number)

    def mark_end(self, number: int | None) -> None:
        if self.first_process:
            run.end(self.folder, number)

    def save(self, number: int, evaluated: dict | None) -> None:
        self.meters.window.fetch()  # a state that diverged is never saved
        # Nor is one whose rows are not on disk: they could not be written again.
        if cluster.first_process_says(self.rows.flush()):
            meta = {
                "window": self.meters.window.sums,
                "result": self.result,
                "of": self.config.checkpoint.best,
                "best": self.best,
                "stale": self.stale,
                "attempt": self.attempt,
            }
            self.checkpoints.save(number, self.state, meta, evaluated)

    def require_checkpoint(self, number: int) -> None:
        """Waits for the checkpoint of a step, which must be there."""
        self.checkpoints.wait()
        if number not in self.checkpoints.steps():
            raise CheckpointError(
                f"step {number} is done, but could not be saved in {self.folder}. Make space, and "
                "run the same command to resume from the last checkpoint."
            )


def memory_is_out(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) and "No space left" not in str(error)


def out_of_memory(task: Task) -> str:
    """What was too much, and what makes it less."""
    config, devices = task.config, len(task.spread.devices)
    share, parts = config.data.batch_size // devices, config.parallel.accumulate
    advice = ["a smaller data.batch_size"]
    if share % (2 * parts) == 0:
        advice = [f"parallel.accumulate={2 * parts}"]
    if not task.keeps_products and task.abstract_state.batch_stats:
        advice.append("model.keep=products (less memory for activations)")
    if hasattr(task.model, "remat") and not task.model.remat:
        advice.append("model.options.remat=true (a third more time)")
    if config.model.dtype == "float32":
        advice.append("model.dtype=bfloat16")
    return (
        f"out of memory with {config.model.name} and {share // parts} images at once on each of "
        f"{devices} device(s); try {', then '.join(advice)}, then a smaller data.batch_size"
    )
