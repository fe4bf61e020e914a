"""Four devices out of one CPU, set before the first jax call; memory that stays bounded."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import psutil
import pytest

from train.runtime import malloc

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.devices()  # now, before a command that a test calls sets XLA's flags for the whole process

MOST_BYTES = 2**31  # that a test process may hold at the end of a file


@pytest.fixture(autouse=True, scope="module")
def programs_are_dropped():
    """Compiled programs of hundreds of tests are gigabytes."""
    yield
    if psutil.Process().memory_info().rss > MOST_BYTES:
        jax.clear_caches()
        gc.collect()
        malloc.give_back()
