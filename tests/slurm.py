"""`configs/cluster/slurm.sh` on a real SLURM: a cluster of this machine alone, started for it.

python -m tests.slurm [--cases=bits,killed,…]

Needs slurmctld, slurmd and munged (Debian: slurm-wlm, munge) and root. Every case is a job of two
tasks. The exit code is 1 if a case fails.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.helpers import ROOT, command
from tests.train.chaos import LONG, differences
from tests.train.test_processes import free_port
from tests.train.test_resume import last_row

DAEMONS = ("munged", "slurmctld", "slurmd")
LIMIT = 600  # seconds for one case

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# A recipe as a user has one. `train.recipe` reads the options that a command line would have.
RECIPE = """
import os
from train import recipe
def get_config():
    config = recipe.load({config!r}, {overrides!r})
    if os.environ.get("SLURM_PROCID") == {astray!r}:
        config.data.source = "npz:/nowhere.npz"
    return config
"""


class Cluster:
    """Starts the daemons in a folder of their own; jobs are submitted by `Job`."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        ports = dict(port=free_port(), node_port=free_port())
        text = CONFIG.format(host=socket.gethostname(), folder=folder, **ports)
        (folder / "slurm.conf").write_text(text)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        files = {
            "--socket": "munge.socket",
            "--key-file": key.name,
            "--pid-file": "munged.pid",
            "--log-file": "munged.log",
            "--seed-file": "munged.seed",
        }
        run("munged", "--force", *(f"{flag}={folder / name}" for flag, name in files.items()))
        run("slurmctld")
        run("slurmd")
        wait(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), 60)

    def close(self) -> None:
        subprocess.run(["scancel", "--user=root"])
        with contextlib.suppress(AssertionError):
            wait(lambda: not run("squeue", "--noheader"), 60)
        for name in reversed(DAEMONS):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)


def run(*arguments: str, **options) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def wait(ready: Callable[[], bool], seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


class Job:
    """A job of two tasks by `configs/cluster/slurm.sh`, with options of sbatch alone."""

    def __init__(self, folder: Path, *options: str, epochs: int = 8, astray: str = "", **variables):
        folder.mkdir()
        self.workdir, self.log = folder / "run", folder / "log"
        self.log.touch()
        config, *overrides = [*LONG, f"--config.epochs={epochs}"]
        recipe = folder / "recipe.py"
        path = config.removeprefix("--config=")
        recipe.write_text(RECIPE.format(config=path, overrides=overrides, astray=astray))
        environment = os.environ | {
            "RECIPE": str(recipe),
            "WORKDIR": str(self.workdir),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            **variables,
        }
        tasks = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0")
        script = str(ROOT / "configs/cluster/slurm.sh")
        output = f"--output={self.log}"
        self.id = run(
            *("sbatch", "--parsable", *tasks, output, *options, script), env=environment, cwd=ROOT
        )

    def tasks(self) -> dict[int, int]:
        """The training processes by rank."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if f"--workdir={self.workdir}".encode() in words:
                    values = (place / "environ").read_bytes().split(b"\0")
                    (rank,) = [v[13:] for v in values if v.startswith(b"SLURM_PROCID=")]
                    found[int(rank)] = int(place.name)
        return found

    def about(self, key: str) -> str:
        words = run("scontrol", "show", "job", "--oneliner", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)[key]

    def end(self) -> str:
        """'COMPLETED 0:0 after 1 restarts'; what a job that is requeued ends as at last."""
        wait(lambda: self.about("JobState") not in ("PENDING", "RUNNING", "COMPLETING"))
        restarts = self.about("Restarts")
        return f"{self.about('JobState')} {self.about('ExitCode')} after {restarts} restarts"

    def at(self, step: int) -> "Job":
        wait(lambda: last_row(self.workdir) >= step or self.about("JobState") == "FAILED")
        return self


# The cases. Each returns what happened, and what has to.


def bits(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """Two tasks train to the bits of one process with two devices."""
    job = Job(folder / "bits")
    yield job.end(), "COMPLETED 0:0 after 0 restarts"
    yield differences(job.workdir, reference), []


def killed(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """A task that is killed, as by the kernel when memory runs out: again, to the same bits."""
    for rank in (0, 1):
        job = Job(folder / f"killed{rank}").at(step=20)
        os.kill(job.tasks()[rank], signal.SIGKILL)
        yield job.end(), "COMPLETED 0:0 after 1 restarts"
        yield differences(job.workdir, reference), []


def starting(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """A signal while the tasks start: again."""
    job = Job(folder / "starting")
    wait(lambda: len(job.tasks()) == 2)
    run("scancel", "--signal=USR1", job.id)
    yield job.end(), "COMPLETED 0:0 after 1 restarts"
    yield differences(job.workdir, reference), []


def preempted(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """A signal while they train: they save, and the job goes on from there."""
    job = Job(folder / "preempted").at(step=20)
    run("scancel", "--signal=USR1", job.id)
    yield job.end(), "COMPLETED 0:0 after 1 restarts"
    yield "stopped by a signal after step" in job.log.read_text(), True
    yield differences(job.workdir, reference), []


def mistaken(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """The data of one task is missing: the job ends with that task's code, and stays ended."""
    for rank in (0, 1):
        job = Job(folder / f"mistaken{rank}", astray=str(rank))
        yield job.end(), "FAILED 3:0 after 0 restarts"
    job = Job(folder / "no-python", PYTHON="/nowhere/python")
    yield job.end(), "FAILED 127:0 after 0 restarts"


def hopeless(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """Killed again and again before its first checkpoint: it gives up."""
    killer = folder / "killer.sh"
    killer.write_text("#!/bin/bash\nkill -KILL $$\n")
    killer.chmod(0o755)
    job = Job(folder / "hopeless", PYTHON=str(killer), RESTARTS="2")
    yield job.end(), "FAILED 137:0 after 2 restarts"
    yield "2 restarts in a row without a new checkpoint" in job.log.read_text(), True


def limited(folder: Path, reference: Path) -> Iterator[tuple[object, object]]:
    """The time limit: half a minute to one and a half before it, the signal comes."""
    job = Job(folder / "limited", "--time=3", "--signal=USR1@30", epochs=2000)
    wait(lambda: "resuming" in job.log.read_text() or job.about("JobState") == "FAILED")
    run("scancel", job.id)
    yield "stopped by a signal after step" in job.log.read_text(), True
    yield job.about("Restarts"), "1"


CASES = {f.__name__: f for f in (bits, killed, starting, preempted, mistaken, hopeless, limited)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    args = parser.parse_args()
    missing = [name for name in DAEMONS if not shutil.which(name)]
    if missing or os.geteuid():
        print(f"needs root, and {', '.join(missing or DAEMONS)} of slurm-wlm and munge")
        return 1
    results: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        cluster = Cluster(folder)
        try:
            reference = folder / "reference"
            two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
            options = [*LONG, "--config.parallel.mapping=shard_map"]
            done = command("train", *options, f"--workdir={reference}", env=two)
            assert done.returncode == 0, done.stderr
            for case in args.cases.split(","):
                began = time.monotonic()
                pairs = list(CASES[case](folder, reference))
                results[case] = all(found == expected for found, expected in pairs)
                seconds = round(time.monotonic() - began)
                print(f"{case}, {seconds} s: {[found for found, _ in pairs]}", flush=True)
                for found, expected in pairs:
                    if found != expected:
                        print(f"  expected {expected}, got {found}", flush=True)
        finally:
            cluster.close()
            time.sleep(1)  # they write their state
    print(json.dumps(results))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
