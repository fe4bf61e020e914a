"""Nothing is lost or written twice when a run is killed; damaged checkpoints are passed over."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.helpers import ROOT, assert_trees_close
from train.__main__ import main
from train.checkpoint import Checkpoints, on_one_device
from train.errors import CheckpointError
from train.run import Run

# Augmentation, a moving average, rows and checkpoints that fall neither on each other nor on the
# border of a pass.
OPTIONS = [
    f"--config={ROOT}/configs/lenet_mnist.py",
    "--config.data.source=synthetic:28x28x1/10",
    "--config.data.batch_size=64",
    "--config.data.eval_batch_size=128",
    "--config.optim.ema=0.9",
    "--config.epochs=3",
    "--config.log.every=5",
    "--config.log.eval_every=17",
    "--config.checkpoint.every=7",
]


def start(workdir):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-m", "train", *OPTIONS, f"--workdir={workdir}"]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def last_row(workdir):
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def kill_behind(process, workdir, step):
    """SIGKILL as soon as a row of that step or a later one stands."""
    while last_row(workdir) < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def numbers(workdir):
    """Every logged number but those of the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "data_wait")}
        for row in rows
    ]


def final_state(workdir):
    """The whole last checkpoint, as it lies on disk."""
    import orbax.checkpoint as ocp

    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    return steps[-1], ocp.StandardCheckpointer().restore(
        (workdir / "checkpoints" / str(steps[-1]) / "state").resolve()
    )


def test_kill_9_and_resume_is_bit_identical(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)
    deaths = []
    for step in (10, 34, 61):  # the borders of the passes are at 32 and 64
        process = start(killed)
        kill_behind(process, killed, step)
        deaths.append(last_row(killed))
    last = start(killed)
    for process in (undisturbed, last):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert "resuming at step" in errors and deaths == sorted(deaths)

    assert numbers(killed) == numbers(whole)
    keys = [(row["step"], row["split"]) for row in numbers(killed)]
    assert keys == sorted(keys, key=lambda key: (key[0], key[1] != "train")) and len(keys) == len(
        set(keys)
    )
    (step, state), (expected_step, expected) = final_state(killed), final_state(whole)
    assert step == expected_step == 96
    assert_trees_close(state, expected)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "finished"
    main([*OPTIONS, f"--workdir={workdir}", "--config.epochs=1"])
    return workdir


def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def damage(checkpoint):
    """Cuts every file of array data in half."""
    files = [p for p in (checkpoint / "state").rglob("*") if p.is_file() and "/d/" in str(p)]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_latest_and_best_are_kept(finished):
    steps = sorted(int(p.name) for p in (finished / "checkpoints").iterdir())
    assert steps[-2:] == [28, 32]


def test_a_damaged_newest_checkpoint_is_passed_over(finished, tmp_path, capsys):
    workdir = copy(finished, tmp_path)
    damage(workdir / "checkpoints" / "32")
    result = main([*OPTIONS, f"--workdir={workdir}", "--config.epochs=1"])
    said = capsys.readouterr().err
    assert (
        "warning" in said
        and "checkpoints/32 cannot be restored" in said
        and "resuming at step 28 of 32" in said
    )
    assert result["step"] == 32
    assert numbers(workdir) == numbers(finished)
    assert_trees_close(final_state(workdir), final_state(finished))


def test_nothing_but_damaged_checkpoints_is_an_error(finished, tmp_path, capfd):
    workdir = copy(finished, tmp_path)
    for checkpoint in (workdir / "checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(CheckpointError, match="cannot be restored") as caught:
        main([*OPTIONS, f"--workdir={workdir}", "--config.epochs=1"])
    assert caught.value.exit_code == 4
    assert "Event loop" not in capfd.readouterr().err  # no read was left under way


def test_a_half_written_row_is_dropped(finished, tmp_path):
    workdir = copy(finished, tmp_path)
    shutil.rmtree(workdir / "checkpoints" / "32")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 33, "spl')
    main([*OPTIONS, f"--workdir={workdir}", "--config.epochs=1"])
    assert numbers(workdir) == numbers(finished)


def test_the_newest_survives_when_an_older_one_is_better(tmp_path):
    state = {"x": np.arange(3.0)}
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step, top1 in enumerate([0.9, 0.5, 0.4, 0.3, 0.2], start=1):
            checkpoints.save(step, state, {}, {"top1": top1})
            checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 5] and checkpoints.best() == 1


def test_what_is_saved_is_what_stood_there_when_it_was_asked_for(tmp_path):
    """Training goes on while the checkpoint is written, and adds to the very sums that it holds."""
    meta, state = {"window": {"steps": 2.0}}, {"x": np.arange(3.0)}
    with Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints:
        for step in range(1, 6):
            meta["window"]["steps"] = float(step)
            checkpoints.save(step, state, meta, None)
            meta["window"]["steps"] += 100
        checkpoints.wait()
        assert [
            checkpoints.restore(step, on_one_device(state))[1]["window"]["steps"]
            for step in range(1, 6)
        ] == [1, 2, 3, 4, 5]


def test_restores_on_another_number_of_devices(finished):
    run = Run(str(finished))
    step, variables = run.restore("latest")
    assert step == 32
    assert {leaf.sharding for leaf in jax.tree.leaves(variables)} == {
        jax.sharding.SingleDeviceSharding(jax.devices()[0])
    }
