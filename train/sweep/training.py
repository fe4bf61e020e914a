"""Trains the runs of a sweep."""

import contextlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

import jax

from train import errors, loop
from train.errors import Preempted, UserError
from train.run import make_folder
from train.start import is_small
from train.sweep.grid import Run
from train.sweep.results import result

TRAIN = [sys.executable, "-m", "train"]


class Failed(UserError):
    """Some runs did not finish."""

    def __init__(self, sentence: str, exit_code: int):
        super().__init__(sentence)
        self.exit_code = exit_code


def train(runs: Sequence[Run], jobs: int = 1) -> dict[str, tuple[str, int]]:
    """Trains the runs that have not finished.

    Small ones are trained in this process, one after the other, which saves their start. Then each
    other one has a process of its own, whose XLA and memory are set up for it. What a run says
    while it trains goes to `log.txt` in its folder. A run that fails does not end the others.

    Args:
        runs: of `grid.plan`.
        jobs: how many processes at a time.

    Returns:
        For each run that failed, by the name of its folder, why, and the exit code.

    Raises:
        Preempted: a signal asked for the end; the runs so far are saved.
    """
    failed = {}

    def attempt(label: str, run: Run, how: Callable[[Run], None]) -> None:
        name, began = run.folder.name, time.perf_counter()
        try:
            make_folder(str(run.folder))
            how(run)
        except Preempted:
            raise
        except UserError as error:
            failed[name] = (str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            failed[name] = (f"{type(error).__name__}: {error}", 1)
        why = f"failed: {failed[name][0]}" if name in failed else "done"
        errors.tell(f"{label}: {why}, after {time.perf_counter() - began:.0f} s")

    large = []
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run.folder.name}"
        if result(run) is not None:
            errors.tell(f"{label}: done before")
        elif is_small(run.config):
            attempt(label, run, train_here)
        else:
            large.append((label, run))
    large.sort(key=lambda item: item[1].seed)  # for runs at a time that compile no program twice
    if not large:
        return failed
    with Children() as children, ThreadPoolExecutor(jobs) as pool:
        train_apart = partial(_train_apart, children)
        futures = [pool.submit(attempt, label, run, train_apart) for label, run in large]
        try:
            for future in as_completed(futures):
                future.result()
        except Preempted:  # whoever asked one to end gets all of them
            children.end()
            raise
        finally:
            children.closed = True  # also after Ctrl-C, which a terminal sends to all
            pool.shutdown(cancel_futures=True)
    return failed


def train_here(run: Run) -> None:
    """Trains a run in this process."""
    with (run.folder / "log.txt").open("a") as log, contextlib.redirect_stderr(log):
        loop.train(run.config, str(run.folder))
    jax.clear_caches()  # the programs of a run, which no other run uses


class Children:
    """A context of processes that get this one's SIGTERM and SIGUSR1, so that they save and end."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self.closed = False  # whether no process is begun any more

    def __enter__(self) -> "Children":
        numbers = (signal.SIGTERM, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._pass_on) for number in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end(self) -> None:
        """Asks all to end, unless a signal has done so: a second one would end them unsaved."""
        if not self.closed:
            self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int, _: Any = None) -> None:
        self.closed = True
        for process in self._processes:
            process.send_signal(number)

    def run(self, command: list[str], **options: Any) -> int:
        """Runs a command to its end; its exit code.

        Raises:
            Preempted: a signal has come before.
        """
        if self.closed:
            raise Preempted("stopped by a signal before it began")
        with subprocess.Popen(command, **options) as process:
            self._processes.append(process)
            if self.closed:  # a signal came before the process was there
                process.send_signal(signal.SIGTERM)
            return process.wait()


def _train_apart(children: Children, run: Run) -> None:
    """Trains a run in a process of its own."""
    command = [*TRAIN, *run.arguments, f"--workdir={run.folder}"]
    with (run.folder / "log.txt").open("a") as log:
        code = children.run(command, stdout=subprocess.DEVNULL, stderr=log)
    if code:
        lines = (run.folder / "log.txt").read_text().splitlines() or [""]
        sentence = lines[-1].removeprefix("error: ") or f"the process ended with code {code}"
        ended = code in (Preempted.exit_code, -signal.SIGTERM, -signal.SIGUSR1)
        raise Preempted(sentence) if ended else Failed(sentence, code)
