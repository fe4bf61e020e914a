"""How XLA is started for a CPU. The effect of each setting is in `train/benchmark/README.md`."""

import os
from importlib import metadata
from pathlib import Path

import jax

from cnnjax.ops.platform import WITHOUT_CONVOLUTIONS, YNNPACK_FLAG, expect_ynnpack

# XLA ends a process with a flag that it does not know, so only these versions get any.
TRIED = (0, 10) <= jax.__version_info__ < (0, 13)


def tune(*, recomputes: bool = False, small: bool = False) -> str:
    """Starts XLA as it is fastest on a CPU, before anything else of jax.

    Flags that are set, and the environment, stay as they are. Nothing happens if jax has started.

    Args:
        recomputes: the step computes parts of its forward pass again for its gradient. Ordering
            operations for little memory would do that too early.
        small: the step works in less than 64 MiB. It runs on XLA's own threads, and the host works
            meanwhile. A larger step runs on the calling thread, which keeps its workspace.

    Returns:
        The flags that XLA was started with; "" where somebody else has started it.
    """
    if is_started():
        return ""
    if TRIED and "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", small)
    if jax.config.values["jax_platforms"] is None and is_cpu_alone():
        jax.config.update("jax_platforms", "cpu")
    before = os.environ.get("XLA_FLAGS")
    now = flags(before or "", recomputes=recomputes, small=small)
    os.environ["XLA_FLAGS"] = now
    try:
        jax.local_devices()  # reads them
        expect_ynnpack(WITHOUT_CONVOLUTIONS not in now)
    finally:
        del os.environ["XLA_FLAGS"]
        if before is not None:
            os.environ["XLA_FLAGS"] = before
    return now


def is_cpu_alone() -> bool:
    """Whether this machine has no TPU and jax no plugin for other chips.

    libtpu, which is installed to compile for TPUs elsewhere, complains in five lines where it
    finds none. Google's PCI devices may be TPUs.
    """
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    google = any(vendor.read_text().strip() == "0x1ae0" for vendor in vendors)
    return not google and not metadata.entry_points(group="jax_plugins")


def is_started() -> bool:
    """Whether jax has its devices, and XLA has read its flags."""
    before = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", 2 if before == 1 else 1)  # refused once it has
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False


def flags(given: str, *, recomputes: bool, small: bool) -> str:
    """XLA_FLAGS with ours added; as they are where they are the name of a file with flags."""
    if not TRIED or (given and not given.lstrip().startswith("--")):
        return given
    without = [WITHOUT_CONVOLUTIONS, *(["-individual_dot"] if small else [])]
    wanted = {
        "xla_cpu_copy_insertion_use_region_analysis": "true",  # parameters are updated in place
        YNNPACK_FLAG: ",".join(without),
    }
    if not recomputes:
        wanted["xla_cpu_enable_concurrency_optimized_scheduler"] = "false"
    ours = [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    return " ".join([given, *ours]).strip()
