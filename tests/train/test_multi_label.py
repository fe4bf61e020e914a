"""Several labels an image, from the loss to the report and the files of other programs.

One file, because the tests share a run.
"""

import csv
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import train
from cnnjax import create_model, weights
from tests.helpers import assert_trees_close
from train import classifier, dry_run, losses, metrics, predict
from train.build import Given, Task
from train.config import Checkpoint, Config, Data, Log, Loss, Optim
from train.data.sources.objects import wrap
from train.errors import DataError, UserError
from train.evaluate import evaluation, predictions, statistics
from train.evaluate.__main__ import main as evaluate_command
from train.export.files import write_safetensors
from train.opening import first_lines
from train.report import explain
from train.report.pages import write_report
from train.run import Run

NAMES = ("left", "right", "below")
SUMS = jax.jit(metrics.sums)
PLACES = np.s_[:, :4, :4], np.s_[:, :4, 4:], np.s_[:, 4:]


class Net(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.relu(nn.Conv(8, (4, 4), strides=4, name="c1")(images))
        return nn.Dense(self.num_classes, name="head")(x.reshape(len(x), -1))


class Bright(list):
    """Images 8x8 with bright places, which are their labels."""

    classes = NAMES

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, (count, 3))
        images = random.integers(0, 99, (count, 8, 8, 1)).astype(np.uint8)
        for k, place in enumerate(PLACES):
            images[place] += 60 * labels[:, k, None, None, None].astype(np.uint8)
        super().__init__(zip(images, labels))


LEARNT, ASKED = Bright(96, 0), Bright(40, 1)


def config(**options):
    return Config(
        epochs=4,
        data=Data(batch_size=16, eval_batch_size=16, mean=(0.4,), std=(0.3,)),
        loss=options.pop("loss", Loss(name="binary")),
        optim=Optim(name="adamw", lr=0.02, schedule="constant"),
        log=Log(every=4, eval_every=8),
        checkpoint=options.pop("checkpoint", Checkpoint(every=8, best="map", keep=9)),
        **options,
    )


def fit(workdir, chosen=None, **things):
    things = dict(model=Net(), train=LEARNT, evaluation=ASKED) | things
    return train.fit(chosen or config(), workdir, **things)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("several") / "run"
    return workdir, fit(workdir)


# Numbers


def answers(count=300, classes=12, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random((count, classes)) < 0.2).astype(np.int32)
    logits = (2 * random.normal(size=(count, classes)) + 2 * labels - 1).astype(np.float32)
    return np.round(logits, 1), labels  # with ties


def test_top_k_asks_whether_one_label_is_among_the_highest():
    scores = np.array([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.5, 0.5, 0.1]])
    labels = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    for xp in (np, jnp):
        found = [metrics.correct(xp.asarray(scores), xp.asarray(labels), k) for k in (1, 2, 3)]
        assert np.array_equal(found[0], [True, False, False, False])  # of equal ones the first
        assert np.array_equal(found[1], [True, True, False, True])
        assert np.array_equal(found[2], [True, True, False, True])
    assert not metrics.correct(np.full((1, 3), np.nan), labels[:1]).any()
    assert not metrics.correct(np.full((1, 3), -np.inf), np.array([[0, 0, 0]])).any()


def test_numbers_are_those_of_scikit_learn():
    """Exact in `summarize`; in training, the AUC and the precision are those of bins."""
    from sklearn import metrics as peer

    logits, labels = answers()
    logs = np.asarray(jax.nn.log_sigmoid(logits))
    exact = statistics.summarize(logs, labels, [f"c{k}" for k in range(12)])
    parts = [
        SUMS(jnp.array(logits[rows]), jnp.array(labels[rows]), jnp.ones(150, bool))
        for rows in (slice(150), slice(150, 300))
    ]
    binned = metrics.finalize(parts, 12, multi_label=True)
    yes = logits >= 0
    expected = {
        "loss": float(optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1).mean()),
        "top1": labels[np.arange(300), logits.argmax(-1)].mean(),
        "top5": np.mean(
            [row[np.argsort(-x, kind="stable")[:5]].any() for x, row in zip(logits, labels)]
        ),
        "precision": peer.precision_score(labels, yes, average="macro"),
        "recall": peer.recall_score(labels, yes, average="macro"),
        "f1": peer.f1_score(labels, yes, average="macro"),
        "auc": peer.roc_auc_score(labels, logits),
        "map": peer.average_precision_score(labels, logits),
    }
    for name, value in expected.items():
        assert exact[name] == pytest.approx(value, rel=1e-6), name
        assert binned[name] == pytest.approx(value, abs=2e-3), name
    assert set(binned) == {*expected, "examples"}
    assert set(exact) == {*expected, "examples", "classes", "multi_label"}
    assert exact["classes"][3] == {
        "name": "c3",
        "examples": labels[:, 3].sum(),
        "answers": yes[:, 3].sum(),
        "right": (labels[:, 3] & yes[:, 3]).sum(),
        "recall": pytest.approx(peer.recall_score(labels[:, 3], yes[:, 3])),
        "precision": pytest.approx(peer.precision_score(labels[:, 3], yes[:, 3])),
        "average_precision": pytest.approx(
            peer.average_precision_score(labels[:, 3], logits[:, 3])
        ),
    }


def test_masked_rows_and_rows_without_labels():
    logits, labels = answers(150)
    labels[:] = 0
    labels[0], mask = 1, np.arange(150) < 4
    sums = SUMS(jnp.array(logits), jnp.array(labels), jnp.array(mask))
    found = metrics.finalize([sums], 12, multi_label=True)
    assert found["examples"] == 4 and found["top1"] == 0.25
    none = SUMS(jnp.array(logits), jnp.array(0 * labels), jnp.array(mask))
    numbers = {"loss", "top1", "top5", "examples"}
    assert set(metrics.finalize([none], 12, multi_label=True)) == numbers
    nothing = statistics.summarize(logits, 0 * labels, tuple("abcdefghijkl"))
    assert nothing["top1"] == 0 and "map" not in nothing
    assert nothing["classes"][0]["average_precision"] is None


def test_a_sure_answer_has_a_finite_loss():
    logs = np.array([[0.0, -200.0]], np.float32)
    assert 80 < statistics.summarize(logs, np.array([[0, 1]]), NAMES[:2])["loss"] - 200 < 90


# What is refused


def wrong_evaluation():
    return [(image, int(row[0])) for image, row in ASKED]


@pytest.mark.parametrize(
    ("options", "things", "sentence"),
    [
        ({"loss": Loss()}, {}, r"cross_entropy takes one: set loss\.name=binary"),
        ({"loss": Loss(name="focal", class_weights="balanced")}, {}, "class_weights takes one"),
        ({}, {"model": Net(5)}, "needs as many outputs as classes, 3, and has 5"),
        ({"checkpoint": Checkpoint(best="balanced_accuracy")}, {}, "is for one label an image"),
        ({}, {"evaluation": wrong_evaluation()}, "several labels, one of the evaluation one label"),
        (
            {},
            {"train": wrong_evaluation(), "evaluation": None},
            "best=map is for data with several labels",
        ),
    ],
)
def test_what_is_refused_before_anything_is_written(options, things, sentence, tmp_path):
    with pytest.raises((UserError, DataError), match=sentence):
        fit(tmp_path / "run", config(**options), **things)
    assert not (tmp_path / "run").exists()


def test_losses_of_one_s_own_and_focal_take_rows():
    def own(outputs, labels):
        assert labels.shape == outputs.logits.shape
        return jnp.mean((outputs.logits - labels) ** 2)

    given = Given(train=wrap(LEARNT), evaluation=wrap(ASKED), model=Net())
    chosen = config(loss=Loss(name=f"{__name__}:own"))
    task = Task(config(loss=Loss(name="focal")), given=given._replace(loss=None))
    outputs = jnp.zeros((2, 3)), jnp.array([[1, 0, 1], [0, 0, 0]])
    assert losses.cross_entropy(*outputs, name="focal") == pytest.approx(3 * 0.25 * np.log(2))
    chosen.loss.name = "(object)"
    assert Task(chosen, given=given._replace(loss=own)).train_split.multi_label
    batch = dry_run.arguments(task)[1]
    assert batch["label"].shape[-1] == 3
    assert "train: 96 images: left" in first_lines(task, "runs/several")


# A run


def test_a_run(finished):
    workdir, result = finished
    assert result["map"] > 0.95 and result["step"] == 24 and "balanced_accuracy" not in result
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["multi_label"] is True and saved["class_names"] == list(NAMES)
    run = Run(str(workdir))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if row["split"] == "test"]
    (best,) = (row for row in evaluated if row["step"] == run.restore("best")[0])
    assert best["map"] == max(row["map"] for row in evaluated)


def test_the_same_call_resumes_to_the_same_bits(finished, tmp_path):
    workdir, result = finished
    fit(tmp_path)
    for step in (16, 24):  # as if it had been killed after its first checkpoint
        (tmp_path / "checkpoints" / str(step)).rename(tmp_path / f"gone-{step}")
    again = fit(tmp_path)
    assert {key: again[key] for key in ("loss", "map", "top1")} == {
        key: result[key] for key in ("loss", "map", "top1")
    }
    assert_trees_close(Run(str(tmp_path)).restore()[1], Run(str(workdir)).restore()[1])
    other = [(image, 1 - row) for image, row in LEARNT]
    with pytest.raises(UserError, match=r"data has changed|another config"):
        fit(tmp_path, train=type("Named", (list,), {"classes": NAMES})(other))


def test_evaluation_of_the_run_folder(finished, capsys, tmp_path):
    workdir, result = finished
    found = evaluate_command([f"--workdir={workdir}", "--predictions=csv", f"--out={tmp_path}"])
    for name in ("loss", "top1", "precision", "recall", "f1"):
        assert found[name] == pytest.approx(result[name], rel=1e-5)
    for name in ("auc", "map"):
        assert found[name] == pytest.approx(result[name], abs=2e-3)
    assert "the most probable class of" in capsys.readouterr().err
    written = json.loads((tmp_path / "center-24.json").read_text())
    assert not {"confusion", "ece", "temperature", "top1_interval", "balanced_accuracy"} & {
        *written
    }
    with open(found["predictions"]) as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["labels"] == "|".join(n for n, k in zip(NAMES, ASKED[0][1]) if k)
    same = predictions.compare(found["predictions"], found["predictions"])
    assert same["top1"] == pytest.approx([found["top1"]] * 2) and same["p"] == 1


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_crops_and_ensembles_average_what_each_class_has(finished, average):
    """By hand: of two checkpoints, and of an image and its mirror image."""
    run, split = Run(str(finished[0])), wrap(ASKED)
    members = [classifier.from_run(run, step) for step in ("8", "24")]
    found = evaluation.answer(members, split, "flip", average=average).log_probabilities
    views = [split.images, split.images[:, :, ::-1]]

    def scores(member, images):
        read = member.preprocess(jnp.asarray(images))
        logits = member.model.apply(member.variables, read, train=False).logits
        return jax.nn.sigmoid(logits) if average == "probabilities" else logits

    mean = np.mean([[scores(m, images) for images in views] for m in members], (0, 1))
    expected = mean if average == "probabilities" else jax.nn.sigmoid(mean)
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-5)


def test_an_average_of_certain_sigmoids_is_not_certain(finished):
    """float32 rounds them to 1, of whose complement the logarithm would be that of nothing."""
    member = classifier.from_run(Run(str(finished[0])))
    params = jax.tree.map(jnp.zeros_like, member.variables["params"])
    params["head"]["bias"] += 60
    certain = member._replace(variables={"params": params})
    found = evaluation.answer([certain], wrap(ASKED), "flip").log_probabilities
    smallest = np.log(np.finfo(np.float32).epsneg)
    np.testing.assert_allclose(statistics.log_complement(found), smallest, rtol=1e-3)


def test_networks_and_data_of_different_kinds_are_refused(finished):
    member = classifier.from_run(Run(str(finished[0])))
    split = wrap(wrong_evaluation(), known=NAMES)
    with pytest.raises(DataError, match="gives an image several labels, the data one label"):
        evaluation.answer([member], split)


def test_predictions_have_all_classes_from_a_half_on(finished, tmp_path, capsys):
    image = next(image for image, row in ASKED if row.all())
    Image.fromarray(image[..., 0]).save(tmp_path / "image.png")
    arguments = [f"--workdir={finished[0]}", str(tmp_path / "image.png"), "--json", "--top=1"]
    predict.main(arguments)
    shown = json.loads(capsys.readouterr().out.splitlines()[0])["top"]
    member = classifier.from_run(Run(str(finished[0])))
    logits = member.model.apply(member.variables, member.preprocess(image[None]), train=False)
    (expected,) = np.asarray(jax.nn.sigmoid(logits.logits))
    assert {x["class"]: x["probability"] for x in shown} == pytest.approx(
        {name: p for name, p in zip(NAMES, expected) if p >= 0.5}, rel=1e-5
    )


def test_the_report(finished):
    workdir, _ = finished
    made = write_report(str(workdir), images=4)
    page = (workdir / "report.html").read_text()
    assert "mean average precision" in page and "Where it looks" in page
    assert "Confusion" not in page and "Calibration" not in page
    assert made["examples"] == 40


def test_occlusion_is_of_the_class_s_own_probability(finished):
    member = classifier.from_run(Run(str(finished[0])))
    network, (image, _) = (member.model, member.variables), ASKED[0]
    x = jnp.stack([member.preprocess(image), jnp.zeros_like(image, jnp.float32)])
    whole, covered = jax.nn.sigmoid(member.model.apply(member.variables, x).logits)
    how = dict(size=8, stride=8, probabilities=member.probabilities)
    found = explain.occlusion(*network, x[:1], [2], **how)
    assert found.item() == pytest.approx(float(whole[2] - covered[2]), abs=1e-6)


def test_our_files_of_weights_remember_it(tmp_path):
    model = create_model("lenet5", num_classes=3)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    run_like = classifier.Classifier(
        "lenet5",
        "1",
        model,
        variables,
        train.build.build_preprocess(Config(), 1),
        Data(channels=1),
        (28, 28, 1),
        NAMES,
        multi_label=True,
    )
    path = str(tmp_path / "several.safetensors")
    assert write_safetensors(path, run_like)["difference"] < 1e-5
    read = classifier.from_weights(path, None, "cnnjax")
    assert read.multi_label and read.classes == NAMES
    network = weights.load(path)
    assert network.origin == {"probabilities": "sigmoid"}
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    (predicted,) = network.predict(image)
    sigmoids = np.asarray(jax.nn.sigmoid(network(image).logits))[0].tolist()
    assert [value for _, value in predicted] == pytest.approx(sorted(sigmoids, reverse=True))
    arrays = dict(x_test=np.zeros((4, 28, 28), np.uint8), y_test=np.eye(4, 3, dtype=int))
    np.savez(tmp_path / "own.npz", **arrays, class_names=np.array(NAMES))
    found = evaluate_command([f"--weights={path}", f"--data=npz:{tmp_path}/own.npz"])
    assert found["multi_label"] and found["examples"] == 4


def test_one_label_with_a_binary_loss_stays_as_it_is():
    split = wrap(wrong_evaluation())
    given = Given(train=split, evaluation=split, model=Net(2))
    assert "multi_label" not in Task(config(checkpoint=Checkpoint()), given=given).about()
