"""What a set of answers says of a network: accuracy with its interval, confusions, calibration.

All of it is numpy on the host, from log-probabilities (N, K) and labels (N,), or (N, K) zeros and
ones for several labels an image.

One function a number, for one label and for several.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.metrics import correct, of_classes

MOST_IN_MATRIX = 200  # classes of a confusion matrix; with more, the frequent mistakes are listed
TINY = np.finfo(np.float32).tiny  # in place of probabilities that float32 rounds to zero
Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution, for intervals of 95 %


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """The confidence interval of a proportion, by Wilson (1927).

    Args:
        right: how many examples are right.
        count: of how many, at least 1.
        z: the quantile of the normal distribution; by default that of a 95 % interval.

    Returns:
        (lowest, highest) proportion, in [0, 1].

    Raises:
        ZeroDivisionError: `count` is 0.

    >>> low, high = wilson(90, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    share, square = right / count, z * z
    centre = (share + square / (2 * count)) / (1 + square / count)
    deviation = np.sqrt(share * (1 - share) / count + square / (4 * count * count))
    half = z / (1 + square / count) * deviation
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Whether two networks differ, by the examples that only one has right: McNemar 1947, exact.

    Args:
        first, second: (N,) bool, which examples each network has right.

    Returns:
        `only_first` and `only_second`, counts, and the p-value `p` of the binomial test.
    """
    from scipy import stats  # slow to import

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differ = only_first + only_second
    p = stats.binomtest(only_first, differ, 0.5).pvalue if differ else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) counts: the row is the true class, the column the predicted one."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = 15
) -> list[dict[str, float]]:
    """Confidence and accuracy in bins (a, b] of equal width, without empty ones: Guo et al. 2017.

    Args:
        confidence: (N,) the probability of each answer.
        right: (N,) bool.
        bins: how many.
    """
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
    """ECE: mean |confidence - accuracy| over the bins of `reliability`, weighted by examples."""
    table = reliability(confidence, right, bins)
    gaps = (row["examples"] * abs(row["confidence"] - row["accuracy"]) for row in table)
    return sum(gaps) / len(confidence)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in the precision of the scores."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_complement(log_probabilities: np.ndarray) -> np.ndarray:
    """log(1 - p) of log(p)."""
    return np.log(np.maximum(-np.expm1(log_probabilities), TINY))


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(scores / T) has the lowest cross-entropy: Guo et al. 2017.

    Args:
        scores: (N, K) logits or log-probabilities.
        labels: (N,)
    """
    from scipy import optimize

    def loss(log_t: float) -> float:
        logs = log_softmax(scores / np.exp(log_t))
        return -np.take_along_axis(logs, labels[:, None], axis=-1).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def calibrate(log_probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Fits a temperature on one random half and measures the calibration error on the other.

    Returns:
        `temperature`, `ece_held_out` and `ece_held_out_with_temperature`; nothing for one example.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
    if not len(fitted):
        return {}
    temperature = fit_temperature(log_probabilities[fitted], labels[fitted])
    right = correct(log_probabilities[held], labels[held])
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
    """Every number of one evaluation.

    Args:
        log_probabilities: (N, K)
        labels: (N,) integers, or (N, K) zeros and ones.
        names: of the K classes.

    Returns:
        With several labels an image what `summarize_several` returns, else
        `loss`, `top1`, `top1_interval`, `examples` and `classes`; `balanced_accuracy`,
        `precision`, `recall`, `f1` and `auc`, means over the classes (`metrics.of_classes`);
        above ten classes `top5` and `top5_interval`;
        unless the answers hold infinities or NaN, `ece`, `reliability` and what `calibrate` gives;
        up to 200 classes `confusion`, above them `mistakes`, the 100 most frequent
        (true class, predicted class, count).

    Raises:
        ZeroDivisionError: there are no examples.

    >>> answers = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))
    >>> result = summarize(answers, np.array([0, 1, 1]), ("cat", "dog"))
    >>> result["examples"], round(result["top1"], 3), result["confusion"]
    (3, 0.667, [[1, 0], [1, 1]])
    """
    if labels.ndim == 2:
        return summarize_several(log_probabilities, labels, names)
    scores = log_probabilities.astype(np.float64)
    count, classes = len(labels), len(names)
    first, five = correct(scores, labels), correct(scores, labels, 5)
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
    totals = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[first], minlength=classes)
    result["classes"] = [
        {"name": name, "examples": int(n), "right": int(r), "top1": float(r / n) if n else None}
        for name, n, r in zip(names, totals, right)
    ]
    predicted = scores.argmax(-1)
    result |= of_classes(totals, np.bincount(predicted, minlength=classes), right)
    if np.isfinite(scores).all() and (area := auc(scores, labels)) is not None:
        result["auc"] = area
    if classes <= MOST_IN_MATRIX:
        result["confusion"] = confusion_matrix(labels, predicted, classes).tolist()
    else:
        result["mistakes"] = frequent_mistakes(labels, predicted, names)
    return result


def summarize_several(
    log_probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Every number of one evaluation with several labels an image.

    Args:
        log_probabilities: (N, K), of each class alone; a class is answered from a half on.
        labels: (N, K) zeros and ones.
        names: of the K classes.

    Returns:
        `multi_label`, true; `loss`, the binary cross-entropy summed over the classes; `top1` and,
        above ten classes, `top5`, the share of images of whose labels one is the most probable
        class, or among the five; `examples`; `precision`, `recall`, `f1`, `auc` and `map`, means
        over the classes with examples; `classes`. `auc` and `map` need answers without infinities
        and NaN.
    """
    scores, own = log_probabilities.astype(np.float64), labels > 0
    yes = log_probabilities >= np.log(np.float32(0.5))
    totals, answered, right = own.sum(0), yes.sum(0), (own & yes).sum(0)
    result: dict[str, Any] = {
        "multi_label": True,
        "loss": float(-np.where(own, scores, log_complement(scores)).sum(-1).mean()),
        "top1": float(correct(scores, labels).mean()),
    }
    if len(names) > 10:
        result["top5"] = float(correct(scores, labels, 5).mean())
    result |= {"examples": len(labels)}
    result |= of_classes(totals, answered, right, multi_label=True)
    precisions: list[float | None] = [None] * len(names)
    if np.isfinite(scores).all() and own.any():
        if (area := auc(scores, labels)) is not None:
            result["auc"] = area
        precisions = [
            average_precision(scores[:, k], own[:, k]) if totals[k] else None
            for k in range(len(names))
        ]
        result["map"] = float(np.mean([value for value in precisions if value is not None]))
    result["classes"] = [
        {
            "name": name,
            "examples": int(n),
            "answers": int(a),
            "right": int(r),
            "recall": float(r / n) if n else None,
            "precision": float(r / a) if a else None,
            "average_precision": precision,
        }
        for name, n, a, r, precision in zip(names, totals, answered, right, precisions)
    ]
    return result


def average_precision(scores: np.ndarray, own: np.ndarray) -> float:
    """The mean precision at the score of each example of a class; equal scores count together.

    Args:
        scores: (N,) of the class.
        own: (N,) bool, the examples of the class, at least one.
    """
    from scipy.stats import rankdata  # slow to import

    found = rankdata(-scores[own], "max")  # how many of the class have as high a score
    return float(np.mean(found / rankdata(-scores, "max")[own]))


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """The area under the ROC curve, one class against the others, mean over the classes.

    Mann, Whitney 1947: the share of pairs of an example of the class and one of another class in
    which the first has the higher score; equal ones count half.

    Args:
        scores: (N, K) of any monotonous kind.
        labels: (N,), or (N, K) zeros and ones.

    Returns:
        None where no class has examples beside others.
    """
    from scipy.stats import rankdata  # slow to import

    areas = []
    several = labels.ndim == 2
    for label in np.flatnonzero(labels.any(0)) if several else np.unique(labels):
        own = labels[:, label] > 0 if several else labels == label
        count, others = own.sum(), (~own).sum()
        if others:
            ranks = rankdata(scores[:, label])[own].sum()
            areas.append((ranks - count * (count + 1) / 2) / (count * others))
    return float(np.mean(areas)) if areas else None


def frequent_mistakes(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], most: int = 100
) -> list[list]:
    """[true class, predicted class, count] of the most frequent mistakes.

    Only pairs that occur are counted: a matrix of all classes could be larger than the memory.
    """
    wrong = np.flatnonzero(labels != predicted)
    codes = labels[wrong].astype(np.int64) * len(names) + predicted[wrong]
    pairs, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    places = (divmod(int(pairs[i]), len(names)) for i in order)
    return [[names[t], names[p], int(counts[i])] for i, (t, p) in zip(order, places)]
