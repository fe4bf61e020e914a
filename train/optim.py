"""Learning-rate schedules and optimizers, put together from optax's parts. They take values and know no config."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ReduceLROnPlateauState

from cnnjax.spelling import nearest
from train.errors import UserError

SCHEDULES = ("cosine", "step", "exponential", "polynomial", "piecewise", "plateau", "constant")
OPTIMIZERS = ("sgd", "rmsprop", "adamw", "lars", "lamb")
DECAYED = ("kernels", "biases", "all")

# ---------------------------------------------------------------------------------------------- schedules


def make_schedule(
    name: str,
    lr: float,
    *,
    steps: int,
    warmup: int = 0,
    decay_every: float = 1,
    decay_rate: float = 0.1,
    power: float = 1.0,
    floor: float = 0.0,
    boundaries: Iterable[int] = (),
    factors: Iterable[float] = (),
) -> optax.Schedule:
    """step -> learning rate, over `steps` updates of which the first `warmup` rise linearly from zero.

    cosine: lr/2 (1 + cos(pi t / T)), Loshchilov & Hutter 2017 without restarts. polynomial: lr (1 - t / T)^power. In both t
    counts from the end of the warm-up and T is what is left then; in the others t counts from the first step of the run.
    step: lr * decay_rate^floor(t / decay_every). exponential: the same without the floor. piecewise: lr times the factor of
    the last boundary that t has reached. constant and plateau: lr; a plateau's reductions are in the optimizer's state.
    Nothing but the warm-up falls below floor * lr.
    """
    if name in ("cosine", "polynomial"):
        left = max(1, steps - warmup)
        main = (
            optax.cosine_decay_schedule(lr, left)
            if name == "cosine"
            else optax.polynomial_schedule(lr, 0.0, power, left)
        )

        def from_start(t):
            return main(t - warmup)

    elif name in ("step", "exponential"):
        # Above one decay for each step `exponential_decay` cannot see the difference between steps and fractions of them.
        from_start = optax.exponential_decay(
            lr, max(1, decay_every), decay_rate, staircase=name == "step"
        )
    elif name == "piecewise":
        boundaries, factors = tuple(boundaries), tuple(factors)
        if len(boundaries) != len(factors) or list(boundaries) != sorted(boundaries):
            raise UserError(
                "piecewise needs as many optim.factors as optim.boundaries, which must rise"
            )
        values = jnp.array([1.0, *factors], jnp.float32) * lr

        def from_start(t):
            return values[jnp.sum(jnp.array(boundaries) <= t)]

    elif name in ("constant", "plateau"):
        from_start = optax.constant_schedule(lr)
    else:
        raise UserError(f"optim.schedule={name!r} is unknown; {nearest(name, SCHEDULES)}")

    def schedule(t):
        rate = jnp.maximum(from_start(t), floor * lr) if floor else from_start(t)
        return jnp.where(t < warmup, lr * t / warmup, rate) if warmup else rate

    return schedule


# ---------------------------------------------------------------------------------------------- which parameters


def decayed(params: Any, what: str = "kernels") -> Any:
    """Which parameters weight decay touches.

    kernels: neither biases nor BatchNorm's scales and shifts. biases: those of kernels too. all: everything.
    """
    if what not in DECAYED:
        raise UserError(f"optim.decayed={what!r} is unknown; {nearest(what, DECAYED)}")
    if what == "kernels":
        return jax.tree.map(lambda p: p.ndim > 1, params)
    owners = {
        path[:-1] for path, _ in jax.tree.leaves_with_path(params) if _name(path[-1:]) == "kernel"
    }
    return jax.tree.map_with_path(
        lambda path, p: what == "all" or p.ndim > 1 or path[:-1] in owners, params
    )


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def rate_factors(params: Any, rules: Iterable[str]) -> Any:
    """The factor of each parameter's learning rate, from rules 'pattern=factor' about its path ('conv1/bias').

    A pattern is a regular expression, searched for; the first rule that fits counts, and 1 without any. UserError for a
    rule that is none, or that fits nothing.
    """
    table, used = [], set()
    for rule in rules:
        pattern, _, factor = rule.rpartition("=")
        try:
            table.append((re.compile(pattern), float(factor)))
        except (re.error, ValueError):
            raise UserError(f"optim.lr_scale takes rules such as 'bias$=2', got {rule!r}") from None

    def factor_of(path, _):
        for number, (pattern, factor) in enumerate(table):
            if pattern.search(_name(path)):
                used.add(number)
                return factor
        return 1.0

    factors = jax.tree.map_with_path(factor_of, params)
    if len(used) < len(table):
        pattern = table[min(set(range(len(table))) - used)][0].pattern
        names = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        raise UserError(
            f"no parameter is left for optim.lr_scale={pattern!r}; there are {', '.join(names[:4])}, …"
        )
    return factors


# ---------------------------------------------------------------------------------------------- optimizers


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    lr_inside: bool = False,
    decay: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decay_what: str = "kernels",
    clip: float = 0.0,
    lr_scale: Iterable[str] = (),
    plateau: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """The update of parameters p by the gradient g with the learning rate lr; weight decay is written w.

    sgd      v <- momentum v + (g + w p),  p <- p - lr v; with `lr_inside`, as the papers up to 2014 and Caffe have it,
             v <- momentum v + lr (g + w p),  p <- p - v
    rmsprop  s <- decay s + (1 - decay) g²,  v <- momentum v + lr g / sqrt(s + epsilon),  p <- p - v, and s starts at one:
             TensorFlow's; g includes w p
    adamw    Loshchilov, Hutter 2019. lars: You et al. 2017, on kernels. lamb: You et al. 2020

    `clip` bounds the global norm of g, before weight decay. `lr_scale` are the rules of `rate_factors`; a factor of 0 takes a
    parameter out of the norm as well.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optim.name={name!r} is unknown; {nearest(name, OPTIMIZERS)}")
    mask = partial(decayed, what=decay_what)
    weights = optax.add_decayed_weights(weight_decay, mask) if weight_decay else optax.identity()
    velocity = optax.trace(momentum, nesterov) if momentum else optax.identity()
    rate = optax.chain(optax.scale_by_learning_rate(schedule), plateau or optax.identity())
    adam = optax.scale_by_adam(momentum, beta2, epsilon, nesterov=nesterov)
    parts = {
        "sgd": (weights, rate, velocity) if lr_inside else (weights, velocity, rate),
        "rmsprop": (weights, optax.scale_by_rms(decay, epsilon, initial_scale=1.0), rate, velocity),
        "adamw": (adam, weights, rate),
        "lars": (
            weights,
            optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), decayed),
            rate,
            velocity,
        ),
        "lamb": (adam, weights, optax.scale_by_trust_ratio(), rate),
    }[name]
    rules = tuple(lr_scale)
    if rules:

        def frozen(params):
            return jax.tree.map(lambda factor: factor == 0, rate_factors(params, rules))

        scaled = optax.stateless(
            lambda updates, _: jax.tree.map(jnp.multiply, updates, rate_factors(updates, rules))
        )
        parts = (*parts, scaled)
    bounded = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(
        optax.masked(optax.set_to_zero(), frozen) if rules else optax.identity(), bounded, *parts
    )


# ---------------------------------------------------------------------------------------------- plateau


class Plateau:
    """A rate that falls when the evaluation gets no better: the rule is optax's, the values are top-1 accuracies.

    `scale` goes into the optimizer and multiplies the rate; `observe` tells its state, wherever in `opt_state` it is, of an
    evaluation. `patience` evaluations in a row without a better one multiply the rate by `factor`, down to `floor`.
    """

    def __init__(self, factor: float, patience: int, floor: float):
        self._rule = optax.contrib.reduce_on_plateau(
            factor, patience, rtol=0.0, atol=1e-6, min_scale=floor
        )

        def scale(updates, state, params=None):
            return jax.tree.map(lambda u: state.scale * u, updates), state

        self.scale = optax.GradientTransformation(self._rule.init, scale)

    def observe(self, opt_state: Any, top1: float, place: Callable = lambda tree: tree) -> Any:
        """The state behind an evaluation; `place` puts the few values that may change where the others are."""

        def advance(x):
            return (
                place(self._rule.update({}, jax.device_get(x), value=1 - top1)[1])
                if _is_plateau(x)
                else x
            )

        return jax.tree.map(advance, opt_state, is_leaf=_is_plateau)


def plateau_factor(opt_state: Any) -> float:
    """What a plateau has made of the rate so far; 1 without one."""
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_plateau) if _is_plateau(x)]
    return float(found[0].scale) if found else 1.0


def _is_plateau(x: Any) -> bool:
    return isinstance(x, ReduceLROnPlateauState)
