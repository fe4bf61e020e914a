"""The training objective: cross-entropy with smoothed labels, of classifier and auxiliary heads."""

import jax
import jax.numpy as jnp
import optax

from cnnjax import Outputs


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The mean over the batch of -sum q log softmax(logits), with q = (1 - e) onehot + e / K.

    Label smoothing: Szegedy et al. 2015 (Rethinking the Inception architecture), section 7.

    Args:
        logits: (N, K).
        labels: (N,) integers, or (N, K) where they are mixed.
        label_smoothing: e.

    >>> f"{cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])):.4f}"
    '1.3863'
    """
    soft = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(soft, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def objective(
    outputs: Outputs,
    labels: jax.Array,
    *,
    label_smoothing: float,
    main_weight: float,
    aux_weight: float,
):
    """(loss, parts) with loss = main_weight * xent(logits) + aux_weight * mean of xent(aux).

    `parts` holds both cross-entropies, unweighted, where there are auxiliary heads. GoogLeNet
    (2014, section 5) adds 0.3 of each of two heads to the classifier's: weights 1.0 and 0.6.
    """
    main = cross_entropy(outputs.logits, labels, label_smoothing)
    if not outputs.aux:
        return main_weight * main, {}
    aux = jnp.mean(
        jnp.stack([cross_entropy(head, labels, label_smoothing) for head in outputs.aux])
    )
    return main_weight * main + aux_weight * aux, {"main_loss": main, "aux_loss": aux}
