"""Evaluation and report from a run folder alone."""

import json
import re
from functools import partial

import jax
import numpy as np
import pytest

from tests.helpers import ROOT
from train import data, step
from train.__main__ import main
from train.config import Data
from train.data import Arrays
from train.errors import CheckpointError, DataError, UserError
from train.evaluate import evaluation, statistics
from train.evaluator import Evaluator
from train.parallel import Parallel
from train.report import pages
from train.report.__main__ import main as report
from train.run import Run


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Gratings in a file, with names of classes; 130 to evaluate."""
    path = tmp_path_factory.mktemp("data") / "gratings.npz"
    train, test = (data.load("synthetic:28x28x1/12", name) for name in ("train", "test"))
    names = np.array([f"angle{k}" for k in range(12)])
    np.savez(
        path,
        x_train=train.images[:480],
        y_train=train.labels[:480],
        x_test=test.images[:130],
        y_test=test.labels[:130],
        class_names=names,
    )
    return path


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "finished"
    plain = [
        f"--config.data.augment.{change}=0" for change in ("rotate", "scale", "shear", "shift")
    ]
    arguments = [
        f"--config={ROOT}/configs/lenet_mnist.py",
        f"--workdir={workdir}",
        f"--config.data.source=npz:{npz}",
        *plain,
        "--config.data.batch_size=32",
        "--config.data.eval_batch_size=48",
        "--config.epochs=4",
        "--config.checkpoint.every=20",
        "--config.log.every=10",
        "--config.log.eval_every=20",
    ]
    return workdir, main(arguments)


def one_by_one(workdir, checkpoint="latest"):
    """(loss, top1, top5, number) of a plain loop over the examples."""
    run = Run(str(workdir))
    split = run.load_split()
    _, variables = run.restore(checkpoint)
    apply = jax.jit(partial(run.model.apply, train=False))
    losses, ranks = [], []
    for image, label in zip(split.images, split.labels):
        outputs = apply(variables, image[None].astype(np.float32) / 255)
        logits = np.asarray(outputs.logits[0], np.float64)
        losses.append(np.log(np.exp(logits - logits[label]).sum()))
        ranks.append((logits > logits[label]).sum())
    return np.mean(losses), np.mean(np.array(ranks) < 1), np.mean(np.array(ranks) < 5), len(split)


def test_numbers_of_training_evaluation_and_a_plain_loop_agree(finished):
    workdir, trained = finished
    result = evaluation.evaluate(str(workdir))
    loss, top1, top5, examples = one_by_one(workdir)
    assert (result["examples"], result["step"]) == (130, 60) == (examples, trained["step"])
    assert result["top1"] == pytest.approx(top1) and result["top5"] == pytest.approx(top5)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert {k: result[k] for k in ("top1", "top5")} == {k: trained[k] for k in ("top1", "top5")}
    assert result["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    written = json.loads((workdir / "eval" / "center-60.json").read_text())
    assert written.items() <= json.loads(json.dumps(result)).items()


@pytest.mark.parametrize(("mapping", "devices"), [("pmap", 1), ("pmap", 4), ("shard_map", 4)])
def test_every_example_counts_once_on_any_devices(finished, mapping, devices):
    run = Run(str(finished[0]))
    random = np.random.RandomState(0)
    split = Arrays(
        random.randint(0, 256, (1000, 28, 28, 1)).astype(np.uint8),
        np.arange(1000, dtype=np.int32) % 12,
        run.class_names,
    )
    _, variables = run.restore("latest")
    spread = Parallel(mapping, devices)
    preprocess = partial(step.normalize, mean=(0.0,), std=(1.0,))
    result = Evaluator(spread, run.model, preprocess, Data(eval_batch_size=64))(
        spread.replicate(variables), split
    )
    logits = run.model.apply(variables, split.images.astype(np.float32) / 255, train=False).logits
    assert result["examples"] == 1000
    assert result["top1"] == pytest.approx(np.mean(np.argmax(logits, -1) == split.labels))


def test_processes_share_an_evaluation_without_overlap():
    split = Arrays(
        np.arange(103, dtype=np.uint8).reshape(-1, 1, 1, 1), np.zeros(103, np.int32), ("a",)
    )
    for processes in (1, 2, 4):
        parts = [
            list(data.eval_batches(split, Data(eval_batch_size=16), process=p, processes=processes))
            for p in range(processes)
        ]
        assert len({len(part) for part in parts}) == 1  # or a collective would wait for ever
        pixels = [batch["image"][batch["mask"]].ravel() for part in parts for batch in part]
        assert sorted(np.concatenate(pixels)) == list(range(103))


def test_best_and_numbered_checkpoints(finished):
    workdir, _ = finished
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tested = {row["step"]: row["top1"] for row in rows if row["split"] == "test"}
    best = evaluation.evaluate(str(workdir), "best")
    assert best["top1"] == max(tested.values()) == tested[best["step"]]
    assert evaluation.evaluate(str(workdir), "40")["top1"] == tested[40]
    with pytest.raises(CheckpointError, match="has no checkpoint 41; there are"):
        evaluation.evaluate(str(workdir), "41")


def test_a_split_by_name(finished):
    assert evaluation.evaluate(str(finished[0]), split_name="train")["examples"] == 480


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        Run(str(tmp_path))


def test_other_class_names_are_an_error_with_the_differences(finished, npz, tmp_path):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    other = tmp_path / "other.npz"
    arrays = dict(np.load(npz))
    arrays["class_names"] = np.array([f"angle{k}" if k != 3 else "square" for k in range(12)])
    np.savez(other, **arrays)
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"data": config["data"] | {"source": f"npz:{other}"}})
    )
    with pytest.raises(DataError, match="3: 'angle3' is now 'square'"):
        Run(str(tmp_path)).load_split()


def test_report_is_one_page_with_the_numbers(finished):
    workdir, trained = finished
    result = pages.write_report(str(workdir))
    page = (workdir / "report.html").read_text()
    assert result["top1"] == pytest.approx(trained["top1"])
    assert f"{trained['top1']:.2%}" in page
    images = re.findall(r'<img src="(data:image/png;base64,[^"]+)" alt="([^"]+)">', page)
    assert len(images) >= 9 and all(alt for _, alt in images)
    for title in (
        "Calibration",
        "Where it looks",
        "Nearest neighbours",
        "Units",
        "Receptive fields",
        "Classes",
        "Config",
    ):
        assert f"<h2>{title}</h2>" in page
    for head in ("trained on", "evaluated on", "recall", "precision"):
        assert f'<th scope="col">{head}</th>' in page
    assert "lowest recall: angle" in page and "balanced accuracy" in page
    assert re.search(r"<td>1</td><td>example \d+</td>", page)  # of a mistake
    assert f"python -m train --config={workdir}/config.json" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page


def test_runs_are_compared_on_one_page(finished, npz, tmp_path):
    workdir, trained = finished
    other = tmp_path / "other"
    main(
        [
            f"--config={ROOT}/configs/lenet_mnist.py",
            f"--workdir={other}",
            f"--config.data.source=npz:{npz}",
            "--config.data.batch_size=32",
            "--config.epochs=0.2",
            "--config.optim.lr=0.3",
        ]
    )
    result = report(["--compare", str(workdir), str(other), f"--out={tmp_path}/compare.html"])
    assert {"optim.lr", "epochs"} <= set(result["different"]) and "seed" not in result["different"]
    page = (tmp_path / "compare.html").read_text()
    assert f"{trained['top1']:.2%} at 60" in page and "<td>optim.lr</td>" in page
    with pytest.raises(UserError, match="two run folders or more"):
        report(["--compare", str(workdir)])


def test_confusion_matrix_counts_pairs():
    matrix = statistics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 1, 0], [1, 0, 0]])
