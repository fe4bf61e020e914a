"""What people read on standard error while a command works: lines, a bar, seconds that tick."""

import contextlib
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from train.cli import bar
from train.errors import tell

CLEAR = "\x1b[K"  # the rest of the line
FIRST = ("loss", "top1", "top5", "map")  # of a row, before all else
# Then what is most worth telling, as far as the terminal is wide.
FILED = ("balanced_accuracy", "precision", "recall", "f1", "auc")  # in metrics.jsonl alone
THEN = ("skipped", "bad_images", "examples", "images_per_second", "lr", "epoch", "data_wait")


def is_live() -> bool:
    """Whether a line of standard error can be drawn again: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Line:
    """The last line of a terminal or of a notebook, drawn twice a second by a thread of its own.

    The cursor stays at its start, so that whatever else is printed takes its place. Elsewhere
    nothing is drawn.
    """

    def __init__(self, text: Callable[[], str], *, quiet: bool = False):
        self._text, self._stream, self._lock = text, sys.stderr, threading.Lock()
        self.live = is_live() and not quiet
        self._clear = CLEAR if self._stream.isatty() else ""  # a notebook knows no such code
        self._over = threading.Event()
        if self.live:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            self._write(self._text()[: columns() - 1], "\r")

    def _write(self, text: str, end: str) -> None:
        text = self._clear + text if self._clear else text.ljust(columns() - 1)
        with self._lock, contextlib.suppress(OSError, ValueError):  # a terminal that is closed
            self._stream.write(text + end)
            self._stream.flush()

    def say(self, text: str) -> None:
        """A whole line above this one."""
        if self.live:
            self._write(text, "\n")
        else:
            tell(text)

    def close(self) -> None:
        if self.live and not self._over.is_set():
            self._over.set()
            self._thread.join()
            self._write("", "\r")


@contextlib.contextmanager
def waiting(text: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Says what takes long: on a terminal with the seconds so far, elsewhere one line.

    It gives a function that may be told how many are done.
    """
    began, done = time.perf_counter(), [0]

    def told() -> str:
        count = f" {done[-1]:,} done," if done[-1] else ""
        return f"{text}…{count} {time.perf_counter() - began:.0f} s"

    line = Line(told, quiet=quiet)
    if not line.live and not quiet:
        line.say(f"{text}…")
    try:
        yield done.append
    finally:
        line.close()


def columns() -> int:
    """The width of the terminal; 80 where there is none and COLUMNS does not say."""
    return shutil.get_terminal_size().columns


class Progress:
    """A training run's lines, above a bar where there is a terminal; nothing where `quiet`.

    The time left is that of the steps, and of the evaluations to come once one has been timed.
    """

    def __init__(
        self, start: int, steps: int, batch_size: int, *, eval_every: int, quiet: bool = False
    ):
        self._at, self._steps, self._batch_size, self._quiet = start, steps, batch_size, quiet
        self._eval_every, self._eval_seconds = eval_every, 0.0
        self._timed_from, self._began = start, 0.0  # of the steps whose pace is known
        self._loss = ""
        self._wait: tuple[str, float] | None = None  # what is waited for, and since when
        self._line = Line(self._last_line, quiet=quiet)

    def say(self, text: str) -> None:
        """One line; nothing for no text."""
        if text and not self._quiet:
            self._line.say(text)

    def wait_for(self, text: str) -> None:
        """What is done until `restart`; its seconds tick."""
        self._wait = (text, time.perf_counter())
        if not self._line.live:
            self.say(f"{text}…")

    def restart(self) -> None:
        """Time counts from here: after the first step, which compiles."""
        self._began, self._timed_from = time.perf_counter(), self._at
        self._wait = None  # last: from here on the thread that draws reads the others

    @contextlib.contextmanager
    def evaluating(self, split: str) -> Iterator[None]:
        """What happens here is not the time of steps."""
        began = time.perf_counter()
        self._wait = (f"evaluating {split}", began)
        try:
            yield
        finally:
            self._wait, self._eval_seconds = None, time.perf_counter() - began
            self._began += self._eval_seconds

    def step(self) -> None:
        self._at += 1

    def row(self, step: int, split: str, values: dict[str, float]) -> None:
        """The numbers of one row of `metrics.jsonl`, as many as fit into a line."""
        last = f"step {step:,}/{self._steps:,}"
        if split == "train":
            self._loss = format_value("loss", values["loss"])
            last += self._left_in_words()
        self.say(row(split, values, last, columns()))

    def _left_in_words(self) -> str:
        return f"  left {duration(self._left())}" if self._at > self._timed_from else ""

    def _left(self) -> float:
        """Seconds that the rest will take, once a step has been timed."""
        # Never 0, though the other thread may restart the clock meanwhile.
        done, rest = max(1, self._at - self._timed_from), self._steps - self._at
        evaluations = self._steps // self._eval_every - self._at // self._eval_every
        evaluations += self._steps % self._eval_every != 0 and rest > 0
        pace = (time.perf_counter() - self._began) / done
        return pace * rest + self._eval_seconds * evaluations

    def _last_line(self) -> str:
        if wait := self._wait:
            text, since = wait
            return f"{text}… {time.perf_counter() - since:.0f} s"
        done = self._at - self._timed_from
        if done <= 0:
            return ""
        speed = done * self._batch_size / (time.perf_counter() - self._began)
        parts = [
            f"step {self._at:,}/{self._steps:,}",
            f"loss {self._loss}" if self._loss else "",
            f"{speed:,.0f} images/s",
            f"left {duration(self._left())}",
        ]
        told = "  ".join(filter(None, parts))
        room = min(columns() - len(told) - 4, 40)
        return f"{bar(self._at / self._steps, room):<{room}}  {told}" if room > 4 else told

    def close(self) -> None:
        self._line.close()


def row(split: str, values: dict[str, float], last: str, width: int) -> str:
    """Numbers by name as one line of at most `width`: loss and accuracy first, `last` last.

    >>> row("test", {"epoch": 1, "loss": 0.5, "top1": 0.9}, "step 8/9", 80)
    'test   loss 0.5  top-1 90.00%  epoch 1.00  step 8/9'
    """
    first = [name for name in FIRST if name in values]
    silent = {name for name in ("skipped", "bad_images") if not values.get(name)}
    left_out = {*first, *silent, *FILED}
    more = [name for name in (*THEN, *values) if name in values and name not in left_out]
    shown = [format_value(name, values[name], label=True) for name in first]
    for name in dict.fromkeys(more):
        text = format_value(name, values[name], label=True)
        if len("  ".join([f"{split:<5}", *shown, text, last])) <= width:
            shown.append(text)
    return "  ".join([f"{split:<5}", *shown, last])


def format_value(name: str, value: float, *, label: bool = False) -> str:
    """A number as people read it, with `label` beside its name."""
    if name in ("images_per_second", "examples"):
        unit = {"images_per_second": "images/s"}.get(name, name)
        return f"{value:,.0f} {unit}" if label else f"{value:,.0f}"
    if name.startswith("top"):
        shown = f"{value:.2%}"
    elif name == "data_wait":
        shown = f"{value:.0%}"
    elif name in ("skipped", "bad_images"):
        shown = f"{value:,.0f}"
    elif name == "epoch":
        shown = f"{value:.2f}"
    else:
        shown = f"{value:.4g}" if math.isfinite(value) else str(value)
    names = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
    names |= {"bad_images": "unreadable", "data_wait": "waits"}
    return f"{names.get(name, name)} {shown}" if label else shown


def duration(seconds: float) -> str:
    """1:05, or 2:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def accuracy(result: dict[str, Any], split: str, *, multi_label: bool = False) -> str:
    """The sentence that an evaluation comes down to; `multi_label`: of several labels an image.

    >>> accuracy({"top1": 0.99, "examples": 1000}, "test")
    '99.0 % of 1,000 test images are right (95 % sure: 98.2 to 99.5 %)'
    """
    from train.evaluate.statistics import wilson

    if multi_label:
        mean = f"; mean average precision {result['map']:.3f}" if "map" in result else ""
        return (
            f"the most probable class of {100 * result['top1']:.1f} % of {result['examples']:,} "
            f"{split} images is among their labels{mean}"
        )
    low, high = wilson(round(result["top1"] * result["examples"]), result["examples"])
    return (
        f"{100 * result['top1']:.1f} % of {result['examples']:,} {split} images are right "
        f"(95 % sure: {100 * low:.1f} to {100 * high:.1f} %)"
    )


def against_majority(result: dict[str, Any], common: tuple[str, float] | None) -> str:
    """A line if one class alone explains the result; `common`: of `counts.majority`.

    >>> against_majority({"top1": 0.83}, ("dog", 0.83))
    "\\nthis is no better than always answering 'dog'"
    """
    if common is None or result["top1"] >= common[1] + 0.005:
        return ""
    return f"\nthis is no better than always answering {common[0]!r}"
