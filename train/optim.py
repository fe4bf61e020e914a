"""Learning-rate schedules and optimizers, as optax transformations. They take values and know no config."""

from typing import Any

import jax
import optax

from cnnjax.registry import nearest
from train.errors import UserError

SCHEDULES = ("cosine", "step", "constant")
OPTIMIZERS = ("sgd",)


def make_schedule(
    name: str, lr: float, *, steps: int, warmup: int = 0, decay_every: int = 1, decay_rate: float = 0.1
) -> optax.Schedule:
    """step -> learning rate, over `steps` updates of which the first `warmup` rise linearly from zero.

    cosine: lr/2 (1 + cos(pi t / T)), Loshchilov & Hutter 2017 without restarts. step: lr * decay_rate^floor(t / decay_every),
    t counted from the first step of the run. constant: lr.
    """
    if name == "cosine":
        main = optax.cosine_decay_schedule(lr, max(1, steps - warmup))
    elif name == "step":
        staircase = optax.exponential_decay(lr, max(1, decay_every), decay_rate, staircase=True)
        main = lambda t: staircase(t + warmup)  # noqa: E731
    elif name == "constant":
        main = optax.constant_schedule(lr)
    else:
        raise UserError(f"optim.schedule={name!r} is unknown; {nearest(name, SCHEDULES)}")
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), main], [warmup])


def decayed(params: Any) -> Any:
    """Which parameters weight decay touches: kernels, but neither biases nor BatchNorm's scales and shifts."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(
    name: str, schedule: optax.Schedule, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """sgd: v <- momentum v + (gradient + weight_decay p), p <- p - lr v (the rate is outside the velocity, as in torch)."""
    if name not in OPTIMIZERS:
        raise UserError(f"optim.name={name!r} is unknown; {nearest(name, OPTIMIZERS)}")
    decay = optax.add_decayed_weights(weight_decay, mask=decayed) if weight_decay else optax.identity()
    velocity = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return optax.chain(decay, velocity, optax.scale_by_learning_rate(schedule))
