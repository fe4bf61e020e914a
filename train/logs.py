"""What a run tells: `metrics.jsonl`, the source of truth for every plot, and progress for a person."""

import contextlib
import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from train.errors import CheckpointError, DivergedError, UserError


class Metrics:
    """Appends rows to `metrics.jsonl`: one object a line with `step`, `split` and scalars; trackers on request."""

    def __init__(
        self,
        workdir: epath.Path | None,
        *,
        resume_at: int = 0,
        tensorboard: bool = False,
        wandb: str = "",
        config: dict | None = None,
    ):
        """Keeps the rows up to step `resume_at`: later ones will be written again. Without a folder nothing is written."""
        self._path = workdir / "metrics.jsonl" if workdir else None
        self._rows: list[str] = []  # not on disk yet
        self._told = False  # that they cannot be written
        self._trackers: list[Callable[[int, str, dict], None]] = []
        self._closers: list[Callable[[], Any]] = []
        if workdir and self._path:
            self._text = "".join(json.dumps(row) + "\n" for row in read(workdir) if row["step"] <= resume_at)
            self._torn = True
            self.flush()
            if tensorboard:
                self._track_tensorboard(workdir, resume_at)
            if wandb:
                self._track_wandb(workdir, wandb, config or {})

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """On disk when it returns, so that a checkpoint that follows never outlives its rows; see `flush`."""
        if self._path:
            self._rows.append(json.dumps({"step": step, "split": split} | values) + "\n")
            self.flush()
        for track in self._trackers:
            track(step, split, values)

    def flush(self) -> bool:
        """Whether every row is on disk. Those that a full disk does not take are kept, and tried again with the next."""
        if not self._path or not (self._rows or self._torn):
            return True
        try:
            if self._torn:  # the file may end in half a row
                whole = self._path.with_name("metrics.jsonl.new")
                whole.write_text(self._text + "".join(self._rows))
                whole.replace(self._path)  # at no time is there less than before
            else:
                with self._path.open("a") as file:
                    file.write("".join(self._rows))
        except OSError as error:
            if not self._torn:
                self._text = "".join(json.dumps(row) + "\n" for row in read(self._path.parent))
            self._torn = True
            if not self._told:
                print(f"warning: {self._path} cannot be written: {error.strerror or error}; its rows are kept until it can be",
                      file=sys.stderr, flush=True)  # fmt: skip
            self._told = True
            return False
        self._text, self._torn, self._told, self._rows = "", False, False, []
        return True

    def close(self) -> None:
        for close in self._closers:
            close()

    def _track_tensorboard(self, workdir: epath.Path, resume_at: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError("log.tensorboard needs the package tensorboardX: pip install tensorboardX") from None

        writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_at + 1)

        def track(step, split, values):
            for name, value in values.items():
                writer.add_scalar(f"{split}/{name}", value, step)

        self._trackers.append(track)
        self._closers.append(writer.close)

    def _track_wandb(self, workdir: epath.Path, project: str, config: dict) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("log.wandb needs the package wandb: pip install wandb") from None

        # One run folder, one run over there, whoever resumes it; folders of one name in two places are two.
        name, place = workdir.name, str(workdir if "://" in str(workdir) else workdir.resolve())
        number = f"{name}-{zlib.crc32(place.encode()):08x}"
        run = wandb.init(project=project, name=name, id=number, resume="allow", config=config, dir=str(workdir))
        self._trackers.append(
            lambda step, split, values: run.log({f"{split}/{k}": v for k, v in values.items()}, step=step)
        )
        self._closers.append(run.finish)


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a run folder; a line that a killed process left half-written is not one."""
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise CheckpointError(f"line {number} of {path} is not JSON; take it out, or the file away") from None
    return rows


class Progress:
    """A bar with images/s and time left on a terminal, plain lines elsewhere, nothing on processes but the first."""

    def __init__(self, start: int, steps: int, batch_size: int, *, quiet: bool = False):
        from tqdm import tqdm

        self._start, self._steps, self._batch_size, self._quiet = start, steps, batch_size, quiet
        self._began = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, leave=False, mininterval=0.5)

    def say(self, text: str) -> None:
        """One line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def restart(self) -> None:
        """The pace counts from here on: behind the first step, which compiles."""
        self._began, self._start = time.perf_counter(), self._start + 1

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def row(self, step: int, split: str, values: dict[str, float]) -> None:
        """The numbers of one row of `metrics.jsonl`, with the pace and the time left."""
        shown = "  ".join(f"{name} {format_value(name, value)}" for name, value in values.items())
        elapsed = time.perf_counter() - self._began
        left = elapsed / max(1, step - self._start) * (self._steps - step)
        self.say(
            f"step {step}/{self._steps}  {split:<5}  {shown}" + (f"  left {duration(left)}" if split == "train" else "")
        )
        if self._bar is not None:
            rate = (step - self._start) * self._batch_size / max(elapsed, 1e-9)
            self._bar.set_postfix_str(f"{rate:,.0f} images/s", refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def format_value(name: str, value: float) -> str:
    if name.startswith("top") or name == "data_wait":
        return f"{value:.2%}"
    if name in ("images_per_second", "examples", "skipped"):
        return f"{value:,.0f}"
    if name == "epoch":
        return f"{value:.2f}"
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Window:
    """Training metrics since the last row: values still on the devices, and the sums of those that were fetched."""

    def __init__(self, sums: dict[str, float], *, skip_bad: bool = False):
        self.sums = dict(sums)
        self._skip_bad = skip_bad
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, number: int, values: dict[str, jax.Array]) -> None:
        self._pending.append((number, values))

    def idle(self) -> bool:
        """Whether the devices have done all that they were given."""
        return not self._pending or self._pending[-1][1]["loss"].is_ready()  # type: ignore[attr-defined]

    def wait(self, ahead: int) -> None:
        """Until at most `ahead` steps are under way: the host must not run far ahead of the devices."""
        if len(self._pending) > ahead:
            jax.block_until_ready(self._pending[-1 - ahead][1])

    def fetch(self) -> None:
        """Adds up what is pending. A step whose loss or gradient is not finite counts as skipped, or is a DivergedError."""
        numbers, values = [number for number, _ in self._pending], jax.device_get([v for _, v in self._pending])
        self._pending.clear()
        for number, of_step in zip(numbers, values):
            bad = next((name for name in ("loss", "grad_norm") if not np.isfinite(of_step[name])), None)
            if bad and not self._skip_bad:
                what = "loss" if bad == "loss" else "gradient's norm"
                raise DivergedError(
                    f"the {what} of step {number} is {of_step[bad]}; lower optim.lr, or raise optim.warmup"
                )
            for name, value in ({"skipped": 1} if bad else of_step | {"steps": 1}).items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def close(self) -> dict[str, float]:
        """The means since the last row, and how many steps were skipped, if any; a new window begins."""
        sums, self.sums = self.sums, {}
        steps, skipped = sums.pop("steps", 0), sums.pop("skipped", 0)
        if not steps:
            raise DivergedError(f"all of the last {skipped:.0f} updates were skipped: no loss and gradient was finite")
        return {name: value / steps for name, value in sums.items()} | ({"skipped": skipped} if skipped else {})


class Pace:
    """How fast training goes, and what share of the time idle devices wait for data, since the last row."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._began, self._waiting, self._steps = time.perf_counter(), 0.0, 0

    def step(self) -> None:
        self._steps += 1

    def waited(self, seconds: float) -> None:
        self._waiting += seconds

    @contextlib.contextmanager
    def paused(self):
        """What happens here does not count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def close(self) -> dict[str, float]:
        """images_per_second and data_wait (0 to 1); nothing where no step was timed."""
        if not self._steps:
            return {}
        taken = max(time.perf_counter() - self._began, 1e-9)
        result = {"images_per_second": self._steps * self._batch_size / taken, "data_wait": self._waiting / taken}
        self.restart()
        return result


class Trace:
    """The profiler's trace of steps a to b into a folder; of those that are left of them, where a run goes on."""

    def __init__(self, steps: tuple[int, ...], folder: epath.Path):
        self._steps = range(steps[0], steps[1] + 1) if steps else range(0)
        self._folder, self._first = folder, 0

    def before(self, number: int) -> None:
        if number in self._steps and not self._first:
            jax.profiler.start_trace(str(self._folder))
            self._first = number

    def ends_with(self, number: int) -> bool:
        return bool(self._first) and number == self._steps[-1]

    def close(self, number: int) -> str:
        """Writes it, if there is one, to the end of a step; returns a sentence that says so."""
        first, self._first = self._first, 0
        if not first:
            return ""
        jax.profiler.stop_trace()
        return f"trace of steps {first} to {number} in {self._folder}"
