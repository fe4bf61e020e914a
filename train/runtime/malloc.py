"""Memory of the C library: in large pages, and kept for the next step or image instead of handed back to the system."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

OFFER = Path(
    "/sys/kernel/mm/transparent_hugepage/enabled"
)  # always, [madvise] or never: which one is in brackets
TUNABLE, ASKED = "glibc.malloc.hugetlb", "CNNJAX_ASKED_FOR_LARGE_PAGES"


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a program has large pages, where Linux gives them on request; elsewhere as it is.

    New memory then comes 2 MiB at a time, not 4 KiB: a step of AlexNet takes a sixth less time, of Inception v3 a tenth.
    glibc asks for them from 2.35 on, if told before the program starts; GLIBC_TUNABLES=glibc.malloc.hugetlb=0 declines.
    """
    tunables = environment.get("GLIBC_TUNABLES", "")
    try:
        offered = "[madvise]" in OFFER.read_text()
    except OSError:
        offered = False
    if not offered or TUNABLE in tunables:
        return dict(environment)
    return {**environment, "GLIBC_TUNABLES": ":".join([*filter(None, [tunables]), f"{TUNABLE}=1"])}


def start_with_large_pages(module: str) -> None:
    """Starts this program again with them, as the same process; for `python -m module`, as the first thing that it does."""
    wanted = with_large_pages(os.environ)
    if wanted == dict(os.environ) or ASKED in os.environ:  # some systems take the variable away
        return
    ours = ["-m", module, *sys.argv[1:]]
    if (
        sys.executable and sys.orig_argv[-len(ours) :] == ours
    ):  # else a notebook, say, would be gone
        with contextlib.suppress(OSError):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**wanted, ASKED: "1"})


def give_back() -> None:
    """Hands memory that is free now to the system, as what a compiler leaves: its threads' is of no use to any other."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # glibc
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """Memory that is freed stays with the process. Does nothing but under glibc.

    glibc takes large blocks from the system and returns them every time, and the pages are new and zeroed again and again.
    XLA on a CPU asks for the workspace of each step anew: that took 40 % of a step of LeNet-5 with 512 images. Decoded
    images are such blocks too, and threads that take and return them stop each other: it took a quarter of the reading.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    no_maps, trim_above = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    mallopt(no_maps, 0)
    mallopt(trim_above, -1)  # the largest size
