"""Classification counts as sums, which add up over batches, devices and processes."""

from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.errors import DataError

Array = TypeVar("Array", jax.Array, np.ndarray)


def correct(scores: Array, labels: Array, k: int = 1) -> Array:
    """Whether the label, or one of several, is among the k highest scores.

    Args:
        scores: (N, K) logits or log-probabilities, on the host (numpy) or on a device (jax).
        labels: (N,) integers; or (N, K) zeros and ones for several labels an image, of which one
            among the highest is enough.
        k: how many of the highest scores count. Of equal scores the first counts, as in argmax.

    Returns:
        (N,) bool, of the kind of `scores`. A row with a NaN is never correct.

    >>> correct(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    array([ True, False])
    """
    xp: Any = scores.__array_namespace__()  # numpy or jax.numpy
    if labels.ndim == 2:
        first = xp.argmax(xp.where(labels > 0, scores, -xp.inf), axis=-1)
        has_any = xp.take_along_axis(labels, first[:, None], axis=-1)[:, 0] > 0
        return has_any & correct(scores, first, k)
    own = xp.take_along_axis(scores, labels[:, None], axis=-1)
    earlier = xp.arange(scores.shape[-1]) < labels[:, None]
    ahead = xp.sum((scores > own) | ((scores == own) & earlier), axis=-1)
    return (ahead < k) & ~xp.any(xp.isnan(scores), axis=-1)


MOST_RANKED = 100  # classes up to which the AUC is measured during training
BINS = 2048  # in which it is, of the arsinh of the log-odds: fine where most of them are
SPAN = 12.0  # of the arsinh, which is that of log-odds of 80,000


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples that `mask` marks.

    Args:
        logits: (N, K)
        labels: (N,) classes, whose probabilities are the softmax; or (N, K) zeros and ones, and
            each class has its sigmoid.
        mask: (N,) bool.

    Returns:
        loss, top1, top5, examples (); `of_class` (3, K): examples, answers and right answers of
        each class; `ranks` (2, K, BINS), up to 100 classes: how many examples without the class
        and of the class have log-odds of the class in each bin. With several labels an image, the
        loss is summed over the classes, and an answer is a probability of a half or more.
    """
    several = labels.ndim == 2
    if several:
        loss = optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)
    else:
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    values = {"loss": loss, "top1": correct(logits, labels), "top5": correct(logits, labels, 5)}
    totals = {
        name: jnp.sum(jnp.where(mask, value, 0), dtype=jnp.float32)
        for name, value in values.items()
    }
    classes = logits.shape[-1]
    if several:
        own, yes = labels > 0, logits >= 0
        counted = jnp.stack([own, yes, own & yes]) & mask[:, None]
        of_class = counted.sum(1, dtype=jnp.int32)
    else:
        answers = jnp.argmax(logits, -1)
        right = mask & (values["top1"] > 0)
        of_class = jnp.zeros((3, classes), jnp.int32)
        for row, (places, counted) in enumerate([(labels, mask), (answers, mask), (labels, right)]):
            of_class = of_class.at[row, places].add(counted.astype(jnp.int32))
    totals |= {"examples": jnp.sum(mask, dtype=jnp.int32), "of_class": of_class}
    if classes <= MOST_RANKED:
        odds = logits
        if not several:
            others = jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, logits[:, None, :])
            odds = logits - jax.nn.logsumexp(others, -1)
        odds = jnp.arcsinh(odds)
        bins = jnp.clip((odds / SPAN + 1) / 2 * BINS, 0, BINS - 1).astype(jnp.int32)
        is_it = labels if several else jax.nn.one_hot(labels, classes, dtype=jnp.int32)
        counts = jnp.zeros((2, classes, BINS), jnp.int32)
        finite = mask & ~jnp.any(jnp.isnan(logits), -1)
        counted = jnp.broadcast_to(finite[:, None].astype(jnp.int32), bins.shape)
        totals["ranks"] = counts.at[is_it, jnp.arange(classes), bins].add(counted)
    return totals


def finalize(
    batches: Iterable[dict],
    num_classes: int,
    images: str = "the images",
    *,
    multi_label: bool = False,
) -> dict[str, float]:
    """Adds the sums of all batches and divides once.

    `top5` is left out where it says nothing: with ten classes or fewer. The rest is that of
    `of_classes` and `auc`; with several labels an image also `map`, of `average_precision`.

    Raises:
        DataError: there is no example; the sentence calls them `images`.
    """
    total: dict[str, Any] = {}
    for batch in batches:
        for name, value in batch.items():
            wide = np.asarray(value, np.float64 if value.dtype.kind == "f" else np.int64)
            total[name] = total.get(name, 0) + wide
    examples, ranks = total.pop("examples", 0), total.pop("ranks", None)
    of_class = total.pop("of_class", None)
    if not examples:
        raise DataError(f"none of {images} can be read")
    result = {
        name: float(value / examples)
        for name, value in total.items()
        if name != "top5" or num_classes > 10
    }
    result["examples"] = int(examples)
    if of_class is not None:
        result |= of_classes(*of_class, multi_label=multi_label)
    if ranks is not None and (area := auc(ranks)) is not None:
        result["auc"] = area
    if multi_label and ranks is not None and ranks[1].any():
        result["map"] = average_precision(ranks)
    return result


def of_classes(
    examples: np.ndarray, answers: np.ndarray, right: np.ndarray, *, multi_label: bool = False
) -> dict[str, float]:
    """Means over the classes that have examples, each of which counts alike ("macro").

    Args:
        examples, answers, right: (K,) how many there are of each class; how often the network
            answers it, and how often it is right.
        multi_label: an image may have several classes, and several answers.

    Returns:
        `precision`, right among the answers (0 for a class that is never answered); `recall`, right
        among the examples; `balanced_accuracy`, another name of that mean where an image has one
        answer; `f1`, the mean of 2 right / (examples + answers). Nothing without examples.

    >>> of_classes(np.array([8, 2]), np.array([9, 1]), np.array([8, 1]))["recall"]
    0.75
    """
    some = examples > 0
    if not some.any():
        return {}
    examples, answers, right = examples[some], answers[some], right[some]
    recall = float(np.mean(right / examples))
    return ({} if multi_label else {"balanced_accuracy": recall}) | {
        "precision": float(np.mean(right / np.maximum(answers, 1))),
        "recall": recall,
        "f1": float(np.mean(2 * right / (examples + answers))),
    }


def auc(ranks: np.ndarray) -> float | None:
    """The area under the ROC curve, one class against the others, mean over the classes.

    Args:
        ranks: (2, K, B) examples of other classes, and of the class, in bins of a rising score.
            Within a bin scores count as equal.

    Returns:
        None where no class has examples beside others.
    """
    others, own = ranks.astype(np.float64)
    below = np.cumsum(others, -1) - others / 2
    pairs = own.sum(-1) * others.sum(-1)
    some = pairs > 0
    return float(np.mean((own * below).sum(-1)[some] / pairs[some])) if some.any() else None


def average_precision(ranks: np.ndarray) -> float:
    """The mean over the classes of the mean precision at the score of each example of the class.

    Args:
        ranks: (2, K, B), as of `auc`, with an example of some class.
    """
    others, own = ranks.astype(np.float64)[..., ::-1]
    found, answered = np.cumsum(own, -1), np.cumsum(own + others, -1)
    some = own.any(-1)
    precision = (own * found / np.maximum(answered, 1))[some].sum(-1) / own[some].sum(-1)
    return float(precision.mean())
