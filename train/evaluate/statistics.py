"""What a set of answers says of a network: accuracy with its uncertainty, classes, confusions, calibration.

All of it is numpy on the host, from log-probabilities (N, K) and labels (N,).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile: intervals of 95 %


def is_correct(scores: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """(N,) bool: whether the label is among the k highest; of equal ones the first counts, and NaN is never right."""
    own = np.take_along_axis(scores, labels[:, None], axis=-1)
    earlier = np.arange(scores.shape[-1]) < labels[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(-1)
    return (ahead < k) & ~np.isnan(scores).any(-1)


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share (1927): the shares that `right` of `count` does not contradict."""
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = (
        z
        / (1 + square / count)
        * np.sqrt(share * (1 - share) / count + square / (4 * count * count))
    )
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Whether two networks differ, by the examples that only one of them has right (McNemar 1947, exact binomial)."""
    from scipy import (
        stats,  # here: it takes as long to import as jax, and every training run comes by this file
    )

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differ = only_first + only_second
    p = stats.binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) counts: row the true class, column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = 15
) -> list[dict[str, float]]:
    """Examples by their confidence in bins (a, b] of equal width: how many, how sure, how often right. Guo et al. 2017."""
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "from": i / bins,
            "to": (i + 1) / bins,
            "examples": int(here.sum()),
            "confidence": float(confidence[here].mean()),
            "accuracy": float(right[here].mean()),
        }
        for i in range(bins)
        if (here := place == i).any()
    ]


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """ECE: the mean distance of confidence and accuracy over the bins of `reliability`, weighted by their examples."""
    table = reliability(confidence, right, bins)
    return sum(row["examples"] * abs(row["confidence"] - row["accuracy"]) for row in table) / len(
        confidence
    )


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T whose softmax(scores / T) has the least cross-entropy; scores may be logits or log-probabilities."""

    from scipy import optimize

    def loss(log_t: float) -> float:
        return -np.take_along_axis(
            log_softmax(scores / np.exp(log_t)), labels[:, None], axis=-1
        ).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def calibrate(log_probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """A temperature fitted on one random half, and the calibration error of the other half without it and with it."""
    order = np.random.RandomState(seed).permutation(len(labels))
    fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
    if not len(fitted):
        return {}
    temperature = fit_temperature(log_probabilities[fitted], labels[fitted])
    right = is_correct(log_probabilities[held], labels[held])
    before, after = (
        calibration_error(np.exp(log_softmax(log_probabilities[held] / t)).max(-1), right)
        for t in (1.0, temperature)
    )
    return {
        "temperature": temperature,
        "ece_held_out": before,
        "ece_held_out_with_temperature": after,
    }


def summarize(
    log_probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Every number of one evaluation. The confusion matrix above 200 classes is a list of its 100 largest mistakes."""
    scores = log_probabilities.astype(np.float64)
    count, classes = len(labels), len(names)
    first, five = is_correct(scores, labels), is_correct(scores, labels, 5)
    loss = float(-np.take_along_axis(scores, labels[:, None], axis=-1).mean())
    result: dict[str, Any] = {"loss": loss, "top1": float(first.mean())}
    if classes > 10:
        result["top5"] = float(five.mean())
    result |= {"examples": count, "top1_interval": wilson(int(first.sum()), count)}
    if classes > 10:
        result["top5_interval"] = wilson(int(five.sum()), count)
    confidence = np.exp(scores.max(-1))
    if np.isfinite(scores.max(-1)).all():
        result["ece"] = calibration_error(confidence, first)
        result |= calibrate(scores, labels)
        result["reliability"] = reliability(confidence, first)
    totals, right = (
        np.bincount(labels, minlength=classes),
        np.bincount(labels[first], minlength=classes),
    )
    result["classes"] = [
        {"name": name, "examples": int(n), "right": int(r), "top1": float(r / n) if n else None}
        for name, n, r in zip(names, totals, right)
    ]
    matrix = confusion_matrix(labels, scores.argmax(-1), classes)
    if classes <= 200:
        result["confusion"] = matrix.tolist()
    else:
        np.fill_diagonal(matrix, 0)
        largest = [
            divmod(int(i), classes) for i in np.argsort(-matrix, axis=None, kind="stable")[:100]
        ]
        result["mistakes"] = [
            [names[t], names[p], int(matrix[t, p])] for t, p in largest if matrix[t, p]
        ]
    return result
