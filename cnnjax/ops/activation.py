"""ReLU of a residual sum, which XLA on a CPU would otherwise compute several times."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cnnjax.ops.platform import by_platform


@jax.custom_jvp
def relu_of_sum(x: jax.Array) -> jax.Array:
    """ReLU of a sum that several layers read, computed once: (N, H, W, C) -> (N, H, W, C).

    XLA on a CPU fuses the sum into each of its readers. In a chain of residual blocks, the last sum
    is then computed from the branches of all blocks, and all of them stay in memory. A `cond` with
    two equivalent branches prevents this. (XLA removes an `optimization_barrier`.)

    Raises:
        IndexError: `x` has fewer than four axes.
    """

    def once(y):
        corner = y[:1, :1, :1, :1].sum()
        return lax.cond(corner >= 0, lambda y: y, nn.relu, y)

    return checkpoint_name(by_platform(nn.relu(x), cpu=once, default=lambda y: y), "relu")


@relu_of_sum.defjvp
def _(primals, tangents):
    (x,), (tangent,) = primals, tangents
    y = relu_of_sum(x)
    return y, jnp.where(y > 0, tangent, 0)
