"""The command line of evaluation: runs, weights, ensembles, predictions, classes."""

import csv
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from pyarrow import parquet

import cnnjax
from cnnjax import weights
from tests.data.pictures import write_folder
from tests.evaluate.classifiers import CLASSES, make, photos
from tests.helpers import ROOT
from train import data, predict
from train.__main__ import main as train
from train.classifier import from_weights, match_classes
from train.errors import CheckpointError, DataError, UserError
from train.evaluate import __main__ as command
from train.evaluate.__main__ import main as evaluate
from train.evaluate.__main__ import tell_of_fifth
from train.export.__main__ import main as export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "set"
    photos(root)
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "lenet"
    train(
        [
            f"--config={ROOT}/configs/lenet_mnist.py",
            f"--workdir={workdir}",
            f"--config.data.source=folder:{folder}",
            "--config.data.size=32",
            "--config.data.eval_split=val",
            "--config.data.batch_size=4",
            "--config.data.eval_batch_size=8",
            "--config.epochs=4",
            "--config.checkpoint.every=2",
            "--config.optim.ema=0.5",
        ]
    )
    return workdir


def write(path, classes=4, names=CLASSES):
    """A file of our own format: LeNet-5 for grey photographs."""
    model = cnnjax.create_model("lenet5", num_classes=classes)
    variables = jax.device_get(
        model.init({"params": jax.random.key(3)}, np.zeros((1, 32, 32, 1), np.float32))
    )
    preprocessing = weights.Preprocessing(32, resize=36, channels="L")
    variables = {"params": variables["params"]}
    weights.save(path, weights.Pretrained(model, variables, preprocessing, names, "lenet5"))
    return str(path)


def test_a_run_by_every_protocol_that_fits(run):
    for protocol, views in (
        ("center", 1),
        ("flip", 2),
        ("ten_crop", 10),
        ("multi_crop", 144),
        ("grid", 150),
    ):
        line = evaluate([f"--workdir={run}", f"--protocol={protocol}", "--batch-size=64"])
        written = json.loads((run / f"eval/{protocol}-{line['step']}.json").read_text())
        assert (line["views"], line["examples"]) == (views, 17)
        assert "classes" not in line
        assert [row["name"] for row in written["classes"]] == list(CLASSES)
    with pytest.raises(UserError, match="cannot slide"):
        evaluate([f"--workdir={run}", "--protocol=dense"])


def test_checkpoints_together_raw_and_in_bfloat16(run):
    plain = evaluate([f"--workdir={run}"])
    assert plain["loss"] != evaluate([f"--workdir={run}", "--raw"])["loss"]
    assert plain["loss"] == pytest.approx(
        evaluate([f"--workdir={run}", "--dtype=bfloat16"])["loss"], abs=0.05
    )
    both = evaluate([f"--workdir={run}", "--step=2,latest"])
    assert both["step"] == "2+4" and both["networks"] == ["lenet5 2", "lenet5 4"]
    assert (run / "eval/center-2+4.json").exists()


def test_a_run_folder_is_enough(run, folder, tmp_path, capsys):
    """Predictions, exports and other data work on a machine without the training data."""
    shutil.copytree(run, tmp_path / "copy")
    config = json.loads((tmp_path / "copy/config.json").read_text())
    config["data"]["source"] = "folder:/nowhere"
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    image = str(folder / "val/cat/000.jpg")
    outputs = []
    for workdir in (run, tmp_path / "copy"):
        capsys.readouterr()
        predict.main([f"--workdir={workdir}", "--json", image])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    exported = export([f"--workdir={tmp_path}/copy", f"--out={tmp_path}/x.stablehlo"])
    assert exported["difference"] <= 1e-5
    with pytest.raises(DataError, match="/nowhere does not exist"):
        evaluate([f"--workdir={tmp_path}/copy"])
    other = evaluate([f"--workdir={tmp_path}/copy", f"--data=folder:{folder}"])
    assert other["loss"] == pytest.approx(evaluate([f"--workdir={run}"])["loss"], rel=1e-6)
    assert re.fullmatch(r"folder_[\w-]+_set", Path(other["file"]).parent.name)


def test_watching_with_other_data_and_another_folder(run, folder, tmp_path):
    options = ["--watch", f"--data=folder:{folder}", "--split=train", f"--out={tmp_path}"]
    last = evaluate([f"--workdir={run}", *options])
    assert (last["step"], last["split"], last["examples"]) == (4, "train", 4)
    assert {path.name for path in tmp_path.iterdir()} == {"center-2.json", "center-4.json"}


def test_predictions_and_their_comparison(run, folder):
    for kind in ("csv", "parquet"):
        evaluate([f"--workdir={run}", f"--predictions={kind}"])
    with (run / "eval/center-4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 17
    assert (rows[0]["file"], rows[0]["label"]) == (f"{folder}/val/ant/000.jpg", "ant")
    assert sum(float(rows[0][f"probability{k}"]) for k in range(1, 5)) == pytest.approx(1)
    same_rows = parquet.read_table(run / "eval/center-4.parquet").to_pylist()
    assert [row["class1"] for row in same_rows] == [row["class1"] for row in rows]
    result = evaluate(["--compare", str(run / "eval/center-4.csv"), str(run / "eval/center-4.csv")])
    assert result["p"] == 1.0 and result["examples"] == 17
    with pytest.raises(DataError, match="no CSV file"):
        evaluate(["--compare", str(run / "eval/center-4.csv"), str(run / "config.json")])


def test_published_weights_bring_their_own_transform(folder, tmp_path):
    path = write(tmp_path / "lenet.safetensors")
    line = evaluate(
        [f"--weights={path}", f"--data=folder:{folder}", "--split=val", f"--out={tmp_path}/out"]
    )
    classifier = from_weights(path, None, "cnnjax")
    transform, shape = classifier.data.transform, classifier.image_shape
    assert (transform.resize, shape, classifier.classes) == (36, (32, 32, 1), CLASSES)
    assert (
        json.loads((tmp_path / "out/center-lenet.safetensors.json").read_text())["top1"]
        == line["top1"]
    )
    several = evaluate(["--weights", path, path, f"--data=folder:{folder}", "--split=val"])
    assert several["loss"] == pytest.approx(line["loss"], rel=1e-5)


def test_classes_that_do_not_fit_are_an_error_with_the_first_differences(folder, tmp_path):
    def ask(path, *more):
        return evaluate([f"--weights={path}", f"--data=folder:{folder}", "--split=val", *more])

    with pytest.raises(
        DataError, match=r"has 4 classes .*'ant', 'bee', 'cat', ….* 5 without names; one of the two"
    ):
        ask(write(tmp_path / "five.safetensors", 5, None))
    with pytest.raises(
        DataError, match=r"1: 'cat' in the network, 'bee' in the data; 2: 'bee' in the network"
    ):
        ask(write(tmp_path / "order.safetensors", 4, ("ant", "cat", "bee", "dog")))
    more = write(tmp_path / "more.safetensors", 6, ("emu", *CLASSES, "fox"))
    with pytest.raises(
        DataError, match=r"0: 'emu' in the network, 'ant' in the data.*--subset evaluates on those"
    ):
        ask(more)
    assert ask(more, "--subset")["examples"] == 17
    with pytest.raises(DataError, match="has 6 classes, the data 4"):
        ask(write(tmp_path / "other.safetensors", 6, ("ant", "bee", "cat", "cow", "dog", "emu")))
    unnamed = write(tmp_path / "unnamed.safetensors", 6, None)
    (tmp_path / "names.txt").write_text("\n".join(("emu", *CLASSES, "fox")))
    named = ask(unnamed, f"--class-names={tmp_path}/names.txt", "--subset")
    assert named["loss"] == ask(more, "--subset")["loss"]


def test_a_subset_is_the_same_network_over_fewer_classes(folder):
    classifier = make(folder, classes=("emu", "dog", *CLASSES[:3]))
    columns = match_classes(CLASSES, classifier, subset=True)
    assert columns.tolist() == [2, 3, 4, 1]


@pytest.mark.parametrize("asked", [False, True])
def test_the_command_says_that_it_takes_a_fifth(folder, tmp_path, capsys, monkeypatch, asked):
    """Unless a split is named."""
    place = write_folder(tmp_path) / "train"
    monkeypatch.setattr(command, "from_runs", lambda *_, **__: ([], [], "test", None))
    monkeypatch.setattr(command, "evaluate_all", lambda *_, **__: {})
    monkeypatch.setattr(command, "short", lambda result: result)
    evaluate(
        [f"--workdir={folder}", f"--data=folder:{place}", *(["--split=test"] if asked else [])]
    )
    assert ("a fifth of its images" in capsys.readouterr().err) != asked


def test_a_folder_without_train_is_evaluated_in_part_and_says_so(tmp_path, capsys):
    """Where the split is for evaluation."""
    place = write_folder(tmp_path) / "train"
    for split, told in (("validation", True), ("test", True), ("train", False), ("all", False)):
        tell_of_fifth(f"folder:{place}", split)
        assert (f"{place} has no folder train: a fifth of its" in capsys.readouterr().err) == told
    images = len(list(place.rglob("*.jpg")))
    assert len(data.load(f"folder:{place}", "all")) == images
    assert 0 < len(data.load(f"folder:{place}", "test")) < images


def test_wrong_usage(folder, tmp_path):
    with pytest.raises(UserError, match="either --workdir or --weights or --compare"):
        evaluate([])
    with pytest.raises(UserError, match="needs --data"):
        evaluate(["--weights=x"])
    missing = [f"--weights={tmp_path}/missing.h5", "--model=vgg16", "--source=keras"]
    with pytest.raises(CheckpointError, match=r"missing\.h5"):
        evaluate([*missing, f"--data=folder:{folder}"])


def contents(run):
    """(time of writing, content) of every file of a run but its evaluations."""
    files = [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and "eval" not in path.relative_to(run).parts
    ]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_watching_a_run_until_it_ends(run, capsys):
    """The run has ended: each of its checkpoints is evaluated once."""
    for old in (run / "eval").glob("center*"):
        old.unlink()
    before = contents(run)
    assert evaluate([f"--workdir={run}", "--watch"])["step"] == 4
    assert contents(run) == before
    written = sorted(path.name for path in (run / "eval").glob("center*"))
    assert written == ["center-2.json", "center-4.json"]
    printed = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert printed == [2]  # the last one is the result
