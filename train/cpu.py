"""How XLA is started for a CPU, as it was measured to be fastest there: before anything else of jax."""

import os

import jax

from cnnjax import convolve

# What is set below was tried with these versions; XLA ends a process with a flag that it does not know.
TRIED = (0, 10) <= jax.__version_info__ < (0, 13)

started_with: list[str] = []  # the flags that XLA has read, which its programs depend on; empty if others started it


def tune(*, recomputes: bool = False, small: bool = False) -> None:
    """Starts XLA as a CPU wants it; flags that are set and the environment stay as they were. Before anything else of jax.

    What runs on one device runs on the thread that calls it. By itself XLA hands it to threads of its own, and the C library
    serves blocks of more than 64 MiB to none but a program's first thread out of memory that it has: the workspace of each
    step was mapped and cleared anew, which took a quarter of VGG16's time, an eighth of that of AlexNet and Inception v3.
    A step so `small` that it needs no such blocks stays with XLA's threads, behind which the host's own work hides.

    Parameters are updated in place: the usual analysis copies each ahead of its update, in case that comes before the last
    use, which takes a fifth of AlexNet's working memory and 5 % of its time.

    Operations are ordered for little memory, not for many at once: that saves a tenth of the memory of a step of AlexNet
    and VGG, a third where BatchNorm's passes are kept, and inference of Inception v3 takes a tenth less time. Not so for a
    step that `recomputes`: what it computes anew would come early, and take twice the memory.

    Convolutions are not handed to YNNPACK (`cnnjax/convolve.py` has their rates): steps of AlexNet and Inception v3 take 7 to
    9 % less time. Of a `small` step neither are matrix products, which takes LeNet-5 a tenth less.
    """
    late = started()
    if TRIED and "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", small)
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = now = flags(before or "", recomputes=recomputes, small=small)
    jax.local_devices()  # reads them, unless it was asked before
    if not late:
        started_with[:] = [now]
        convolve.handed_over = convolve.SPARED not in now
    del os.environ["XLA_FLAGS"]
    if before is not None:
        os.environ["XLA_FLAGS"] = before


def started() -> bool:
    """Whether jax has its devices, for which XLA has read its flags."""
    before = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", 2 if before == 1 else 1)  # another number is refused then
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False


def flags(given: str, *, recomputes: bool, small: bool) -> str:
    """The flags with ours behind them; alone if they are a file's name, which XLA reads."""
    if not TRIED or (given and not given.lstrip().startswith("--")):
        return given
    spared = [convolve.SPARED, *(["-individual_dot"] if small else [])]
    wanted = {"xla_cpu_copy_insertion_use_region_analysis": "true", convolve.YNNPACK: ",".join(spared)}
    if not recomputes:
        wanted["xla_cpu_enable_concurrency_optimized_scheduler"] = "false"
    return " ".join([given, *(f"--{name}={value}" for name, value in wanted.items() if name not in given)]).strip()
