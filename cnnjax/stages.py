"""Feature maps by name: what each of a network's own layers and blocks returns."""

from typing import Any

import flax.linen as nn
import jax

CLASSIFIERS = ("head", "output", "aux")  # how the names of layers begin that end in classes


def apply_with_stages(
    model: nn.Module,
    variables: Any,
    *args: Any,
    shifts: dict[str, jax.Array] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """`model.apply`, and the stages that it goes through.

    A stage is the output of a direct child of the network, under the child's name ("mixed6e",
    "pool3a"); classifiers and dropout are none. It works with any Flax network.

    Args:
        model: the network.
        variables: its variables.
        *args: what `model.apply` takes next: images (N, H, W, C).
        shifts: arrays by the name of a stage, which are added to it. The gradient with respect to
            a shift of zeros is that with respect to the stage.
        **options: further options of `model.apply`.

    Returns:
        What `model.apply` returns, and a dict of stages in the network's order.

    >>> outputs, stages = apply_with_stages(model, variables, images, train=False)
    >>> stages["mixed6e"].shape
    (1, 17, 17, 768)
    """
    stages: dict[str, jax.Array] = {}
    under_way: set[str] = (
        set()
    )  # a layer that calls its base class, or is rematerialised, is called twice

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
        if isinstance(out, jax.Array):
            if shifts and name in shifts:
                out = out + shifts[name]
            stages[name] = out
        return out

    with nn.intercept_methods(listen):
        outputs = model.apply(variables, *args, **options)
    return outputs, stages
