"""What a run tells: `metrics.jsonl`, the source of truth for every plot, and progress for a person."""

import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from train.errors import CheckpointError, UserError


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
            self._text = "".join(
                json.dumps(row) + "\n" for row in read(workdir) if row["step"] <= resume_at
            )
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
            raise UserError(
                "log.tensorboard needs the package tensorboardX: pip install tensorboardX"
            ) from None

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
        run = wandb.init(
            project=project, name=name, id=number, resume="allow", config=config, dir=str(workdir)
        )
        self._trackers.append(
            lambda step, split, values: run.log(
                {f"{split}/{k}": v for k, v in values.items()}, step=step
            )
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
                raise CheckpointError(
                    f"line {number} of {path} is not JSON; take it out, or the file away"
                ) from None
    return rows


class Progress:
    """A bar with images/s and time left on a terminal, plain lines elsewhere, nothing on processes but the first."""

    def __init__(self, start: int, steps: int, batch_size: int, *, quiet: bool = False):
        from tqdm import tqdm

        self._start, self._steps, self._batch_size, self._quiet = start, steps, batch_size, quiet
        self._began = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(
                total=steps,
                initial=start,
                unit="step",
                dynamic_ncols=True,
                leave=False,
                mininterval=0.5,
            )

    def say(self, text: str) -> None:
        """One line, above the bar where there is one; nothing for no text."""
        if not text:
            return
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
            f"step {step}/{self._steps}  {split:<5}  {shown}"
            + (f"  left {duration(left)}" if split == "train" else "")
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
