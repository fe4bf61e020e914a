"""The state of a training run: everything that a step changes, as plain data."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from train.optim import evaluated_params


class TrainState(flax.struct.PyTreeNode):
    """A tree of arrays, replicated over the devices. It holds no functions."""

    step: jax.Array  # () int32: updates made so far
    params: Any
    batch_stats: Any  # BatchNorm's moving averages; {} without BatchNorm
    opt_state: Any
    ema: Any  # {"params", "batch_stats"} that are evaluated: moving averages; None without

    @classmethod
    def of(
        cls, variables: Any, tx: optax.GradientTransformation, *, ema: bool = False
    ) -> "TrainState":
        """A state before the first update, of a network's variables.

        Args:
            variables: {"params", …}, as `model.init` returns them, or published ones.
            tx: the optimizer.
            ema: keep moving averages.
        """
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        step, opt_state = jnp.zeros((), jnp.int32), tx.init(params)
        keeps = ema or evaluated_params(opt_state, params) is not None
        averages = {"params": params, "batch_stats": batch_stats} if keeps else None
        return cls(step, params, batch_stats, opt_state, jax.tree.map(jnp.copy, averages))

    @property
    def variables(self) -> dict[str, Any]:
        """What is evaluated: the moving averages, where there are any, else the parameters."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create_variables(
    model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """{"params", "batch_stats"} for images (H, W, C), those of auxiliary heads included."""
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
    return TrainState.of(create_variables(model, key, image_shape), tx, ema=ema)
