"""Classification counts as sums, so that any split over batches, devices and processes adds up to the same numbers."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax


def correct(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """(N,) bool: whether the label is among the k highest logits; of equal ones the first counts, as in argmax and top_k.

    Logits with a NaN among them are never right.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    ahead = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
    return (ahead < k) & ~jnp.any(jnp.isnan(logits), axis=-1)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples that `mask` keeps; finish with `finalize`."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    values = {"loss": loss, "top1": correct(logits, labels), "top5": correct(logits, labels, 5)}
    kept = {
        name: jnp.sum(jnp.where(mask, value, 0), dtype=jnp.float32)
        for name, value in values.items()
    }
    return kept | {"examples": jnp.sum(mask, dtype=jnp.int32)}


def finalize(batches: Iterable[dict], num_classes: int) -> dict[str, float]:
    """Adds the sums of all batches and divides once. `top5` is left out where it says nothing (ten classes or fewer)."""
    total: dict[str, float] = {}
    for batch in batches:
        for name, value in batch.items():
            total[name] = total.get(name, 0) + value.item()
    examples = total.pop("examples")
    result = {
        name: value / examples
        for name, value in total.items()
        if name != "top5" or num_classes > 10
    }
    return result | {"examples": int(examples)}
