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
    """Whether the label is among the k highest scores.

    Args:
        scores: (N, K) logits or log-probabilities, on the host (numpy) or on a device (jax).
        labels: (N,) integers.
        k: how many of the highest scores count. Of equal scores the first counts, as in argmax.

    Returns:
        (N,) bool, of the kind of `scores`. A row with a NaN is never correct.

    >>> correct(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    array([ True, False])
    """
    xp: Any = scores.__array_namespace__()  # numpy or jax.numpy
    own = xp.take_along_axis(scores, labels[:, None], axis=-1)
    earlier = xp.arange(scores.shape[-1]) < labels[:, None]
    ahead = xp.sum((scores > own) | ((scores == own) & earlier), axis=-1)
    return (ahead < k) & ~xp.any(xp.isnan(scores), axis=-1)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums of loss, top-1 and top-5 over the examples that `mask` marks."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    values = {"loss": loss, "top1": correct(logits, labels), "top5": correct(logits, labels, 5)}
    totals = {
        name: jnp.sum(jnp.where(mask, value, 0), dtype=jnp.float32)
        for name, value in values.items()
    }
    return totals | {"examples": jnp.sum(mask, dtype=jnp.int32)}


def finalize(
    batches: Iterable[dict], num_classes: int, images: str = "the images"
) -> dict[str, float]:
    """Adds the sums of all batches and divides once.

    `top5` is left out where it says nothing: with ten classes or fewer.

    Raises:
        DataError: there is no example; the sentence calls them `images`.
    """
    total: dict[str, float] = {}
    for batch in batches:
        for name, value in batch.items():
            total[name] = total.get(name, 0) + value.item()
    examples = total.pop("examples", 0)
    if not examples:
        raise DataError(f"none of {images} can be read")
    result = {
        name: value / examples
        for name, value in total.items()
        if name != "top5" or num_classes > 10
    }
    return result | {"examples": int(examples)}
