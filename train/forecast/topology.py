"""Compiles a recipe's training step for TPUs and GPUs that are not here.

libtpu (`pip install 'cnnjax[tpu]'`) holds the TPU's own compiler, which needs no TPU. Each step is
compiled in a process of its own, `python -m train.forecast.topology`. It ends when XLA has
optimized the program and given every array its place in memory. It does not wait for the machine
code, which takes most of the time and changes neither.

For GPUs, jax's CUDA plugin (`pip install 'jax[cuda12]'`) compiles from a description of the device.
It needs no driver. What it would measure on a GPU, it does not know: the fastest algorithm of each
convolution, and the memory in which that works.
"""

import glob
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from train import config as configs
from train import errors
from train.errors import UserError
from train.forecast import hlo
from train.forecast.chips import GIB, GPUS_OF_A_NODE, H100, Chip, chip_of, count_chips

# Without these libtpu asks the network which machine this is, and takes a lock for real chips, and
# the CUDA plugin looks for a driver.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Below this many bytes of free memory the program is compiled to the end: its code takes some too.
TIGHT = GIB // 4


class Step(NamedTuple):
    """What is known of a training step on one chip of a topology.

    Attributes:
        topology, devices, kind, mapping: "v5e:8x8", 64, "TPU v5 lite", "pmap".
        fits: whether a chip's memory holds it.
        arguments, total: bytes of memory: state and batch; those and all temporaries.
        work: operations, traffic and exchanges; for GPUs exchanges only.
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


def compile_step(
    config: configs.Config, topology: str, *, module: str = "train.forecast.topology"
) -> Step:
    """Compiles the step that training would run on a topology.

    Args:
        config: of the run.
        topology: as `count_chips` takes it.
        module: whose `main` compiles.

    Raises:
        UserError: the compiler is missing or refuses the topology, or the config is wrong.
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
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        named = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception): ", line)]
        last = (named or lines)[-1]
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
        UserError: the compiler is missing, or knows no such topology.
    """
    from jax.experimental import topologies

    if chip_of(topology).platform == "cuda":
        return gpus(topology)
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


def gpus(topology: str) -> list[Any]:
    """The same for GPUs, of which a node has eight."""
    from jax.experimental import topologies

    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        raise UserError(
            f"--topology={topology} needs jax's CUDA plugin: pip install 'jax[cuda12]' (Linux)"
        )
    count = count_chips(topology)
    each = min(count, GPUS_OF_A_NODE)
    found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="NVIDIA H100 80GB HBM3",
        target_config=H100,
        topology=f"1x{count // each}x{each}",
    )
    return list(found.devices)


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
    if chip_of(topology).platform == "cuda":
        return of_gpu(lowered.compile(), about)
    outcome = Outcome(folder, about)
    threading.Thread(target=outcome.wait, daemon=True).start()
    try:
        lowered.compile({"xla_dump_to": str(folder)})
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return outcome.last("after_optimizations.txt", fits=about["kind"] == "TPU v4")
    return outcome.last(FINAL, fits=True)


def of_gpu(compiled: Any, about: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Step` for GPUs."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    return about | {
        "fits": total <= chip_of(about["topology"]).memory,
        "arguments": memory.argument_size_in_bytes,
        "total": total,
        "work": hlo.Work(collectives=hlo.collectives(text))._asdict(),
        "donated": hlo.donated(text),
    }


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
