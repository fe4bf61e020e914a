"""Losses and metrics against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import Outputs
from train import losses, metrics

RANDOM = np.random.RandomState(0)
LOGITS = RANDOM.randn(64, 20).astype(np.float32)
LABELS = RANDOM.randint(0, 20, 64).astype(np.int32)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    targets = (1 - smoothing) * np.eye(20)[LABELS] + smoothing / 20
    expected = -(targets * log_softmax(LOGITS)).sum(-1).mean()
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), smoothing), expected, rtol=1e-6
    )


def test_objective_weights_the_mean_of_the_heads():
    heads = (LOGITS + 1, LOGITS * 2)
    weights = dict(label_smoothing=0.0, main_weight=0.7, aux_weight=0.3)
    loss, parts = losses.objective(Outputs(LOGITS, heads, LOGITS), LABELS, **weights)
    main, *aux = (losses.cross_entropy(x, LABELS) for x in (LOGITS, *heads))
    np.testing.assert_allclose(loss, 0.7 * main + 0.3 * np.mean(aux), rtol=1e-6)
    np.testing.assert_allclose(
        [parts["main_loss"], parts["aux_loss"]], [main, np.mean(aux)], rtol=1e-6
    )


def test_without_heads_only_the_classifier_counts():
    loss, parts = losses.objective(
        Outputs(LOGITS, (), LOGITS), LABELS, label_smoothing=0.0, main_weight=1.0, aux_weight=9.0
    )
    np.testing.assert_allclose(loss, losses.cross_entropy(LOGITS, LABELS))
    assert parts == {}


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_equals_a_sort(k):
    coarse = np.round(LOGITS)  # many ties: of equal logits the first counts, as in argmax
    for logits in (LOGITS, coarse):
        expected = [
            label in np.argsort(-row, kind="stable")[:k] for row, label in zip(logits, LABELS)
        ]
        np.testing.assert_array_equal(metrics.correct(logits, LABELS, k), expected)


def test_nan_is_never_right():
    logits = np.full((2, 10), np.nan, np.float32)
    assert not metrics.correct(logits, np.array([0, 1])).any()


def test_masked_sums_add_up_whatever_the_batches():
    mask = RANDOM.rand(64) < 0.7
    whole = metrics.finalize([metrics.sums(LOGITS, LABELS, mask)], 20)
    parts = [
        metrics.sums(LOGITS[i : i + 16], LABELS[i : i + 16], mask[i : i + 16])
        for i in range(0, 64, 16)
    ]
    assert metrics.finalize(parts, 20) == pytest.approx(whole)
    kept = [i for i in range(64) if mask[i]]
    assert whole["examples"] == len(kept)
    assert whole["top1"] == pytest.approx(np.mean([LOGITS[i].argmax() == LABELS[i] for i in kept]))
    assert whole["loss"] == pytest.approx(
        -np.mean([log_softmax(LOGITS)[i, LABELS[i]] for i in kept]), rel=1e-5
    )


def test_top5_is_left_out_for_ten_classes():
    assert "top5" not in metrics.finalize(
        [metrics.sums(LOGITS[:, :10], LABELS % 10, np.ones(64, bool))], 10
    )
