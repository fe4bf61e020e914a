"""What an import brings along is part of the interface: a model must not load a trainer, a step
must not load TensorFlow.
"""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

HEAVY = ["tensorflow", "orbax", "optax", "ml_collections", "torch", "matplotlib", "keras", "h5py"]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        (
            "cnnjax",
            [*HEAVY, "absl"],
        ),  # flax.linen itself imports absl.logging, so this holds until a name is used
        ("cnnjax.analysis", HEAVY),
        ("cnnjax.weights", HEAVY),
        ("train.step", ["tensorflow", "orbax", "torch", "matplotlib", "ml_collections"]),
        ("train.config", ["jax", "tensorflow"]),
        ("train.data", ["tensorflow", "orbax"]),
        ("train.loop", ["tensorflow", "orbax", "torch", "matplotlib"]),
        ("train.__main__", ["jax", "tensorflow", "orbax"]),
        # Each peer's process imports these, and its memory is compared.
        ("train.benchmark.race", ["jax", *HEAVY]),
        ("train.benchmark.__main__", ["jax", *HEAVY]),
    ],
)
def test_import_stays_light(module, forbidden):
    code = f"import {module}, sys; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
