"""A second run reads the programs that the first one traced, to the same bits; and never one that was something else."""

import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import inception_v3, layers, winograd
from tests.helpers import ROOT, assert_trees_close
from train import kept, recipe, step
from train.build import Task
from train.config import Config, Data, Model
from train.kept import Kept


def two_steps(folder, *options):
    """The state and metrics of two updates by a task that keeps its programs in a folder, or nowhere."""
    task = Task(recipe.load(f"{ROOT}/configs/lenet_mnist.py", ["--config.data.source=synthetic:28x28x1/10", *options]),
                kept_in=str(folder))  # fmt: skip
    state, batches = task.fresh_state(), map(task.spread.shard, task.batches(0))
    batch = next(batches)
    step = task.kept_step(state, batch)
    state, _ = jax.block_until_ready(step(state, batch, task.key))
    return jax.device_get(step(state, next(batches), task.key))


def refuse(*_):
    raise AssertionError("traced again")


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_the_second_run_traces_nothing_and_computes_the_same(tmp_path, monkeypatch, mapping, devices):
    options = [f"--config.parallel.mapping={mapping}", f"--config.parallel.devices={devices}", "--config.optim.ema=0.9"]
    plain, first = two_steps("", *options), two_steps(tmp_path, *options)
    assert sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir()) == ["create", "step"]
    monkeypatch.setattr(jax.export, "export", refuse)
    monkeypatch.setattr(nn.Module, "apply", refuse)
    second = two_steps(tmp_path, *options)
    assert_trees_close(first, plain, rtol=0, atol=0)
    assert_trees_close(second, plain, rtol=0, atol=0)


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


ZEROS = np.zeros(3, np.float32)


def keep(folder, function=lambda x: x + 1, argument=ZEROS, **decided_by):
    return jax.jit(Kept(folder, decided_by)("program", function, (argument,)))(argument)


def test_what_decides_over_a_program_names_it(tmp_path, monkeypatch):
    keep(tmp_path)
    keep(tmp_path)
    assert len(names(tmp_path)) == 1
    keep(tmp_path, lr=0.1)
    keep(tmp_path, lr=0.2)
    keep(tmp_path, argument=np.zeros(4, np.float32))
    keep(tmp_path, argument=np.zeros(3, np.int32))
    with jax.default_matmul_precision("float32"):
        keep(tmp_path)
    monkeypatch.setattr(kept, "VERSIONS", {"jax": "0.1"})
    keep(tmp_path)
    assert len(names(tmp_path)) == 7


@pytest.mark.parametrize(
    ("place", "name", "other"),
    [
        (layers.ConvBN, "__call__", lambda self, x, train: x),
        (layers, "global_avg_pool", lambda x: x.max((1, 2))),
        (inception_v3, "BN_EPSILON", 0.1),
        (winograd, "KERNEL", np.eye(4, 3)),
        (step.train_step, "__kwdefaults__", {"ema": 0.5}),
    ],
)
def test_what_a_recipe_replaces_in_the_packages_is_seen(monkeypatch, place, name, other):
    before = kept.source()
    assert kept.source() == before
    monkeypatch.setattr(place, name, other)
    assert kept.source() != before
    monkeypatch.undo()
    assert kept.source() == before


def test_the_source_reads_the_same_in_every_process():
    program = "from train import kept, loop; import cnnjax; cnnjax.create_model('vgg16'); print(kept.source())"
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, cwd=ROOT, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in "12"
    ]  # fmt: skip
    assert said[0] == said[1] and len(said[0]) == 65


def test_a_damaged_file_is_traced_again_and_mended(tmp_path):
    expected = keep(tmp_path)
    (place,) = tmp_path.iterdir()
    for content in (b"", b"no pickle", place.read_bytes()[:-20]):
        place.write_bytes(content)
        assert_trees_close(keep(tmp_path), expected, rtol=0, atol=0)
        assert place.read_bytes() != content
    assert names(tmp_path) == {place.name}


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path / "file").write_text("no folder")
    np.testing.assert_array_equal(keep(tmp_path / "file"), np.ones(3))


def test_a_program_that_calls_python_is_not_kept(tmp_path):
    said = []

    def talkative(x):
        jax.debug.callback(lambda x: said.append(x.sum()), x)
        return x + 1

    np.testing.assert_array_equal(keep(tmp_path, talkative), np.ones(3))
    jax.effects_barrier()
    assert said == [0] and not names(tmp_path)


class Mine(nn.Module):
    num_classes: int = 10
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x, train=False):
        return cnnjax.Outputs(nn.Dense(self.num_classes)(x.reshape(len(x), -1)), (), None)


def test_a_network_of_the_users_own_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("train.build.create_model", lambda name, **options: Mine(**options))
    task = Task(
        Config(model=Model("mine"), data=Data(source="synthetic:8x8x1/2", batch_size=4)), kept_in=str(tmp_path / "kept")
    )
    state, batch = task.fresh_state(), task.spread.shard(next(task.batches(0)))
    assert task.kept_step(state, batch) is task.step and not (tmp_path / "kept").exists()
