"""How the C library (glibc) takes memory from the system and gives it back.

`train/benchmark/README.md` has the effect of each on training.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# "always [madvise] never": the mode in brackets is on. In madvise programs ask for large pages.
OFFER = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE, RESTARTED = "glibc.malloc.hugetlb", "CNNJAX_ASKED_FOR_LARGE_PAGES"


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that asks Linux for large pages.

    The system then hands out new memory in pages of 2 MiB, not 4 KiB, and clears and maps far fewer
    of them. glibc asks from version 2.35 on, and reads the setting when a program starts.

    Returns:
        The environment with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`. Unchanged where the system
        does not wait to be asked, and where the variable has that setting already:
        `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` declines.
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
    """Starts `python -m module`, or `cnnjax module`, again with large pages, as the same process.

    To be called first of all. Does nothing where large pages are not to be had, in a program that
    was started again already, and where the program is another one (a notebook).
    """
    environment = with_large_pages(os.environ)
    # Some systems remove GLIBC_TUNABLES; RESTARTED keeps the program from starting for ever.
    if environment == dict(os.environ) or RESTARTED in os.environ:
        return
    command = [module, *sys.argv[1:]]
    if sys.executable and sys.orig_argv[-len(command) :] == command:
        arguments = [sys.executable, *sys.orig_argv[1:]]
        with contextlib.suppress(OSError):
            os.execve(sys.executable, arguments, {**environment, RESTARTED: "1"})


def give_back() -> None:
    """Returns all free memory to the system, such as what a compiler leaves. glibc only."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """From now on freed memory stays with the process, to be used again. glibc only.

    By default glibc takes each large block from the system and returns it when it is freed, so that
    every step's workspace and every decoded image is made of new pages, which the system clears.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
    mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap
    mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never shrinks
