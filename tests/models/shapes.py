"""The shapes of a network's variables, outputs and feature maps, without computing them."""

from functools import partial

import jax
import jax.numpy as jnp

from cnnjax import analysis
from cnnjax.stages import apply_with_stages

KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(0)}


def shapes(model, side, *, train=False):
    """(variables, outputs, feature maps) for one image of side x side x 3, maps as (H, W, C)."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = analysis.abstract_variables(model, image.shape[1:], train=train)
    apply = partial(apply_with_stages, model, train=train, rngs=KEYS, mutable=["batch_stats"])
    (outputs, _), stages = jax.eval_shape(lambda v, x: apply(v, x), variables, image)
    return variables, outputs, {name: x.shape[1:] for name, x in stages.items()}


def parameters(model, side=299, *, train=False):
    """The number of trainable values; `train` includes the auxiliary heads."""
    return analysis.count_parameters(
        analysis.abstract_variables(model, (side, side, 3), train=train)["params"]
    )
