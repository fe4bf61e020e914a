"""The quantities of a finished run are what their names say."""

import json

import jax
import numpy as np
import optax
import pytest

from tests.helpers import ROOT
from train import data, loop, recipe
from train.evaluate import statistics
from train.lineage import measures
from train.run import Run

QUANTITIES = ("gap", "confidence", "calibration")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LeNet after a few updates on gratings."""
    flags = ["data.source=synthetic:28x28x1/10", "data.train_split=train[:200]", "epochs=2"]
    flags += ["parallel.devices=1", "data.eval_split=test[:100]", "data.eval_batch_size=100"]
    flags += ["data.batch_size=50", "log.every=1", "loss.main_weight=0.5"]
    flags += [f"data.augment.{name}=0" for name in ("rotate", "scale", "shear")]
    path = f"{ROOT}/configs/lineage_mnist5k.py:lenet5"
    workdir = tmp_path_factory.mktemp("runs") / "run"
    loop.train(recipe.load(path, [f"--config.{flag}" for flag in flags]), str(workdir))
    return Run(str(workdir))


def logits(run, split):
    images, labels = run.load_split(split).fetch(np.arange(100))
    images = (images / 255 - 0.13) / 0.31
    _, variables = run.restore()
    apply = jax.jit(
        lambda variables, images: run.model.apply(variables, images, train=False).logits
    )
    return np.asarray(apply(variables, images.astype(np.float32)), np.float64), labels


def test_quantities_are_those_of_the_answers(run):
    found = {name: measures.measure(run, name) for name in QUANTITIES}
    scores, labels = logits(run, "test[:100]")
    logs = statistics.log_softmax(scores)
    loss = -logs[np.arange(100), labels].mean()
    assert found["confidence"] == pytest.approx(np.exp(logs.max(-1)).mean(), rel=1e-4)
    assert 0 <= found["calibration"] <= 1
    trained = measures.cross_entropy(*measures.answers(run, "train[:200]"))
    assert found["gap"] == pytest.approx(loss - trained, rel=1e-4)
    kept = json.loads((run.folder / measures.FILE).read_text())
    assert kept == found


def test_steps_to_a_loss_are_of_the_classifier_alone(run):
    losses = measures.main_loss(run)
    assert list(losses) == list(range(1, 9))
    # The weight of 0.5 is taken out: the first loss is about that of ten equal answers.
    assert losses[1] == pytest.approx(np.log(10), rel=0.5)
    fifth = losses[5]
    expected = next(step for step, loss in losses.items() if loss <= fifth)
    assert measures.steps_to(run, fifth) == expected
    assert measures.steps_to(run, 0.0) == 9  # never
    assert measures.later_loss(run) == pytest.approx(np.mean([losses[n] for n in range(5, 9)]))


def test_the_gradient_of_the_first_layers_is_that_of_the_objective(run, monkeypatch):
    monkeypatch.setattr(measures, "FIRST", ("c1",))
    monkeypatch.setattr(measures, "BATCHES", 1)
    found = measures.first_gradient(run)
    task = measures.Task(run.config)
    params = jax.tree.map(np.asarray, task.fresh_state().params)
    plan = data.Plan(200, 50, run.config.seed)
    images, labels = run.load_split("train[:200]").fetch(plan.indices(0))
    images = ((images / 255 - 0.13) / 0.31).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(first):
        scores = run.model.apply({"params": params | {"c1": first}}, images, train=True).logits
        smooth = optax.smooth_labels(jax.nn.one_hot(labels, 10), 0.1)
        return 0.5 * optax.softmax_cross_entropy(scores, smooth).mean()

    leaves = jax.tree.leaves(gradient(params["c1"]))
    norm = np.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in leaves))
    assert found == pytest.approx(norm, rel=1e-4)
