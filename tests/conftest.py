"""Four devices out of one CPU, set before the first jax call. What one test has compiled, none
compiles again.
"""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config):
    """The first process makes the folder of compiled programs, its workers share it."""
    if "CNNJAX_TEST_PROGRAMS" not in os.environ:
        os.environ["CNNJAX_TEST_PROGRAMS"] = tempfile.mkdtemp(prefix="cnnjax-programs-")
        atexit.register(shutil.rmtree, os.environ["CNNJAX_TEST_PROGRAMS"], ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", os.environ["CNNJAX_TEST_PROGRAMS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
