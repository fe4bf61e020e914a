"""The command line as a user meets it: speed, exit codes, one sentence for each mistake.

Short cases of one kind, in one place: a new one is put beside its siblings.
"""

import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT, command
from tests.train.test_preemption import limit_files
from train import predict, recipe
from train.__main__ import main
from train.config import describe
from train.errors import DataError, DivergedError, UserError
from train.export.__main__ import main as export
from train.report import __main__ as report

LENET = str(ROOT / "configs/lenet_mnist.py")
TINY = [
    "--config.data.source=synthetic:28x28x1/10",
    "--config.data.augment.rotate=0",
    "--config.data.augment.scale=0",
    "--config.data.augment.shear=0",
    "--config.data.augment.shift=0",
    "--config.epochs=0.5",
    "--config.data.eval_batch_size=64",
]


def train(*overrides, workdir, config=LENET):
    return main([f"--config={config}", f"--workdir={workdir}", *TINY, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder of a short training."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, train(workdir=workdir)


def test_a_run_folder_holds_what_the_readme_says(finished):
    workdir, result = finished
    assert {"step", "loss", "top1", "examples"} <= set(result)
    assert result["step"] == 8 and result["examples"] == 512
    assert json.loads((workdir / "config.json").read_text())["class_names"][0] == "grating0"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [(8, "train"), (8, "test")]
    assert (workdir / "checkpoints" / "8").is_dir()


def test_the_same_command_on_a_finished_run_trains_no_more(finished):
    workdir, result = finished
    assert train(workdir=workdir).items() <= result.items()


def processor_time(*command):
    """Seconds that a command computes, the less of two: whatever else the machine is doing."""
    seconds = []
    for _ in range(2):
        before = os.times()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=ROOT, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    return min(seconds)


@pytest.mark.parametrize("arguments", [("train", "--help"), ("cnnjax",)])
def test_help_and_table_are_quick(arguments):
    assert processor_time("-m", *arguments) < 2 * processor_time("-c", "import flax.linen")


def test_help_lists_every_option():
    text = command("train", "--help").stdout
    for flag, _, comment in describe():
        assert flag in text and comment, flag


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config=configs/lenet_mnits.py"],
            "configs/lenet_mnits.py does not exist; did you mean configs/lenet_mnist.py",
        ),
        (["--config.optim.lrr=1"], "no key 'optim.lrr'; did you mean optim.lr"),
        (["--config.optm.lr=1"], "no key 'optm.lr'; did you mean optim.lr"),
        (["--config.optim.lr=fast"], "--config.optim.lr takes a number, got 'fast'"),
        (
            ["--config.data.batch_size=12.5"],
            "--config.data.batch_size takes a whole number, got '12.5'",
        ),
        (
            ["--config.optim.nesterov=maybe"],
            "--config.optim.nesterov takes true or false, got 'maybe'",
        ),
        (["--config.optim=sgd"], "--config.optim is a group of keys"),
        (["--config.optim.lr"], "--config.optim.lr needs a value"),
        (["--config.optim.lr.x=1"], "optim.lr is a value"),
        (["--confg.optim.lr=1"], "unknown argument '--confg.optim.lr=1'; did you mean"),
        (["--config.model.name=lenet"], "model='lenet' is unknown; did you mean lenet5"),
        (["--config.model.options.dropuot=0.1"], "lenet5 has no option 'dropuot'"),
        (["--config.model.dtype=float18"], "model.dtype='float18' is unknown; did you mean"),
        (["--config.model.num_classes=3"], "model.num_classes=3, but the data has 10 classes"),
        (["--config.model.options.num_classes=3"], "num_classes is called model.num_classes"),
        (
            ["--config.optim.schedule=cosin"],
            "optim.schedule='cosin' is unknown; did you mean cosine",
        ),
        (
            ["--config.parallel.mapping=vmap"],
            "parallel.mapping='vmap' is unknown; did you mean pmap",
        ),
        (["--config.parallel.devices=99"], "parallel.devices=99, but this process has"),
        (["--config.data.batch_size=0"], "data.batch_size=0 must be a positive multiple"),
        (
            ["--config.data.augment.rotate=much"],
            "--config.data.augment.rotate takes a number, got 'much'",
        ),
        (
            ["--config.data.augment.color=slimm"],
            "data.augment.color='slimm' is unknown; did you mean slim",
        ),
        (
            ["--config.data.augment.distort=hots"],
            "data.augment.distort='hots' is unknown; did you mean host",
        ),
        (
            ["--config.data.augment.crop=areas"],
            "data.augment.crop='areas' is unknown; did you mean area",
        ),
        (
            ["--config.data.size=32", "--config.data.transform.style=slimm"],
            "data.transform.style='slimm' is unknown",
        ),
        (
            ["--config.data.on_bad_image=skipp"],
            "data.on_bad_image='skipp' is unknown; did you mean skip",
        ),
        (["--config.data.mean=(0.1, 0.2)"], "data.mean has 2 values for images of 1 channel"),
        (
            ["--config.data.source=synthetic:8x8x1/10"],
            "lenet5 needs images of at least 28x28 pixels, got 8x8",
        ),
        (["--config.epochs=0"], "epochs=0.0 of 2048 examples make no batch"),
        (["--config.epochs=nan"], "epochs=nan must be at least 0, and finite"),
        (["--config.seed=-1"], "seed=-1 must be at least 0"),
        (["--config.log.every=0"], "log.every=0 must be at least 1"),
        (["--config.log.eval_every=0"], "log.eval_every=0 must be at least 1"),
        (["--config.checkpoint.every=0"], "checkpoint.every=0 must be at least 1"),
        (["--config.optim.lr=-1"], "optim.lr=-1.0 must be at least 0"),
        (["--config.optim.ema=1.5"], "optim.ema=1.5 must be from 0 to 1"),
        (["--config.loss.label_smoothing=2"], "loss.label_smoothing=2.0 must be from 0 to 1"),
        (["--config.data.augment.mixup=-1"], "data.augment.mixup=-1.0 must be at least 0"),
        (["--config.data.std=(0.0,)"], "data.std=(0.0,) must be positive"),
        (["--config.log.profile=(5, 3)"], "log.profile=(5, 3) must be two steps (a, b)"),
        (["--config.log.profile=(0, 3)"], "log.profile=(0, 3) must be two steps (a, b)"),
        (
            ["--config.data.batch_size=1"],
            "multiple of the 4 device(s); parallel.devices takes fewer of them",
        ),
    ],
)
def test_usage_mistakes(tmp_path, arguments, sentence):
    config = [a for a in arguments if a.startswith("--config=")] or [f"--config={LENET}"]
    with pytest.raises(UserError) as caught:
        main(
            [
                *config,
                f"--workdir={tmp_path / 'run'}",
                *TINY,
                *(a for a in arguments if a not in config),
            ]
        )
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (
        tmp_path / "run"
    ).exists()  # or the command, put right, would meet a run with another config


def test_a_mistake_prints_one_line_and_no_trace(tmp_path):
    done = command("train", f"--config={LENET}", f"--workdir={tmp_path}", "--config.optim.lrr=1")
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: the config has no key 'optim.lrr'")
        and done.stderr.count("\n") == 1
    )
    assert done.stdout == ""


def test_a_misspelt_option_of_a_command_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown argument '--workdr'; did you mean --workdir"):
        predict.main(["--workdr=runs/x", "a.jpg"])
    for blank in ("", "  "):
        with pytest.raises(UserError, match="unrecognized arguments"):
            report.main([blank])
    with pytest.raises(UserError, match=r"are required: --out \(python -m train.export --help"):
        export(["--workdir=runs/x"])


def test_broken_recipes(tmp_path):
    (tmp_path / "raises.py").write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match="failed: ZeroDivisionError"):
        recipe.load(str(tmp_path / "raises.py"))
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match=r"must return a train\.config\.Config, got dict"):
        recipe.load(str(tmp_path / "wrong.py"))


def test_a_recipe_can_take_an_argument(tmp_path):
    (tmp_path / "r.py").write_text(
        "from train.config import Config\n"
        "def get_config(seed='3'):\n    return Config(seed=int(seed))\n"
    )
    assert recipe.load(str(tmp_path / "r.py") + ":7").seed == 7


def test_workdir_that_cannot_be_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        train(workdir=file)
    with pytest.raises(UserError, match="cannot be written"):
        train(workdir="/proc/nothing/run")


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("--config.model.name=lenet5_1998", "model.name: lenet5 -> lenet5_1998"),
        ("--config.optim.lr=0.3", "-> 0.3"),
    ],
)
def test_a_run_folder_of_another_config_is_refused_with_the_difference(
    finished, override, difference
):
    with pytest.raises(UserError, match="holds a run with another config") as caught:
        train(override, workdir=finished[0])
    assert difference in str(caught.value)


def test_a_folder_older_than_an_option_is_resumed_with_its_default_alone(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    values = json.loads((folder / "config.json").read_text())
    del values["data"]["augment"]["distort"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"data\.augment\.distort: device -> host"):
        train("--config.data.augment.distort=host", workdir=folder)
    train(workdir=folder)
    assert (
        json.loads((folder / "config.json").read_text())["data"]["augment"]["distort"] == "device"
    )


def test_other_data_is_refused_with_the_difference(finished, tmp_path):
    """The same words, but more examples or other classes: the batches would be others,
    silently.
    """
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    values = json.loads((folder / "config.json").read_text())
    for change, difference in [
        ({"steps": 9}, "steps: 9 -> 8"),
        (
            {"class_names": ["cat", *values["class_names"][1:]]},
            "class_names: 0: 'cat' -> 'grating0'. Take",
        ),
    ]:
        (folder / "config.json").write_text(json.dumps(values | change))
        with pytest.raises(UserError, match="holds a run with another config") as caught:
            train(workdir=folder)
        assert difference in str(caught.value)


def test_the_config_of_a_run_is_never_half_written(finished, tmp_path):
    """A full disk leaves what was there."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = (folder / "config.json").read_text()
    try:
        limit_files(10)
        with pytest.raises(UserError, match="cannot be written"):
            train("--config.checkpoint.keep=7", workdir=folder)
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert (folder / "config.json").read_text() == before
    assert train(workdir=folder)["step"] == 8


def test_harmless_options_may_change(finished):
    workdir, result = finished
    assert (
        train(
            "--config.checkpoint.keep=7", "--config.parallel.mapping=shard_map", workdir=workdir
        ).items()
        <= result.items()
    )


def test_a_diverged_loss_stops_and_names_the_step(tmp_path):
    with pytest.raises(DivergedError, match=r"the loss of step \d+ is (nan|inf)") as caught:
        train("--config.optim.lr=1e30", "--config.optim.warmup=0", workdir=tmp_path / "run")
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def good(n=20, **changes):
    arrays = {
        "x_train": np.zeros((n, 28, 28, 1), np.uint8),
        "y_train": np.arange(n) % 10,
        "x_test": np.zeros((n, 28, 28), np.uint8),
        "y_test": np.arange(n) % 10,
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"x_train": np.zeros((0, 28, 28, 1), np.uint8), "y_train": np.zeros(0, int)},
            "x_train is empty",
        ),
        ({"y_train": np.arange(20) - 1}, "y_train has the label -1"),
        (
            {"y_train": np.arange(20), "class_names": np.array(list("abcdefghij"))},
            "has the label 19, but there are 10 class",
        ),
        (
            {"x_train": np.zeros((20, 784), np.uint8)},
            r"must be (N, H, W, C) or (N, H, W), got shape (20, 784)",
        ),
        (
            {"x_train": np.zeros((20, 28, 28, 1), np.float32)},
            "x_train must be uint8 in 0..255, got float32",
        ),
        (
            {"y_train": np.zeros(20, np.float32)},
            "y_train must be integers of shape (N,), got float32",
        ),
        ({"x_train": np.zeros((7, 28, 28, 1), np.uint8)}, "x_train has 7 examples, y_train has 20"),
        ({"x_test": None}, "has no split 'test'"),
        (
            {"x_test": None, "x_train": None},
            "needs arrays x_train, y_train, x_test, y_test or images, labels",
        ),
        (
            {"y_train": np.array([{}] * 20, object)},
            "it holds pickled Python objects, which are never loaded",
        ),
    ],
)
def test_bad_npz(tmp_path, changes, sentence):
    path = save(tmp_path / "data.npz", **good(**changes))
    with pytest.raises(DataError) as caught:
        train(f"--config.data.source=npz:{path}", workdir=tmp_path / "run")
    assert sentence in str(caught.value) and str(path) in str(caught.value)
    assert caught.value.exit_code == 3


def test_files_that_are_no_npz(tmp_path):
    for name, content in [("empty.npz", b""), ("text.npz", b"<html>"), ("cut.npz", None)]:
        path = tmp_path / name
        if content is None:
            content = save(tmp_path / "whole.npz", **good()).read_bytes()[:300]
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as npz"):
            train(f"--config.data.source=npz:{path}", workdir=tmp_path / "run")
    with pytest.raises(DataError, match="does not exist"):
        train(f"--config.data.source=npz:{tmp_path}/no.npz", workdir=tmp_path / "run")
    with pytest.raises(DataError, match="is unknown; did you mean mnist5k"):
        train("--config.data.source=mnist", workdir=tmp_path / "run")


def test_own_arrays_train(tmp_path):
    path = save(tmp_path / "data.npz", **good(n=200))
    result = train(
        f"--config.data.source=npz:{path}", "--config.epochs=2", workdir=tmp_path / "run"
    )
    assert result["examples"] == 200


def test_one_array_pair_is_split(tmp_path):
    path = save(
        tmp_path / "one.npz", images=np.zeros((100, 28, 28), np.uint8), labels=np.arange(100) % 10
    )
    result = train(
        f"--config.data.source=npz:{path}", "--config.epochs=2", workdir=tmp_path / "run"
    )
    assert result["examples"] == 20
