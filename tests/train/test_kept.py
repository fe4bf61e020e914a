"""A second start loads the programs that the first one compiled, to the same bits; and never one that was something else."""

import collections
import importlib
import json
import os
import subprocess
import sys

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.helpers import ROOT, assert_trees_close
from train import recipe
from train.__main__ import main
from train.build import Task
from train.kept import Kept, Program, processor, settings, source

LENET = f"{ROOT}/configs/lenet_mnist.py"
SMALL = ["--config.data.source=synthetic:28x28x1/10", "--config.optim.ema=0.9"]
ZEROS = np.zeros(3, np.float32)


def two_steps(folder, *options):
    """The state and metrics of two updates by a task that keeps its programs in a folder, or nowhere."""
    task = Task(recipe.load(LENET, [*SMALL, *options]), kept=Kept(folder, LENET) if folder else None)
    state, batches = task.fresh_state(), map(task.spread.shard, task.batches(0))
    for _ in range(2):
        batch = next(batches)
        state, measured = jax.block_until_ready(task.ready_step(state, batch)(state, batch, task.key))
    return jax.device_get((state, measured))


def refuse(*_, **__):
    raise AssertionError("traced or compiled again")


def names(folder):
    """What is behind the digests, and how often."""
    return collections.Counter(path.name.rpartition("-")[2] for path in folder.iterdir())


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_the_second_start_compiles_nothing_and_computes_the_same(tmp_path, monkeypatch, mapping, devices):
    options = [f"--config.parallel.mapping={mapping}", f"--config.parallel.devices={devices}"]
    plain, first = two_steps("", *options), two_steps(tmp_path, *options)
    assert names(tmp_path) == {"keys": 1, "create": 1, "step": 1, "code": 3}
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    monkeypatch.setattr(nn.Module, "apply", refuse)
    second = two_steps(tmp_path, *options)
    assert_trees_close(first, plain, rtol=0, atol=0)
    assert_trees_close(second, plain, rtol=0, atol=0)


def keep(folder, function=lambda x: x + 1, argument=ZEROS, recipe=LENET, **decided_by):
    program = Program(jax.jit(function), jax.devices()[:1], Kept(folder, recipe).place("program", decided_by))
    shapes = program.results(argument)
    result = program.compiled(argument)(argument)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), result)
    return result


def test_what_decides_over_a_program_names_it(tmp_path):
    keep(tmp_path)
    keep(tmp_path)
    assert names(tmp_path) == {"program": 1, "code": 1}
    keep(tmp_path, lr=0.1)
    keep(tmp_path, lr=0.2)
    keep(tmp_path, recipe=f"{LENET}:variant")
    with jax.default_matmul_precision("float32"):
        keep(tmp_path)
    with jax.default_prng_impl("rbg"):
        keep(tmp_path)
    assert names(tmp_path)["program"] == 6


@pytest.mark.parametrize("argument", [np.ones(4, np.float32), np.ones(3, np.int32)])
def test_arguments_of_other_types_are_not_mistaken(tmp_path, argument):
    for value in (ZEROS, argument, ZEROS, argument):
        np.testing.assert_array_equal(keep(tmp_path, argument=value), value + 1)


def test_behind_a_change_that_leaves_the_text_nothing_is_compiled(tmp_path, monkeypatch):
    expected = keep(tmp_path, comment="one")
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    assert_trees_close(keep(tmp_path, comment="another"), expected, rtol=0, atol=0)
    assert names(tmp_path) == {"program": 2, "code": 1}
    with pytest.raises(AssertionError, match="compiled again"):
        keep(tmp_path, function=lambda x: x + 2, comment="a third")


def test_trees_of_one_text_are_not_mistaken(tmp_path):
    """The leaves and what is computed are the same, and what holds them is not."""
    for name in ("a", "b"):
        assert keep(tmp_path, lambda tree: sum(tree.values()) + 1, {name: ZEROS}).tolist() == [1, 1, 1]
    assert names(tmp_path) == {"program": 1, "code": 2}


@pytest.mark.parametrize("decays", [(0.0, 5e-4), (5e-4, 0.0)])
def test_optimizers_without_arrays_of_their_own_are_not_mistaken(tmp_path, decays):
    for decay in decays:
        options = [f"--config.optim.weight_decay={decay}"]
        first, plain = (two_steps(folder, *options)[0] for folder in (tmp_path, ""))
        assert_trees_close(first, plain, rtol=0, atol=0)
        assert jax.tree.structure(first) == jax.tree.structure(plain)


def test_what_comes_from_jaxs_own_cache_is_not_written(tmp_path):
    """XLA on a CPU writes a program that it has loaded without its functions."""
    wanted = {"jax_compilation_cache_dir": str(tmp_path / "jax"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: jax.config.values[name] for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        plain = two_steps("")
        assert [path.name for path in (tmp_path / "jax").glob("jit_create_state-*")]
        for _ in range(2):
            assert_trees_close(two_steps(tmp_path / "kept"), plain, rtol=0, atol=0)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_the_machine_counts(tmp_path, monkeypatch):
    kind, _, details, cores = processor()
    assert kind and cores and (details or not sys.platform.startswith("linux"))
    keep(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores + 1), raising=False)
    keep(tmp_path)
    monkeypatch.setattr("train.kept.processor", lambda: ["another"])
    keep(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    keep(tmp_path)
    monkeypatch.setattr("train.cpu.started_with", ["--xla_cpu_enable_fast_math=true"])  # what `cpu.tune` has set
    keep(tmp_path)
    assert names(tmp_path) == {"program": 5, "code": 5}


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
    monkeypatch.setattr("train.kept.OURS", [tmp_path])
    (tmp_path / "blocks").mkdir()
    seen = []
    for text in ("BN_EPSILON = 1e-3\n", "BN_EPSILON = 1e-5\n"):
        (tmp_path / "blocks/model.py").write_text(text)
        seen.append(source(LENET))
    assert seen[0] != seen[1]


def test_a_damaged_file_is_compiled_again_and_mended(tmp_path):
    expected = keep(tmp_path)
    places = sorted(tmp_path.iterdir())
    for place in places:
        whole = place.read_bytes()
        middle = len(whole) // 2
        for content in (b"", b"no pickle", whole[:-20], whole[:middle] + bytes(64) + whole[middle + 64 :]):
            place.write_bytes(content)
            assert_trees_close(keep(tmp_path), expected, rtol=0, atol=0)
            assert place.read_bytes() != content
    assert sorted(tmp_path.iterdir()) == places


def test_where_nothing_can_be_kept_all_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    np.testing.assert_array_equal(keep(tmp_path / "file"), np.ones(3))
    monkeypatch.setattr("pickle.dumps", refuse)
    np.testing.assert_array_equal(keep(tmp_path / "unpickled"), np.ones(3))
    monkeypatch.undo()
    keep(tmp_path / "whole")
    places = [place.name for place in (tmp_path / "whole").iterdir()]
    for name in places:
        (tmp_path / "taken" / name).mkdir(parents=True)
    np.testing.assert_array_equal(keep(tmp_path / "taken"), np.ones(3))
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == sorted(places)


def test_a_program_that_calls_python_is_not_kept(tmp_path):
    said = []

    def talkative(x):
        jax.debug.callback(lambda x: said.append(x.sum()), x)
        return x + 1

    np.testing.assert_array_equal(keep(tmp_path, talkative), np.ones(3))
    jax.effects_barrier()
    assert said == [0] and not list(tmp_path.iterdir())


def test_only_a_command_keeps_programs(tmp_path, monkeypatch):
    """A script may replace what it likes between two runs in one process."""
    cache = tmp_path / "cache"
    options = [f"--config={LENET}", *SMALL, "--config.epochs=0.1", "--config.log.every=1"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(cache))  # it reads the variable when it is imported
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
        return [json.loads(row)["loss"] for row in rows], {p.name: p.stat().st_mtime_ns for p in cache.glob("*-step")}

    command("off", "--config.parallel.compile_cache=")
    assert not list(cache.glob("*-step"))
    first, second = command("first"), command("second")
    assert first == second and len(first[1]) == 1
