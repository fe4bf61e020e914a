"""Compiles a recipe's training step for TPUs that are not here.

libtpu (`pip install 'cnnjax[tpu]'`) holds the TPU's own compiler, which needs no TPU. Each step is
compiled in a process of its own, `python -m train.forecast.topology`. It ends when XLA has
optimized the program and given every array its place in memory. It does not wait for the machine
code, which takes most of the time and changes neither.
"""

import glob
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.spelling import nearest
from train import config as configs
from train import errors
from train.errors import UserError
from train.forecast import hlo

# Without these libtpu asks the network which machine this is, and takes a lock for real chips.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
GIB = 2**30
# Below this many bytes of free memory the program is compiled to the end: its code takes some too.
TIGHT = GIB // 4


class Chip(NamedTuple):
    """A kind of TPU: its published peaks, and the memory that libtpu grants a program.

    Attributes:
        flops: a second, in bfloat16.
        bandwidth: bytes a second, of its memory.
        memory: bytes.
    """

    flops: float
    bandwidth: float
    memory: float

    @property
    def multiply_adds(self) -> float:
        return self.flops / 2


# Peaks: https://cloud.google.com/tpu/docs/v4 and so on. Memory: libtpu's message "exceeds available
# HBM"; of a v4 that of both cores, 15.25 GiB each.
CHIPS = {
    "v4": Chip(275e12, 1200e9, 30.5 * GIB),
    "v5e": Chip(197e12, 819e9, 15.75 * GIB),
    "v5p": Chip(459e12, 2765e9, 95.74 * GIB),
    "v6e": Chip(918e12, 1638e9, 31.25 * GIB),
}


class Step(NamedTuple):
    """What is known of a training step on one chip of a topology.

    Attributes:
        topology, devices, kind, mapping: "v5e:8x8", 64, "TPU v5 lite", "pmap".
        fits: whether a chip's memory holds it.
        arguments, total: bytes of memory: state and batch; those and all temporaries.
        work: operations, traffic and exchanges.
        donated: how many arrays of the state are updated in place.
    """

    topology: str
    devices: int
    kind: str
    mapping: str
    fits: bool
    arguments: int
    total: int
    work: hlo.Work
    donated: int

    @property
    def chip(self) -> Chip:
        return chip_of(self.topology)


def chip_of(topology: str) -> Chip:
    return CHIPS[topology.partition(":")[0]]


def count_chips(topology: str) -> int:
    """The chips of a topology such as "v5e:8x8".

    Raises:
        UserError: it is not one.
    """
    kind, _, grid = topology.partition(":")
    if kind not in CHIPS:
        hint = nearest(kind, CHIPS)
        raise UserError(f"--topology={topology}: no such chip; {hint}")
    if not re.fullmatch(r"[1-9]\d?(x[1-9]\d?){1,2}", grid):
        raise UserError(f"--topology={topology} must be a chip and its grid, as in v5e:8x8")
    sides = [int(side) for side in grid.split("x")]
    if math.prod(sides) > 1 and (sides[0] % 2 or sides[1] % 2):
        raise UserError(
            f"--topology={topology}: a host has 2x2 chips, so the first two sides must be even"
        )
    return math.prod(sides)


def compile_step(
    config: configs.Config, topology: str, *, module: str = "train.forecast.topology"
) -> Step:
    """Compiles the step that training would run on a topology.

    Args:
        config: of the run.
        topology: as `count_chips` takes it.
        module: whose `main` compiles.

    Raises:
        UserError: libtpu is missing or refuses the topology, or the config is wrong.
    """
    count_chips(topology)
    request = {"config": configs.to_dict(config), "topology": topology}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", module, folder],
            input=json.dumps(request),
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        checks = re.search(r"Check failed: (.*)", done.stderr)
        if checks:  # libtpu aborts
            last = f"--topology={topology}: libtpu cannot compile for it: {checks[1].strip()}"
        error = UserError(last.removeprefix("error: "))
        error.exit_code = max(done.returncode, 2)
        raise error
    values = json.loads(done.stdout.splitlines()[-1])
    work = hlo.Work(**values["work"])
    values["work"] = work._replace(collectives=tuple(work.collectives))
    return Step(**values)


# ------------------------------------------------------------------------ in the compiling process


def devices(topology: str) -> list[Any]:
    """The chips of a topology, to compile for.

    Raises:
        UserError: libtpu is missing, or knows no such topology.
    """
    from jax.experimental import topologies

    # A host has 2x2 chips unless it is told otherwise.
    single = {"chips_per_host_bounds": (1, 1, 1)} if count_chips(topology) == 1 else {}
    try:
        import libtpu  # noqa: F401 (whether it is there)

        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **single)
    except ImportError:
        raise UserError(
            f"--topology={topology} needs libtpu: pip install 'cnnjax[tpu]' (Linux on x86)"
        ) from None
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--topology={topology}: {reason}") from None
    # Both cores of a v4 are listed, but its machines show one device for the two.
    listed: list[Any] = list(found.devices)
    return [d for d in listed if d.device_kind != "TPU v4" or d.core_on_chip == 0]


def main() -> dict[str, Any]:
    """Compiles what standard input names; the program's text goes to the folder of the argument."""
    request = json.load(sys.stdin)
    folder, topology = Path(sys.argv[1]), request["topology"]
    among = devices(topology)

    from train import dry_run

    config = configs.from_dict(request["config"])
    task = dry_run.build(config, among)
    about = {
        "topology": topology,
        "devices": len(among),
        "kind": among[0].device_kind,
        "mapping": task.spread.mapping,
    }
    lowered = task.step.lower(*dry_run.arguments(task))
    outcome = Outcome(folder, about)
    threading.Thread(target=outcome.wait, daemon=True).start()
    try:
        lowered.compile({"xla_dump_to": str(folder)})
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return outcome.last("after_optimizations.txt", fits=about["kind"] == "TPU v4")
    return outcome.last(FINAL, fits=True)


FINAL = "after_optimizations_after_buffer_assignment.txt"


class Outcome:
    """Waits for the files that XLA writes, and reads them. Who comes first tells the result."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder, self.about = folder, about
        self._one, self._told = threading.Lock(), False

    def wait(self) -> None:
        """Ends the process when the program is optimized, unless memory is tight."""
        while not self.files(FINAL):
            time.sleep(0.1)
        time.sleep(0.5)  # XLA writes it at once, after the report
        with self._one:
            result = self._told or self.of(FINAL, fits=True)
            if isinstance(result, dict) and self.is_roomy(result):
                print(errors.json_line(result), flush=True)
                os._exit(0)

    def is_roomy(self, result: dict[str, Any]) -> bool:
        return result["total"] < chip_of(self.about["topology"]).memory - TIGHT

    def last(self, ending: str, fits: bool) -> dict[str, Any]:
        """The result after the compilation, for which nobody has to wait any more."""
        with self._one:
            self._told = True
            return self.of(ending, fits)

    def files(self, ending: str) -> list[str]:
        return sorted(glob.glob(f"{self.folder}/*{ending}"))

    def of(self, ending: str, fits: bool) -> dict[str, Any]:
        """The fields of a `Step`; `fits` is the compiler's word."""
        chip = chip_of(self.about["topology"])
        text = Path(self.files(ending)[-1]).read_text()
        total, arguments = hlo.memory(Path(self.files("-buffer-assignment.txt")[-1]).read_text())
        work = hlo.read(text, multiply_adds=chip.multiply_adds, bandwidth=chip.bandwidth)
        return self.about | {
            "fits": fits and total <= chip.memory,
            "arguments": arguments,
            "total": total,
            "work": work._asdict(),
            "donated": hlo.donated(text),
        }


if __name__ == "__main__":
    sys.exit(errors.run(main))
