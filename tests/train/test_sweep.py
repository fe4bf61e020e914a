"""A sweep: which runs it makes, what it does not run again, and what its table says."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from tests.helpers import ROOT
from train import config as configs
from train import errors, loop
from train.errors import DivergedError, Preempted, UserError
from train.run import end
from train.sweep import grid, training
from train.sweep.__main__ import main
from train.sweep.results import result

LENET = f"--config={ROOT}/configs/lenet_mnist.py"


@pytest.fixture
def trained(monkeypatch):
    """Runs that leave a folder as training does, without training; the folders in their order."""
    folders = []

    def train(config, workdir):
        folder = epath.Path(workdir)
        folders.append(folder.name)
        if config.optim.lr > 1:
            raise DivergedError("the loss of step 10 is nan")
        if config.epochs == 3 and config.seed == 1:
            raise Preempted("stopped")
        about = {"class_names": ["a", "b"], "steps": 9}
        (folder / "config.json").write_text(json.dumps(configs.to_dict(config) | about))
        top1 = 0.5 + config.optim.lr + 0.01 * config.seed
        rows = [
            {"step": 9, "split": "train", "images_per_second": 100.0},
            {"step": 9, "split": "test", "top1": top1, "loss": 1 - top1},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "checkpoints/9").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(loop, "train", train)
    return folders


def run(tmp_path, *arguments):
    return main([LENET, f"--workdir={tmp_path}", *arguments])


def test_a_grid_by_seeds_with_paired_differences(trained, tmp_path):
    result = run(tmp_path, "--grid.optim.lr=0.1,0.3", "--seeds=3")
    assert trained == [f"optim.lr={lr},seed={seed}" for lr in (0.1, 0.3) for seed in range(3)]
    first, second = result["settings"]
    assert first["setting"] == {"optim.lr": "0.1"} and first["difference"] is None
    assert np.allclose([first["mean"], second["mean"]], [0.61, 0.81])
    # Student's t of two degrees of freedom: 4.303 standard errors of 0.01 / sqrt(3)
    assert np.allclose(first["interval"], [0.61 - 0.02484, 0.61 + 0.02484], atol=1e-5)
    # The seeds' own part is in both runs of a pair.
    assert np.allclose([second["difference"]["mean"], *second["difference"]["interval"]], 0.2)
    assert json.loads((tmp_path / "sweep.json").read_text())["settings"] == json.loads(
        json.dumps(result["settings"])
    )
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 0.3 | 3 | 81.0 | 78.5 to 83.5 | +20.0 | +20.0 to +20.0 |" in lines[3]


def test_finished_runs_are_not_run_again(trained, tmp_path):
    rate = "--config.optim.lr=0.1"
    run(tmp_path, rate, "--seeds=2")
    assert trained == ["seed=0", "seed=1"]
    result = run(tmp_path, rate, "--seeds=3", "--metric=loss")
    assert trained == ["seed=0", "seed=1", "seed=2"]
    assert result["settings"][0]["values"][2] == pytest.approx(1 - 0.5 - 0.1 - 0.02)
    (tmp_path / "seed=1/metrics.jsonl").write_text("")  # as if it had been interrupted
    run(tmp_path, rate, "--seeds=3")
    assert trained[3:] == ["seed=1"]


def test_a_run_that_ended_early_is_finished(trained, tmp_path):
    run(tmp_path, "--config.optim.lr=0.1")
    path = tmp_path / "seed=0/config.json"
    path.write_text(path.read_text().replace('"steps": 9', '"steps": 90'))
    assert result(grid.plan(LENET[9:], tmp_path, {}, ["--config.optim.lr=0.1"])[0]) is None
    end(epath.Path(tmp_path) / "seed=0", 9)
    again = run(tmp_path, "--config.optim.lr=0.1")
    assert again["settings"][0]["n"] == 1 and trained == ["seed=0"]


def test_a_failed_run_is_named_and_ends_nothing(trained, tmp_path, capsys):
    with pytest.raises(UserError, match=r"1 of 3 runs failed.*optim.lr=7,seed=0: .*nan") as caught:
        run(tmp_path, "--grid.optim.lr=0.1,7,0.2")
    assert caught.value.exit_code == DivergedError.exit_code
    assert len(trained) == 3
    result = json.loads(capsys.readouterr().out)
    assert [row["n"] for row in result["settings"]] == [1, 0, 1]
    assert list(result["failed"]) == ["optim.lr=7,seed=0"]


def test_a_fault_of_the_program_is_named_too(trained, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(loop, "train", broken)
    code = errors.run(lambda: run(tmp_path))
    assert code == 1 and "seed=0: ZeroDivisionError: by zero" in capsys.readouterr().err


def test_a_signal_ends_the_sweep(trained, tmp_path):
    with pytest.raises(Preempted):
        run(tmp_path, "--config.epochs=3", "--seeds=3")
    assert trained == ["seed=0", "seed=1"]


def test_any_value_has_its_row(trained, tmp_path):
    run(tmp_path, "--grid.data.augment.custom=a|b,\udcff:f")
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [r"| a\|b", r"| \udcff:f"]


def test_a_large_network_has_a_process_of_its_own(tmp_path, monkeypatch):
    """It gets the run's options and folder; its exit code and last sentence are the run's."""
    script = "import sys; print(*sys.argv[1:], 'error: no luck', file=sys.stderr, sep='\\n')"
    values, path = {"recipe": ["vgg11", "vgg16"]}, str(ROOT / "configs/lineage_mnist5k.py")
    runs = grid.plan(path, str(tmp_path), values, ["--config.epochs=2"])
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", f"{script}; sys.exit(5)"])
    assert list(training.train(runs).values()) == [("no luck", 5)] * 2
    lines = (tmp_path / "recipe=vgg16,seed=0/log.txt").read_text().splitlines()
    assert lines[:3] == [f"--config={path}:vgg16", "--config.epochs=2", "--config.seed=0"]
    assert lines[3] == f"--workdir={tmp_path / 'recipe=vgg16,seed=0'}"
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", "import sys; sys.exit(75)"])
    with pytest.raises(Preempted):
        training.train(runs)


def test_several_processes_at_a_time(tmp_path, monkeypatch):
    """Each waits for the other one."""
    script = (
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1].removeprefix('--workdir=')); (folder / 'on').touch()\n"
        "for _ in range(3000):\n"
        "    if len(list(folder.parent.glob('*/on'))) == 2: sys.exit()\n"
        "    time.sleep(0.01)\n"
        "sys.exit(1)"
    )
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", script])
    path, recipes = str(ROOT / "configs/lineage_mnist5k.py"), ["vgg11", "vgg16"]
    assert training.train(grid.plan(path, str(tmp_path), {"recipe": recipes}), jobs=2) == {}


def test_large_networks_of_one_seed_come_first(tmp_path, monkeypatch):
    """So that those side by side are different programs, and the next ones find these compiled."""
    script = "import sys; open('order', 'a').write(sys.argv[-1].rpartition('recipe=')[2] + '\\n')"
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", script])
    monkeypatch.chdir(tmp_path)
    path, recipes = str(ROOT / "configs/lineage_mnist5k.py"), ["vgg11", "vgg16"]
    assert training.train(grid.plan(path, str(tmp_path), {"recipe": recipes}, count=2)) == {}
    order = (tmp_path / "order").read_text().split()
    assert order == [f"{name},seed={seed}" for seed in (0, 1) for name in recipes]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_goes_to_the_processes_that_train(tmp_path, monkeypatch, jobs):
    """It is sent by the last of them. None is begun after it."""
    script = (
        "import os, pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))\n"
        "def end(*_): (folder / 'ended').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); (folder / 'on').touch()\n"
        f"if len(list(folder.parent.glob('*/on'))) == {jobs}: os.kill(os.getppid(), 15)\n"
        "time.sleep(60)"
    )
    path, recipes = str(ROOT / "configs/lineage_mnist5k.py"), ["vgg11", "vgg16", "vgg19"]
    before, start = signal.getsignal(signal.SIGTERM), subprocess.Popen
    begun = []
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", script])
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: begun.append(a) or start(*a, **k))
    with pytest.raises(Preempted):
        training.train(grid.plan(path, str(tmp_path), {"recipe": recipes}), jobs)
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(list(tmp_path.glob("*/ended"))) == len(begun) == jobs


def test_where_one_is_asked_to_end_all_are(tmp_path, monkeypatch):
    """By a scheduler that knows of one process, say. The others save and end too."""
    script = (
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[-1].removeprefix('--workdir='))\n"
        "def end(*_): (folder / 'ended').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); (folder / 'on').touch()\n"
        "asked = 'vgg11' in folder.name\n"
        "for _ in range(3000):\n"
        "    if asked and len(list(folder.parent.glob('*/on'))) == 2: sys.exit(75)\n"
        "    time.sleep(0.01)"
    )
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", script])
    path, recipes = str(ROOT / "configs/lineage_mnist5k.py"), ["vgg11", "vgg16", "vgg19"]
    with pytest.raises(Preempted):
        training.train(grid.plan(path, str(tmp_path), {"recipe": recipes}), jobs=2)
    assert [path.parent.name for path in tmp_path.glob("*/ended")] == ["recipe=vgg16,seed=0"]


def test_a_signal_that_comes_before_the_process_that_trains(tmp_path, monkeypatch):
    """It would end the sweep, and leave the process behind."""
    start = subprocess.Popen

    def late(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", late)
    monkeypatch.setattr(training, "TRAIN", [sys.executable, "-c", "import time; time.sleep(60)"])
    path = str(ROOT / "configs/lineage_mnist5k.py")
    with pytest.raises(Preempted):
        training.train(grid.plan(path, str(tmp_path), {"recipe": ["vgg11"]}))


def test_a_grid_over_the_argument_of_a_recipe(tmp_path):
    path = str(ROOT / "configs/lineage_mnist5k.py")
    runs = grid.plan(path, str(tmp_path), {"recipe": ["lenet5", "vgg11"], "optim.lr": ["0.1"]})
    assert [run.config.model.name for run in runs] == ["lenet5", "vgg11"]
    assert [run.folder.name for run in runs] == [
        f"recipe={name},optim.lr=0.1,seed=0" for name in ("lenet5", "vgg11")
    ]


def test_names_of_folders_are_safe_and_differ(tmp_path):
    values = ["a/b", "a_b", "x" * 300, "x" * 301]
    names = [grid.name_of((("data.source", value),), 0) for value in values]
    assert len(set(names)) == 4 and all(len(name) < 130 and "/" not in name for name in names)


def test_values_in_brackets_stay_together(tmp_path):
    values, others = grid.parse_grid(["--grid.data.mean=(0.1,0.2),0.3", "--config.seed=1"])
    assert values == {"data.mean": ["(0.1,0.2)", "0.3"]} and others == ["--config.seed=1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grid.optim.lrr=1,2"], "did you mean optim.lr"),
        (["--grid.optim.lr=fast,0.1"], "takes a number, got 'fast'"),
        (["--grid.optim.lr=0.1,0.1"], "optim.lr=0.1,seed=0 twice"),
        (["--grid.optim.lr="], "needs values"),
        (["--grid.optim.lr=0.1,"], "needs values"),
        (["--grid.optim.lr=0.1", "--grid.optim.lr=0.2"], "given twice"),
        (["--grid.seed=0,1"], "--seeds=N"),
        (["--seeds=0"], "whole number"),
        (["--seeds=1001"], "whole number from 1 to 1000"),
        (["--metric=top9"], "did you mean top1"),
        (["--config=nothing.py"], "nothing.py does not exist"),
    ],
)
def test_a_mistake_is_a_sentence(trained, tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        run(tmp_path, *arguments)
    assert caught.value.exit_code == 2


def test_a_folder_of_another_run_is_refused_before_any_run(trained, tmp_path):
    run(tmp_path, "--seeds=2")
    with pytest.raises(UserError, match=r"seed=0 holds a run with another config: optim.lr"):
        run(tmp_path, "--seeds=3", "--config.optim.lr=0.2")
    assert len(trained) == 2


def test_a_run_from_before_an_option_was_added_is_done(trained, tmp_path):
    run(tmp_path)
    path = tmp_path / "seed=0/config.json"
    values = json.loads(path.read_text())
    del values["optim"]["patience"], values["on_nan"]
    path.write_text(json.dumps(values))
    run(tmp_path)
    assert trained == ["seed=0"]


def test_a_run_is_trained_and_done(tmp_path):
    still = [f"--config.data.augment.{name}=0" for name in ("rotate", "scale", "shear", "shift")]
    data = ["--config.data.source=synthetic:28x28x1/10", "--config.data.eval_batch_size=64"]
    arguments = [*still, *data, "--config.epochs=0.1", "--config.parallel.devices=1"]
    result = run(tmp_path, *arguments)
    assert result["settings"][0]["n"] == 1
    assert "compiled, first step done" in (tmp_path / "seed=0/log.txt").read_text()
    before = (tmp_path / "seed=0/metrics.jsonl").stat().st_mtime_ns
    assert run(tmp_path, *arguments)["settings"] == result["settings"]
    assert (tmp_path / "seed=0/metrics.jsonl").stat().st_mtime_ns == before
