"""A second start reads the step that the first one traced, to the same bits, and no other."""

import importlib
import json
import os
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest

from tests.helpers import ROOT, assert_trees_close
from train import recipe
from train.__main__ import main
from train.build import Task
from train.runtime import programs
from train.runtime.programs import Cache, settings, source

LENET = f"{ROOT}/configs/lenet_mnist.py"
SMALL = ["--config.data.source=synthetic:28x28x1/10", "--config.optim.ema=0.9"]
ZEROS = np.zeros(3, np.float32)


def two_steps(folder, *options):
    """The state and metrics of two updates; the step is cached in a folder, or nowhere."""
    task = Task(recipe.load(LENET, [*SMALL, *options]))
    state, batches = task.fresh_state(), map(task.spread.shard, task.batches(0))
    batch = next(batches)
    step = task.step
    if folder:
        arguments = (state, batch, task.key)
        step = Cache(folder, LENET).traced(step, arguments, task.decided_by())
        assert step is not task.step
        step = jax.jit(step, donate_argnums=0)
    for _ in range(2):
        state, measured = jax.block_until_ready(step(state, batch, task.key))
        batch = next(batches)
    return jax.device_get((state, measured))


def refuse(*_, **__):
    raise AssertionError("traced again")


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.parity)])
@pytest.mark.parametrize("mapping", ["pmap", pytest.param("shard_map", marks=pytest.mark.parity)])
def test_the_second_start_traces_nothing_and_computes_the_same(
    tmp_path, monkeypatch, mapping, devices
):
    options = [f"--config.parallel.mapping={mapping}", f"--config.parallel.devices={devices}"]
    plain, first = two_steps("", *options), two_steps(tmp_path, *options)
    assert len(list(tmp_path.glob("*-step"))) == 1
    monkeypatch.setattr("train.step.objective", refuse)
    second = two_steps(tmp_path, *options)
    assert_trees_close(first, plain, rtol=0, atol=0)
    assert_trees_close(second, plain, rtol=0, atol=0)


def add_one(state, batch, key):
    return state + 1, {"b": batch.sum(), "a": batch.max()}


def traced(folder, step=add_one, state=ZEROS, recipe=LENET, flags="", **decided_by):
    """The results of a cached step."""
    arguments = (state, ZEROS, jax.random.key(0))
    return Cache(folder, recipe, flags).traced(step, arguments, decided_by)(*arguments)


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_step_returns_its_state_and_its_values_by_name(tmp_path):
    for _ in range(2):
        state, values = traced(tmp_path)
        assert state.tolist() == [1, 1, 1] and {name: float(x) for name, x in values.items()} == {
            "a": 0,
            "b": 0,
        }
    assert len(names(tmp_path)) == 1


def test_everything_that_determines_a_step_is_in_its_key(tmp_path):
    traced(tmp_path)
    traced(tmp_path, lr=0.1)
    traced(tmp_path, lr=0.2)
    traced(tmp_path, recipe=f"{LENET}:variant")
    traced(tmp_path, flags="--xla_cpu_enable_fast_math=true")
    with jax.default_matmul_precision("float32"):
        traced(tmp_path)
    with jax.default_prng_impl("rbg"):
        traced(tmp_path)
    assert len(names(tmp_path)) == 7


@pytest.mark.parametrize("state", [np.ones(4, np.float32), np.ones(3, np.int32)])
def test_arguments_of_other_types_are_told_apart(tmp_path, state):
    for value in (ZEROS, state, ZEROS, state):
        np.testing.assert_array_equal(traced(tmp_path, state=value)[0], value + 1)


@pytest.mark.parity
@pytest.mark.parametrize("decays", [(0.0, 5e-4), (5e-4, 0.0)])
def test_optimizers_without_arrays_of_their_own_are_told_apart(tmp_path, decays):
    for decay in decays:
        options = [f"--config.optim.weight_decay={decay}"]
        first, plain = (two_steps(folder, *options)[0] for folder in (tmp_path, ""))
        assert_trees_close(first, plain, rtol=0, atol=0)
        assert jax.tree.structure(first) == jax.tree.structure(plain)


def test_flags_of_flax_count():
    before = settings()
    with flax.config.temp_flip_flag("fix_rng_separator", True):
        assert settings() != before
    assert settings() == before


def test_a_recipe_and_what_it_imports_count_but_not_where_they_lie(tmp_path, monkeypatch):
    """Whatever they replace in the packages, they replace by what is written in them."""
    monkeypatch.syspath_prepend(tmp_path)
    written, helper = tmp_path / "recipe.py", tmp_path / "my_layers.py"
    written.write_text("import my_layers\n")
    helper.write_text("width = 3\n")
    importlib.import_module("my_layers")
    seen = [source(str(written))]
    helper.write_text("width = 4\n")
    seen.append(source(str(written)))
    written.write_text("import my_layers, cnnjax\n")
    seen.append(source(str(written)))
    elsewhere = tmp_path / "elsewhere.py"
    written.rename(elsewhere)
    assert source(str(elsewhere)) == seen[-1] and len(set(seen)) == 3
    monkeypatch.delitem(sys.modules, "my_layers")


def test_the_packages_count_wherever_they_are_edited(tmp_path, monkeypatch):
    monkeypatch.setattr("train.runtime.programs.PACKAGES", [tmp_path])
    (tmp_path / "blocks").mkdir()
    seen = []
    for text in ("BN_EPSILON = 1e-3\n", "BN_EPSILON = 1e-5\n"):
        (tmp_path / "blocks/model.py").write_text(text)
        seen.append(source(LENET))
    assert seen[0] != seen[1]


@pytest.mark.parametrize("content", [b"", b"no program", "cut", "flipped"])
def test_a_damaged_file_is_traced_again_and_replaced(tmp_path, content):
    expected = traced(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:-20], "flipped": flipped}.get(content, content))
    assert_trees_close(traced(tmp_path), expected, rtol=0, atol=0)
    assert programs.read(path)[1] == ["a", "b"] and len(names(tmp_path)) == 1


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    for _ in range(2):
        assert traced(tmp_path)[0].tolist() == [1, 1, 1]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_what_others_may_write_is_not_read(tmp_path, monkeypatch, capsys):
    traced(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert programs.read(path)
    path.chmod(0o660)
    with pytest.raises(ValueError, match="can be written by other users"):
        programs.read(path)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    path.chmod(0o600)
    assert programs.is_private(path) == (path.stat().st_uid == 0)


@pytest.mark.parity
def test_a_cache_folder_that_others_may_write_is_not_used(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    own.mkdir(mode=0o755)

    def folder_of(variable, option):
        code = (
            f"from train.runtime.programs import cache_folder; print(cache_folder({str(option)!r}))"
        )
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(variable),
        }
        if not variable:
            del environment["JAX_COMPILATION_CACHE_DIR"]
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        return done.stdout.strip(), done.stderr

    used, said = folder_of(shared, "x")
    assert (
        used == ""
        and said
        == f"warning: {shared} can be written by other users, so no program is cached there\n"
    )
    assert folder_of(own, "x") == (str(own), "")
    assert folder_of("", own) == (str(own), "") and own.stat().st_mode & 0o077 == 0
    assert folder_of("", "") == ("", "")


def test_where_nothing_can_be_written_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    np.testing.assert_array_equal(traced(tmp_path / "file")[0], np.ones(3))


def test_a_step_that_calls_python_is_not_cached(tmp_path):
    said = []

    def talkative(state, batch, key):
        jax.debug.callback(lambda x: said.append(x.sum()), state)
        return state + 1, {}

    np.testing.assert_array_equal(traced(tmp_path, talkative)[0], np.ones(3))
    jax.effects_barrier()
    assert said == [0] and not list(tmp_path.iterdir())


@pytest.mark.parity
def test_only_a_command_caches_its_step(tmp_path, monkeypatch):
    """A script may replace what it likes between two runs in one process."""
    cache = tmp_path / "cache"
    options = [f"--config={LENET}", *SMALL, "--config.epochs=0.1", "--config.log.every=1"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update(
        "jax_compilation_cache_dir", str(cache)
    )  # it reads the variable when it is imported
    try:
        main([*options, f"--workdir={tmp_path}/script"])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not list(cache.glob("*-step"))

    def command(name, *more):
        call = [sys.executable, "-m", "train", *options, f"--workdir={tmp_path / name}", *more]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        subprocess.run(call, env=environment, cwd=ROOT, check=True, capture_output=True)
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(row)["loss"] for row in rows], {
            p.name: p.stat().st_mtime_ns for p in cache.glob("*-step")
        }

    command("off", "--config.parallel.compile_cache=")
    assert not list(cache.glob("*-step"))
    first, second = command("first"), command("second")
    assert first == second and len(first[1]) == 1
