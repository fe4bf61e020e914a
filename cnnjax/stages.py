"""Feature maps by name: the outputs of a network's own layers and blocks."""

from typing import Any

import flax.linen as nn
import jax

from cnnjax.ops.pooling import Deferred

CLASSIFIERS = ("head", "output", "aux")  # prefixes of the names of layers that give logits


def apply_with_stages(
    model: nn.Module,
    variables: Any,
    *args: Any,
    shifts: dict[str, jax.Array] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """`model.apply` that also returns the feature maps on the way.

    A stage is the output of a direct child of the network, and has the child's name ("mixed6e",
    "pool3a"). Classifiers and dropout are not stages. The function works with any Flax network.

    Args:
        model: the network.
        variables: its variables.
        *args: further positional arguments of `model.apply`: images (N, H, W, C).
        shifts: arrays to add to stages, by the stage's name. The gradient with respect to a shift
            of zeros is the gradient with respect to the stage.
        **options: keyword arguments of `model.apply`.

    Returns:
        The result of `model.apply`, and a dict of the stages in the network's order.

    Raises:
        Whatever `model.apply` raises.

    >>> model = cnnjax.create_model("lenet5")
    >>> images = jnp.zeros((1, 32, 32, 1))
    >>> variables = model.init(jax.random.key(0), images)
    >>> outputs, stages = cnnjax.apply_with_stages(model, variables, images)
    >>> stages["c3"].shape
    (1, 10, 10, 16)
    """
    stages: dict[str, jax.Array] = {}
    # A layer that calls its base class, or that is rematerialised, is intercepted twice.
    under_way: set[str] = set()

    def listen(call, args, kwargs, context):
        path = context.module.path
        name = path[0] if len(path) == 1 else ""
        skipped = isinstance(context.module, nn.Dropout) or name.startswith(CLASSIFIERS)
        if not name or skipped or name in under_way or context.method_name != "__call__":
            return call(*args, **kwargs)
        under_way.add(name)
        try:
            out = call(*args, **kwargs)
        finally:
            under_way.remove(name)
        out = out.value if isinstance(out, Deferred) else out
        if isinstance(out, jax.Array):
            if shifts and name in shifts:
                out = out + shifts[name]
            stages[name] = out
        return out

    with nn.intercept_methods(listen):
        outputs = model.apply(variables, *args, **options)
    return outputs, stages
