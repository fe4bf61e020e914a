"""The memory that a framework's steps hold, of the process or of a GPU."""

import gc
from collections.abc import Callable
from pathlib import Path

from train.runtime import malloc


class Memory:
    """The peak of the memory that steps hold beyond what the loaded framework holds.

    On a CPU it is the resident memory of the process, whoever allocates it, so that frameworks
    compare. On a GPU it is the framework's own count.
    """

    def __init__(self, on_gpu: Callable[[], int] | None = None):
        """To be made when the framework is loaded; `on_gpu` returns the peak in bytes."""
        self._on_gpu, self._base = on_gpu, resident("VmRSS")

    def restart(self) -> None:
        """Forgets the peak so far, and memory that is free but not given back to the system."""
        if not self._on_gpu and self._base:
            gc.collect()
            malloc.give_back()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again

    def peak(self) -> float | None:
        """MiB beyond the loaded framework; None where the system does not say."""
        if self._on_gpu:
            return self._on_gpu() / 2**20
        return (resident("VmHWM") - self._base) / 2**20 if self._base else None

    def of_process(self) -> float | None:
        """MiB of the process with the framework; None on a GPU or where the system does not say."""
        return resident("VmHWM") / 2**20 if self._base and not self._on_gpu else None


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status (VmRSS, VmHWM); 0 where there is no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def device_memory() -> Callable[[], int] | None:
    """A function that returns the peak in bytes of jax's first device; None on a CPU."""
    import jax

    device = jax.local_devices()[0]
    return (lambda: device.memory_stats()["peak_bytes_in_use"]) if device.memory_stats() else None
