"""What a run writes: `metrics.jsonl`, the source of every plot, trackers, and traces."""

import json
from typing import Any

import jax
from etils import epath

from train import files
from train.errors import CheckpointError, tell
from train.trackers import Trackers, Where


class Metrics:
    """Appends rows to `metrics.jsonl`, one JSON object a line, and to trackers on request."""

    def __init__(
        self,
        workdir: epath.Path | None,
        *,
        resume_at: int = 0,
        to: tuple[str, ...] = (),
        project: str = "",
        config: dict | None = None,
    ):
        """Drops the rows after step `resume_at`, which the run repeats. No folder: no file."""
        self._path = workdir / "metrics.jsonl" if workdir else None
        self._rows: list[str] = []  # not yet on disk
        self._told = False  # whether the user knows that they cannot be written
        self._trackers: Trackers | None = None
        self.train_rows = 0  # that were there already
        if workdir and self._path:
            rows = [row for row in read(workdir) if row["step"] <= resume_at]
            self.train_rows = sum(row["split"] == "train" for row in rows)
            self._text = "".join(json.dumps(row) + "\n" for row in rows)
            self._torn = True
            self.flush()
            self._trackers = Trackers(to, Where(workdir, project, config or {}, resume_at))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """The row is on disk when this returns, unless the disk is full; see `flush`."""
        if self._path:
            self._rows.append(json.dumps({"step": step, "split": split} | values) + "\n")
            self.flush()
        if self._trackers:
            self._trackers.track(step, split, values)

    def flush(self) -> bool:
        """Whether every row is on disk. Rows that a full disk refuses wait for the next attempt."""
        if not self._path or not (self._rows or self._torn):
            return True
        try:
            if self._torn:  # the file may end in an incomplete row
                files.write(self._path, self._text + "".join(self._rows))
            else:
                with self._path.open("a") as file:
                    file.write("".join(self._rows))
        except OSError as error:
            if not self._torn:
                self._text = "".join(json.dumps(row) + "\n" for row in read(self._path.parent))
            self._torn = True
            if not self._told:
                tell(
                    f"warning: {self._path} cannot be written: {error.strerror or error}; "
                    "its rows wait until it can be"
                )
            self._told = True
            return False
        self._text, self._torn, self._told, self._rows = "", False, False, []
        return True

    def close(self, failed: bool = False) -> None:
        """Ends the trackers; `failed` is whether the run ends without its last step."""
        if self._trackers:
            self._trackers.close(failed)


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a run folder, without a last line that a killed process left incomplete.

    Raises:
        CheckpointError: a line is not a row, or the file cannot be read.
    """
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        lines = files.read(path).splitlines(keepends=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            try:
                row = json.loads(line)
                assert isinstance(row["step"], int) and isinstance(row["split"], str)
            except (ValueError, TypeError, KeyError, AssertionError):
                raise CheckpointError(
                    f"line {number} of {path} is not a row; remove it, or move the file away"
                ) from None
            rows.append(row)
    return list({(row["step"], row["split"]): row for row in rows}.values())


class Trace:
    """The profiler's trace of steps a to b into a folder; of the rest of them in a resumed run."""

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
        """Ends the trace, if there is one, and returns a sentence that says so, or ""."""
        first, self._first = self._first, 0
        if not first:
            return ""
        jax.profiler.stop_trace()
        return f"trace of steps {first} to {number} in {self._folder}"
