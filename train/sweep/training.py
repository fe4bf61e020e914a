"""Trains the runs of a sweep."""

import contextlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
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


def train(runs: Sequence[Run]) -> dict[str, tuple[str, int]]:
    """Trains the runs that have not finished, one after the other.

    Small ones are trained in this process, which saves their start; each other one has a process
    of its own, whose XLA and memory are set up for it. What a run says while it trains goes to
    `log.txt` in its folder. A run that fails does not end the others.

    Returns:
        For each run that failed, by the name of its folder, why, and the exit code.

    Raises:
        Preempted: a signal asked for the end; the run so far is saved.
    """
    failed = {}
    for number, run in enumerate(runs, start=1):
        name = run.folder.name
        label = f"[{number}/{len(runs)}] {name}"
        if result(run) is not None:
            errors.tell(f"{label}: done before")
            continue
        began = time.perf_counter()
        try:
            make_folder(str(run.folder))
            (train_here if is_small(run.config) else train_apart)(run)
        except Preempted:
            raise
        except UserError as error:
            failed[name] = (str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            failed[name] = (f"{type(error).__name__}: {error}", 1)
        why = f"failed: {failed[name][0]}" if name in failed else "done"
        errors.tell(f"{label}: {why}, after {time.perf_counter() - began:.0f} s")
    return failed


def train_here(run: Run) -> None:
    """Trains a run in this process."""
    with (run.folder / "log.txt").open("a") as log, contextlib.redirect_stderr(log):
        loop.train(run.config, str(run.folder))
    jax.clear_caches()  # the programs of a run, which no other run uses


def train_apart(run: Run) -> None:
    """Trains a run in a process of its own, which gets the signals that ask for an end."""
    command = [*TRAIN, *run.arguments, f"--workdir={run.folder}"]
    with (
        (run.folder / "log.txt").open("a") as log,
        signals_passed_on(command, stdout=subprocess.DEVNULL, stderr=log) as child,
    ):
        try:
            code = child.wait()
        except KeyboardInterrupt:  # of the terminal, which the child has got too
            child.wait()
            raise
    if code:
        lines = (run.folder / "log.txt").read_text().splitlines() or [""]
        sentence = lines[-1].removeprefix("error: ") or f"the process ended with code {code}"
        ended = code in (Preempted.exit_code, -signal.SIGTERM, -signal.SIGUSR1)
        raise Preempted(sentence) if ended else Failed(sentence, code)


@contextlib.contextmanager
def signals_passed_on(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A child process that gets SIGTERM and SIGUSR1, so that it saves its run and ends.

    They are caught before it starts: at once they would end this process and leave the child.
    """
    children: list[subprocess.Popen] = []
    early: list[int] = []  # what came before there was a child

    def pass_on(number: int, _: Any) -> None:
        children[0].send_signal(number) if children else early.append(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        children.append(subprocess.Popen(command, **options))
        for number in early:
            children[0].send_signal(number)
        yield children[0]
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
