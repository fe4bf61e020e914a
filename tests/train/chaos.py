"""Runs that are disturbed at random moments, and have to come to the same bits as one that was left
alone.

python -m tests.train.chaos --runs=20 [--seed=0] [--folder=…]

The disturbances: SIGKILL, SIGTERM, SIGKILL while a checkpoint is being written, and a full disk (a
file system of a few megabytes where this user may mount one, else a limit on the size of files).
Every fifth run has two processes, of which one is struck. Each run is started again until it ends
by itself; then its last checkpoint and its rows are compared.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.helpers import ROOT
from tests.train.test_processes import start_two
from tests.train.test_resume import OPTIONS, last_row, numbers

LONG = [*OPTIONS, "--config.epochs=8"]  # 256 steps, a checkpoint every 7, an evaluation every 17
EVENTS = ("kill", "term", "kill in a save", "full disk")
ALLOWED = {0, 6, 75, -signal.SIGKILL}


def start(workdir: Path, processes: int, limit: int = 0) -> list[subprocess.Popen]:
    """One or two processes of the run; `limit` bounds the size of every file that they write."""
    if processes == 2:
        return start_two("-m", "train", *LONG, f"--workdir={workdir}")
    bound = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    command = [sys.executable, "-m", "train", *LONG, f"--workdir={workdir}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [subprocess.Popen(command, env=environment, cwd=ROOT, preexec_fn=bound, **pipes)]


def end(processes: list[subprocess.Popen]) -> tuple[list[int], str]:
    outputs = [process.communicate(timeout=600) for process in processes]
    return [process.returncode for process in processes], "\n".join(errors for _, errors in outputs)


def wait(processes: list[subprocess.Popen], ready) -> bool:
    """Until something is the case; False if the run ended before."""
    while not ready():
        if any(process.poll() is not None for process in processes):
            return False
        time.sleep(0.001)
    return True


def disturb(
    event: str, workdir: Path, processes: list[subprocess.Popen], chance: random.Random
) -> None:
    """Strikes at a random step after the rows that stand."""
    step = last_row(workdir) + chance.randrange(5, 60)
    if not wait(processes, lambda: last_row(workdir) >= step):
        return
    victim = chance.choice(processes)
    if event == "kill in a save":
        wait(processes, lambda: any((workdir / "checkpoints").glob("*tmp*")))
        time.sleep(chance.random() * 0.01)
    else:
        time.sleep(chance.random() * 0.05)
    victim.send_signal(signal.SIGTERM if event == "term" else signal.SIGKILL)


class Disk:
    """A file system of a few megabytes that can be filled to the last byte; without the right to
    mount, an ordinary folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
        self.real = subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                for size in (2**20, 2**12, 1):
                    while self.real:
                        try:
                            file.write(b"x" * size)
                        except OSError:
                            break
            finally:
                file.close()

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", str(self.folder)], check=True)


def full_disk(disk: Disk, workdir: Path, chance: random.Random) -> tuple[list[int], str]:
    """The disk fills up after a random step, and the run is killed some time later; it must not
    have ended before.
    """
    processes = start(workdir, 1, limit=0 if disk.real else 20_000)
    step = last_row(workdir) + chance.randrange(5, 40)
    if disk.real and wait(processes, lambda: last_row(workdir) >= step):
        disk.fill()
    time.sleep(chance.random() * 2)
    if chance.random() < 0.5:
        processes[0].kill()
    result = end(processes)
    disk.empty()
    return result


def one_run(
    folder: Path, number: int, chance: random.Random, events: list[str], processes: int
) -> tuple[Path, list[str]]:
    """The run folder, and what happened to it."""
    disk = Disk(folder / f"run{number}") if "full disk" in events else None
    place = disk.folder if disk else folder / f"run{number}"
    workdir = place / "run"
    happened = []
    for event in events:
        if event == "full disk" and disk:
            codes, said = full_disk(disk, workdir, chance)
            allowed = ALLOWED | {
                2,
                4,
            }  # the folder could not be made, or the last checkpoint not be written
        else:
            running = start(workdir, processes)
            disturb(event, workdir, running, chance)
            codes, said = end(running)
            allowed = ALLOWED
        happened.append(f"{event} at {last_row(workdir)} -> {','.join(map(str, codes))}")
        if not set(codes) <= allowed or "Traceback" in said:
            raise AssertionError(f"run {number}, {happened}:\n{said}")
        if set(codes) == {0}:
            break
    codes, said = end(start(workdir, processes))
    if set(codes) != {0}:
        raise AssertionError(f"run {number} did not end: {codes}\n{said}")
    kept = folder / f"done{number}"
    shutil.copytree(workdir, kept)
    if disk:
        disk.close()
    return kept, happened


def final_arrays(workdir: Path) -> tuple[int, Any]:
    """The last checkpoint as numpy arrays, whatever the number of processes that wrote it."""
    step = max(int(place.name) for place in (workdir / "checkpoints").iterdir())
    with ocp.PyTreeCheckpointer() as reader:
        place = (workdir / "checkpoints" / str(step) / "state").resolve()
        leaves = reader.metadata(place).item_metadata.tree
        wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
        return step, reader.restore(place, restore_args=wanted)


def differences(workdir: Path, reference: Path) -> list[str]:
    """What is not equal to the last bit: rows, and values of the last checkpoint."""
    found = [] if numbers(workdir) == numbers(reference) else ["rows"]
    (step, state), (expected_step, expected) = final_arrays(workdir), final_arrays(reference)
    leaves = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(expected))
    found += [jax.tree_util.keystr(path) for (path, a), b in leaves if not np.array_equal(a, b)]
    return found if step == expected_step else [*found, f"step {step}"]


def chaos(folder: Path, runs: int, seed: int = 0, several: bool = True, most: int = 4) -> int:
    """How many of `runs` disturbed runs ended as the undisturbed ones; prints a line for each."""
    chance = random.Random(seed)
    references = {}
    equal = 0
    for number in range(runs):
        processes = 2 if several and number % 5 == 4 else 1
        if processes not in references:
            references[processes] = folder / f"whole{processes}"
            codes, said = end(start(references[processes], processes))
            assert set(codes) == {0}, said
        count = chance.randint(1, most)
        # Each kind has its turn; the rest is chance.
        events = [EVENTS[number % len(EVENTS)], *(chance.choice(EVENTS) for _ in range(count - 1))]
        if processes == 2:
            events = [event if event != "full disk" else "kill" for event in events]
        workdir, happened = one_run(folder, number, chance, events, processes)
        different = differences(workdir, references[processes])
        equal += not different
        print(
            f"run {number}, {processes} process(es): {'; '.join(happened)}: "
            f"{different or 'bit-identical'}",
            flush=True,
        )
    print(f"{equal} of {runs} runs ended bit-identical to the undisturbed ones", flush=True)
    return equal


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    return 0 if chaos(folder, args.runs, args.seed) == args.runs else 1


if __name__ == "__main__":
    sys.exit(main())
