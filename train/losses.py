"""The training objective: cross-entropy with smoothed labels, of classifier and auxiliary heads."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from cnnjax import Outputs
from train.errors import UserError


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    *,
    name: str = "cross_entropy",
    gamma: float = 2.0,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """The mean over the batch of -sum q log softmax(logits), with q = (1 - e) onehot + e / K.

    Label smoothing: Szegedy et al. 2015 (Rethinking the Inception architecture), section 7.

    Args:
        logits: (N, K).
        labels: (N,) integers, or (N, K) where they are mixed or an image has several; the latter
            take "binary" or "focal".
        label_smoothing: e.
        name: "cross_entropy"; "binary", a yes or no for each class, summed over the classes;
            "focal", binary with a factor (1 - p)^gamma, where p is the probability of the right
            one (Lin et al. 2017, section 3).
        gamma: of "focal".
        class_weights: a factor for each class, by which the loss of its images counts. Images with
            several labels take the sum.

    >>> f"{cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])):.4f}"
    '1.3863'
    """
    several = labels.ndim == 2
    soft = labels.astype(jnp.float32) if several else jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(soft, label_smoothing)
    if name == "cross_entropy":
        losses = optax.softmax_cross_entropy(logits, targets)
    elif name == "binary":
        losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
    else:
        losses = optax.sigmoid_focal_loss(logits, targets, gamma=gamma).sum(-1)
    if class_weights:
        losses *= soft @ jnp.array(class_weights, jnp.float32)
    return losses.mean()


def balanced(counts: Sequence[int]) -> list[float]:
    """Weights by which every class counts alike: N / (K n) for n of N examples; 0 for none.

    >>> balanced([10, 20])
    [1.5, 0.75]
    """
    return [sum(counts) / (len(counts) * n) if n else 0.0 for n in counts]


def own(function: Callable, outputs: Outputs, labels: jax.Array):
    """(loss, parts) of a function of the user's own, which may return the loss alone."""
    result = function(outputs, labels)
    loss, parts = result if isinstance(result, tuple) else (result, {})
    if jnp.ndim(loss):
        raise UserError(f"the loss has the shape {jnp.shape(loss)}; it must be one number, a mean")
    if not isinstance(parts, dict):
        raise UserError("beside the loss, a loss returns a dict of numbers by name")
    return loss, parts


def objective(
    outputs: Outputs,
    labels: jax.Array,
    *,
    label_smoothing: float,
    main_weight: float,
    aux_weight: float,
    **options,
):
    """(loss, parts) with loss = main_weight * xent(logits) + aux_weight * mean of xent(aux).

    `parts` holds both cross-entropies, unweighted, where there are auxiliary heads. GoogLeNet
    (2014, section 5) adds 0.3 of each of two heads to the classifier's: weights 1.0 and 0.6.
    `options` are the other keyword arguments of `cross_entropy`.
    """
    main = cross_entropy(outputs.logits, labels, label_smoothing, **options)
    if not outputs.aux:
        return main_weight * main, {}
    heads = [cross_entropy(head, labels, label_smoothing, **options) for head in outputs.aux]
    aux = jnp.mean(jnp.stack(heads))
    return main_weight * main + aux_weight * aux, {"main_loss": main, "aux_loss": aux}
