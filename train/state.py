"""Everything that training changes, as plain data."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
    """Replicated over the devices, with plain shapes; no functions inside, so a checkpoint is just this tree."""

    step: jax.Array  # () int32: updates made so far
    params: Any
    batch_stats: Any  # BatchNorm's moving averages; {} without BatchNorm
    opt_state: Any
    ema: Any  # {"params", "batch_stats"}: moving averages of both; None without

    @property
    def variables(self) -> dict[str, Any]:
        """What evaluation runs: the moving averages where they are kept, else the parameters themselves."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create_variables(
    model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """{"params", "batch_stats"}, initialised on one black image of (H, W, C), auxiliary heads included."""
    params_key, dropout_key = jax.random.split(key)
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init({"params": params_key, "dropout": dropout_key}, images, train=True)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, ...],
    *,
    ema: bool = False,
) -> TrainState:
    """A state before the first update."""
    params, batch_stats = create_variables(model, key, image_shape).values()
    averages = {"params": params, "batch_stats": batch_stats} if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        batch_stats,
        tx.init(params),
        jax.tree.map(jnp.copy, averages),
    )
