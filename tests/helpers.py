"""Small tools of several tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parent.parent


def assert_trees_close(actual, expected, atol=0.0, rtol=0.0):
    """Every leaf within the tolerance, exactly equal by default; the path of the first that is not
    is in the message.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, atol=atol, rtol=rtol, err_msg=jax.tree_util.keystr(path))


def signal_handlers():
    """What this process does on each signal."""
    return [signal.getsignal(number) for number in signal.valid_signals()]


def command(*arguments, timeout=900, env=None, cwd=ROOT):
    """Runs `python -m …` as a user does, on one device; returns the finished process with text
    output.
    """
    # TensorFlow and XLA say things at the C++ level that no test is about.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | (env or {})
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        cwd=cwd,
    )
