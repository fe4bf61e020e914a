"""Inception v1 in training: auxiliary heads on and off, label smoothing on and off, for a few real
steps at 32 pixels.
"""

import json

import jax
import numpy as np
import pytest

from tests.helpers import ROOT
from train.__main__ import main
from train.run import Run

pytestmark = pytest.mark.slow  # three compilations of the network

FLAGS = [
    f"--config={ROOT}/configs/inception_v1.py:course",
    "--config.data.source=synthetic:32x32x3/10",
    "--config.data.size=0",
    "--config.data.train_split=train",
    "--config.data.eval_split=test",
    "--config.data.batch_size=16",
    "--config.epochs=0.03",
    "--config.data.augment.crop=center",
    "--config.data.augment.color=none",
    "--config.data.augment.flip=false",
    "--config.parallel.devices=1",
    "--config.log.every=1",
    "--config.optim.lr=1e-4",
    "--config.data.eval_batch_size=128",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Rows of the runs, by (heads, smoothing)."""
    found = {}
    for heads, smoothing in [(True, 0.1), (True, 0.0), (False, 0.1)]:
        workdir = tmp_path_factory.mktemp("run") / "v1"
        more = [
            f"--config.model.options.aux={str(heads).lower()}",
            f"--config.loss.label_smoothing={smoothing}",
        ]
        main([*FLAGS, *more, f"--workdir={workdir}"])
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        found[heads, smoothing] = workdir, rows
    return found


def test_losses_are_logged_separately_and_add_up(runs):
    for (heads, _), (_, rows) in runs.items():
        for row in (row for row in rows if row["split"] == "train"):
            assert ("aux_loss" in row) == heads
            if heads:
                assert row["loss"] == pytest.approx(
                    0.7 * row["main_loss"] + 0.3 * row["aux_loss"], rel=1e-4
                )


def test_smoothing_changes_the_loss_of_training_only_in_what_it_is(runs):
    smooth, sharp = (runs[True, smoothing][1] for smoothing in (0.1, 0.0))
    assert smooth[0]["main_loss"] != sharp[0]["main_loss"]
    assert smooth[0]["top1"] == sharp[0]["top1"]  # the same network on the same images
    # Evaluation is always without: of an untrained network both are about ln 10.
    assert all(abs(rows[-1]["loss"] - np.log(10)) < 0.3 for rows in (smooth, sharp))


def test_heads_are_absent_from_evaluation(runs):
    for (heads, _), (workdir, rows) in runs.items():
        assert "aux_loss" not in rows[-1] and rows[-1]["split"] == "test"
        run = Run(str(workdir))
        _, variables = run.restore("latest")
        assert ("aux1" in variables["params"]) == heads

        def evaluate(variables, images, model=run.model):
            return model.apply(variables, images, train=False)

        images = np.zeros((1, 32, 32, 3), np.float32)
        assert "aux" not in str(jax.make_jaxpr(evaluate)(variables, images))
        assert jax.eval_shape(evaluate, variables, images).aux == ()
