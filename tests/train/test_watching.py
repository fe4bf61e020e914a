"""What a run tells while it goes: lines, a trace on request, trackers."""

import json
import sys
import types

import pytest

from tests.helpers import ROOT
from train.__main__ import main
from train.errors import UserError

FLAGS = [
    f"--config={ROOT}/configs/lenet_mnist.py", "--config.data.source=synthetic:28x28x1/10", "--config.epochs=0.5",
    "--config.parallel.devices=1", "--config.log.every=4", "--config.data.eval_batch_size=128",
]  # fmt: skip


def test_lines_trace_and_trackers(tmp_path, monkeypatch, capsys):
    """One short run with everything on; Weights & Biases is stood in for by a module that keeps what it is told."""
    told = []
    run = types.SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished")
    )
    started = {}
    monkeypatch.setitem(
        sys.modules, "wandb", types.SimpleNamespace(init=lambda **options: started.update(options) or run)
    )
    workdir = tmp_path / "run"
    main(
        [
            *FLAGS,
            "--config.log.profile=(3, 5)",
            "--config.log.wandb=project",
            "--config.log.tensorboard=true",
            f"--workdir={workdir}",
        ]
    )
    said = capsys.readouterr().err
    assert (
        "compiling lenet5 for 1 device(s)" in said and "compiled, first step done, in " in said and "left 0:0" in said
    )
    assert "trace of steps 3 to 5" in said and list((workdir / "profile").rglob("*.xplane.pb"))
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    assert {"step", "epoch", "loss", "top1", "lr", "grad_norm", "images_per_second", "data_wait"} <= set(row)
    assert row["step"] == 4 and row["epoch"] == pytest.approx(0.25)
    assert list((workdir / "tensorboard").glob("events*"))
    assert started["project"] == "project" and started["id"] == "run" and started["config"]["optim"]["lr"]
    assert told[0][0] == 4 and told[0][1]["train/loss"] == row["loss"] and told[-1] == "finished"


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="needs the package wandb"):
        main([*FLAGS, "--config.log.wandb=project", f"--workdir={tmp_path / 'run'}"])
