"""Memory that the C library keeps for the next step or image instead of handing it back to the system."""

import ctypes


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
