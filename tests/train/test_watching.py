"""What a run tells while it goes: lines, a trace on request, trackers."""

import json
import re
import shutil
import sys
import time
import types

import jax
import pytest

from tests.helpers import ROOT
from train import logs, meters, recipe
from train.__main__ import main
from train.build import Task
from train.errors import CheckpointError, DivergedError, UserError
from train.logs import Metrics
from train.trackers import PACKAGES, TRACKERS

FLAGS = [
    f"--config={ROOT}/configs/lenet_mnist.py",
    "--config.data.source=synthetic:28x28x1/10",
    "--config.epochs=0.5",
    "--config.parallel.devices=1",
    "--config.log.every=4",
    "--config.data.eval_batch_size=128",
]


def test_lines_trace_and_trackers(tmp_path, monkeypatch, capsys):
    """One short run with everything on; Weights & Biases is stood in for by a module that keeps
    what it is told.
    """
    told = []
    run = types.SimpleNamespace(
        log=lambda values, step: told.append((step, values)),
        finish=lambda exit_code: told.append(exit_code),
    )
    started = {}
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        types.SimpleNamespace(init=lambda **options: started.update(options) or run),
    )
    workdir = tmp_path / "run"
    main(
        [
            *FLAGS,
            "--config.log.profile=(3, 5)",
            "--config.log.to=('tensorboard', 'wandb')",
            "--config.log.project=project",
            f"--workdir={workdir}",
        ]
    )
    said = capsys.readouterr().err
    assert (
        "compiling lenet5 for 1 device(s)" in said
        and "compiled, first step done, in " in said
        and "left 0:0" in said
    )
    assert "trace of steps 3 to 5" in said and list((workdir / "profile").rglob("*.xplane.pb"))
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    assert {
        "step",
        "epoch",
        "loss",
        "top1",
        "lr",
        "grad_norm",
        "images_per_second",
        "data_wait",
    } <= set(row)
    assert row["step"] == 4 and row["epoch"] == pytest.approx(0.25)
    assert list((workdir / "tensorboard").glob("events*"))
    assert (
        started["project"] == "project"
        and started["id"].startswith("run-")
        and started["config"]["optim"]["lr"]
    )
    assert told[0][0] == 4 and told[0][1]["train/loss"] == row["loss"] and told[-1] == 0


def test_a_tracker_is_told_that_a_run_fails(tmp_path, monkeypatch):
    told = []
    run = types.SimpleNamespace(
        log=lambda *_, **__: None, finish=lambda exit_code: told.append(exit_code)
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    with pytest.raises(DivergedError):
        main(
            [
                *FLAGS,
                "--config.optim.lr=1e30",
                "--config.log.to=('wandb',)",
                f"--workdir={tmp_path}",
            ]
        )
    assert told == [1]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch, name):
    package = PACKAGES.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"needs the package {package}"):
        Metrics(tmp_path, to=(name,))


def test_a_tracker_that_fails_is_left_out(tmp_path, monkeypatch, capsys):
    """At its start, without a network say, or later."""

    def refuse(**_):
        raise ConnectionError("no network")

    def write(values, step):
        told.append(step)
        if step == 2:
            raise ConnectionError("no network any more")

    told: list[int] = []
    trackio = types.SimpleNamespace(init=lambda **_: None, log=write, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    rows = Metrics(tmp_path, to=("wandb", "trackio"))
    for step in (1, 2, 3):
        rows.write(step, "train", {"loss": 1.0})
    rows.close()
    said = capsys.readouterr().err
    assert "log.to=wandb failed: no network; training goes on without it" in said
    assert "log.to=trackio failed: no network any more" in said and told == [1, 2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_options_of_earlier_versions():
    config = recipe.load(
        "lenet_mnist", ["--config.log.wandb=mine", "--config.log.tensorboard=true"]
    )
    assert config.log.to == ("wandb", "tensorboard") and config.log.project == "mine"


@pytest.mark.parity
def test_a_trace_that_a_run_does_not_come_to_the_end_of(tmp_path, capsys):
    """Asked for beyond the last step; then of none of the steps that a resumed run has, and of the
    last ones of it.
    """
    workdir, every = tmp_path / "run", "--config.checkpoint.every=7"
    for steps, said in [
        ("(7, 99)", "trace of steps 7 to 8"),
        ("(3, 5)", ""),
        ("(3, 8)", "trace of steps 8 to 8"),
    ]:
        main([*FLAGS, every, f"--config.log.profile={steps}", f"--workdir={workdir}"])
        told = capsys.readouterr().err
        assert said in told if said else "trace of" not in told
        shutil.rmtree(workdir / "checkpoints/8")


def test_waiting_for_data_is_told_once(tmp_path, monkeypatch, capsys):
    batches = Task.batches

    def slow(self, start, attempt=0):
        for batch in batches(self, start, attempt):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(Task, "batches", slow)
    main([*FLAGS, f"--workdir={tmp_path / 'slow'}"])
    said = capsys.readouterr().err
    assert said.count("the devices wait for data") == 1
    assert float(re.search(r"devices wait for data ([\d.]+)% of the time", said)[1]) > 50


def test_only_idle_devices_wait():
    """What the host does while a step is under way costs nothing."""
    window = meters.Window({})
    assert window.idle()
    for ready in (False, True):
        window.add(1, {"loss": types.SimpleNamespace(is_ready=lambda ready=ready: ready)})
        assert window.idle() == ready


def test_skipped_images_are_counted(tmp_path, monkeypatch):
    """In the rows and in the result, where unreadable images are skipped; else there is nothing to
    count.
    """
    batches = Task.batches

    def with_a_bad_one(self, start, attempt=0):
        for number, batch in enumerate(batches(self, start, attempt)):
            if number == 5:
                self.train_split.bad[3] = "torn"
            yield batch

    monkeypatch.setattr(Task, "batches", with_a_bad_one)
    result = main([*FLAGS, "--config.data.on_bad_image=skip", f"--workdir={tmp_path / 'run'}"])
    rows = [row for row in logs.read(tmp_path / "run") if row["split"] == "train"]
    assert [row["bad_images"] for row in rows] == [0, 1] and result["bad_images"] == 1


def test_a_first_step_has_no_speed(tmp_path):
    """It compiled: an image rate of nothing would be a lie."""
    main([*FLAGS, "--config.log.every=1", f"--workdir={tmp_path / 'run'}"])
    rows = [row for row in logs.read(tmp_path / "run") if row["split"] == "train"]
    assert "images_per_second" not in rows[0] and all(
        row["images_per_second"] > 0 for row in rows[1:]
    )


def test_rows_that_are_no_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\nnonsense\n')
    with pytest.raises(CheckpointError, match=r"line 2 of .*metrics\.jsonl is not a row"):
        logs.read(tmp_path)


def test_one_compilation_a_run(tmp_path):
    """After the first step nothing large is compiled but the evaluation: the step's inputs never
    change their kind.
    """
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **of: (
            compiled.append(of.get("fun_name", "")) if "backend_compile" in name else None
        )
    )
    for mapping in ("pmap", "shard_map"):
        compiled.clear()
        options = [
            "--config.optim.schedule=plateau",
            "--config.log.eval_every=3",
            "--config.checkpoint.every=2",
        ]
        main(
            [
                *FLAGS,
                *options,
                f"--config.parallel.mapping={mapping}",
                f"--workdir={tmp_path / mapping}",
            ]
        )
        large = [
            name for name in compiled if "_fun" in name or "step" in name
        ]  # pmap calls it _fun
        assert len(large) == 2, compiled  # the step, and the evaluation
