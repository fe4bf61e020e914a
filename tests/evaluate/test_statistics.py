"""Numbers of an evaluation against scikit-learn and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn

from train.evaluate import statistics
from train.metrics import correct


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 700)
    logits = rng.normal(size=(700, 12)) + 2.0 * np.eye(12)[labels]
    return statistics.log_softmax(logits), labels


def test_accuracy_loss_and_confusions_are_scikit_learns(answers):
    logs, labels = answers
    names = [f"c{i}" for i in range(12)]
    result = statistics.summarize(logs, labels, names)
    assert result["top1"] == pytest.approx(sklearn.accuracy_score(labels, logs.argmax(-1)))
    assert result["top5"] == pytest.approx(sklearn.top_k_accuracy_score(labels, logs, k=5))
    assert result["loss"] == pytest.approx(sklearn.log_loss(labels, np.exp(logs)))
    np.testing.assert_array_equal(
        result["confusion"], sklearn.confusion_matrix(labels, logs.argmax(-1))
    )
    recall = sklearn.recall_score(labels, logs.argmax(-1), average=None)
    assert [row["top1"] for row in result["classes"]] == pytest.approx(recall)
    assert sum(row["examples"] for row in result["classes"]) == 700


def test_ties_and_nan_count_on_the_host_as_on_a_device():
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [np.nan, 3.0, 1.0]])
    labels = np.array([1, 1, 1])
    for k in (1, 2):
        on_host, on_device = correct(scores, labels, k), correct(jnp.array(scores), labels, k)
        assert isinstance(on_host, np.ndarray) and isinstance(on_device, jax.Array)
        assert on_host.tolist() == on_device.tolist() == [k == 2, True, False]


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (989, 1000), (1000, 1000), (1, 2)])
def test_wilson_bounds_solve_their_quadratic(right, count):
    """(p - share)² = z² p (1 - p) / n."""
    z, share = statistics.Z95, right / count
    roots = np.roots([1 + z * z / count, -2 * share - z * z / count, share * share])
    assert statistics.wilson(right, count) == pytest.approx(sorted(roots.real), abs=1e-7)


def test_mcnemar_is_the_binomial_tail():
    first = np.array([1] * 12 + [0] * 3 + [1] * 40 + [0] * 5, bool)
    second = np.array([0] * 12 + [1] * 3 + [1] * 40 + [0] * 5, bool)
    result = statistics.mcnemar(first, second)
    assert (result["only_first"], result["only_second"]) == (12, 3)
    assert result["p"] == pytest.approx(2 * sum(math.comb(15, i) for i in range(4)) / 2**15)
    assert statistics.mcnemar(first, first)["p"] == 1.0


def test_calibration_error_is_its_definition(answers):
    logs, labels = answers
    confidence, right = np.exp(logs).max(-1), logs.argmax(-1) == labels
    expected = 0.0
    for i in range(15):
        inside = [j for j in range(len(labels)) if i / 15 < confidence[j] <= (i + 1) / 15]
        if inside:
            gap = abs(np.mean(confidence[inside]) - np.mean(right[inside]))
            expected += gap * len(inside) / len(labels)
    assert statistics.calibration_error(confidence, right) == pytest.approx(expected)
    assert statistics.calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
    table = statistics.reliability(confidence, right)
    assert sum(row["examples"] for row in table) == 700


def test_temperature_finds_what_the_logits_were_multiplied_by():
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(20000, 10))
    labels = np.array([rng.choice(10, p=p) for p in np.exp(statistics.log_softmax(logits))])
    assert statistics.fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.05)
    result = statistics.calibrate(statistics.log_softmax(3.0 * logits), labels)
    assert result["ece_held_out_with_temperature"] < 0.02 < 0.1 < result["ece_held_out"]


def test_more_than_200_classes_list_their_mistakes():
    labels = np.arange(300)
    scores = statistics.log_softmax(10 * np.eye(300)[np.where(labels == 7, 8, labels)])
    result = statistics.summarize(scores, labels, [f"c{i}" for i in range(300)])
    assert result["mistakes"] == [["c7", "c8", 1]] and "confusion" not in result
