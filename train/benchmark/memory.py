"""The memory that a framework's steps hold, of the process or of a GPU."""

import gc
from collections.abc import Callable
from pathlib import Path

from train.runtime.malloc import give_back


class Memory:
    """The most memory that steps hold beyond what the bare, loaded framework does.

    On a CPU the resident memory of the process: everything that it takes, whoever allocates it, so that frameworks compare.
    On a GPU the framework's own count.
    """

    def __init__(self, of_device: Callable[[], int] | None = None):
        self._of_device, self._base = of_device, resident("VmRSS")

    def restart(self) -> None:
        """Forgets the past: what compilation took, and memory that is free but not given back."""
        if not self._of_device and self._base:
            gc.collect()
            give_back()
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float | None:
        """MiB; None where the system does not tell."""
        if self._of_device:
            return self._of_device() / 2**20
        return (resident("VmHWM") - self._base) / 2**20 if self._base else None

    def of_process(self) -> float | None:
        """MiB of all that the process has, the framework with it; None on a GPU, and where the system does not tell."""
        return resident("VmHWM") / 2**20 if self._base and not self._of_device else None


def resident(field: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def device_memory() -> Callable[[], int] | None:
    """Gives the most bytes that this process has ever had on its first device; None where jax does not count, on a CPU."""
    import jax

    device = jax.local_devices()[0]
    return (lambda: device.memory_stats()["peak_bytes_in_use"]) if device.memory_stats() else None
