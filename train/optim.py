"""Learning-rate schedules and optimizers, made of optax's parts. They know no config.

Five short parts: schedules, which parameters, optimizers, loss scaling, plateau.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ReduceLROnPlateauState

from cnnjax import trees
from cnnjax.spelling import choice
from train.errors import UserError
from train.schema import CHOICES, parse_rule

# ---------------------------------------------------------------------------------------- schedules


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
    """A function step -> learning rate over `steps` updates.

    The first `warmup` updates rise linearly from zero. T is the number of updates after them.

    cosine       lr/2 (1 + cos(pi t / T)), t from the end of the warm-up. Loshchilov, Hutter 2017
    polynomial   lr (1 - t / T)^power, t from the end of the warm-up
    step         lr * decay_rate^floor(t / decay_every), t from the start of the run, as below
    exponential  lr * decay_rate^(t / decay_every)
    piecewise    lr times the factor of the last boundary that t has reached
    constant     lr
    plateau      lr; its reductions are in the optimizer's state

    Args:
        name: one of the above.
        lr: the peak.
        steps, warmup, decay_every, boundaries: in updates.
        floor: share of lr below which only the warm-up falls.

    Raises:
        UserError: an unknown name, or boundaries that do not rise.

    >>> schedule = make_schedule("cosine", 0.1, steps=100, warmup=10)
    >>> round(float(schedule(10)), 6), round(float(schedule(55)), 6)
    (0.1, 0.05)
    """
    choice("optim.schedule", name, CHOICES["optim.schedule"], UserError)
    if name in ("cosine", "polynomial"):
        left = max(1, steps - warmup)
        if name == "cosine":
            main = optax.cosine_decay_schedule(lr, left)
        else:
            main = optax.polynomial_schedule(lr, 0.0, power, left)

        def from_start(t):
            return main(t - warmup)

    elif name in ("step", "exponential"):
        # More than one decay a step cannot be told from a fraction of a step.
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

    else:
        from_start = optax.constant_schedule(lr)

    def schedule(t):
        rate = jnp.maximum(from_start(t), floor * lr) if floor else from_start(t)
        return jnp.where(t < warmup, lr * t / warmup, rate) if warmup else rate

    return schedule


# --------------------------------------------------------------------------------- which parameters


def decayed(params: Any, what: str = "kernels") -> Any:
    """Which parameters weight decay touches.

    kernels: neither biases nor BatchNorm's scales and shifts. biases: kernels, and their biases.
    all: everything.
    """
    choice("optim.decayed", what, CHOICES["optim.decayed"], UserError)
    if what == "kernels":
        return jax.tree.map(lambda p: p.ndim > 1, params)
    owners = {
        path[:-1]
        for path, _ in jax.tree.leaves_with_path(params)
        if trees.name(path[-1:]) == "kernel"
    }
    return jax.tree.map_with_path(
        lambda path, p: what == "all" or p.ndim > 1 or path[:-1] in owners, params
    )


def rate_factors(params: Any, rules: Iterable[str]) -> Any:
    """The factor of each parameter's learning rate.

    Args:
        params: the parameters.
        rules: 'pattern=factor' about paths such as 'conv1/bias'. The pattern is a regular
            expression, searched for. The first rule that fits counts; without any the factor is 1.

    Raises:
        UserError: a rule that cannot be read, or that fits no parameter.

    >>> rate_factors({"conv1": {"bias": 0, "kernel": 0}}, ["bias$=2"])
    {'conv1': {'bias': 2.0, 'kernel': 1.0}}
    """
    table = [parse_rule(rule) for rule in rules]
    used: set[int] = set()

    def factor_of(path, _):
        for number, (pattern, factor) in enumerate(table):
            if pattern.search(trees.name(path)):
                used.add(number)
                return factor
        return 1.0

    factors = jax.tree.map_with_path(factor_of, params)
    if len(used) < len(table):
        pattern = table[min(set(range(len(table))) - used)][0].pattern
        names = sorted({trees.name(path[:1]) for path, _ in jax.tree.leaves_with_path(params)})
        raise UserError(
            f"no parameter is left for optim.lr_scale={pattern!r}; "
            f"the layers are {', '.join(names)}"
        )
    return factors


# --------------------------------------------------------------------------------------- optimizers


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
    own: Callable[[optax.Schedule], optax.GradientTransformation] | None = None,
) -> optax.GradientTransformation:
    """The update of parameters p by a gradient g, with learning rate lr and weight decay w.

    sgd      v <- momentum v + (g + w p),  p <- p - lr v
             with `lr_inside`, as in papers up to 2014 and in Caffe:
             v <- momentum v + lr (g + w p),  p <- p - v
    rmsprop  TensorFlow's: s <- decay s + (1 - decay) g², from s = 1,
             v <- momentum v + lr g / sqrt(s + epsilon),  p <- p - v; g includes w p
    adamw    Loshchilov, Hutter 2019
    lars     You et al. 2017, on kernels
    lamb     You et al. 2020

    Args:
        name: one of the above.
        schedule: step -> lr.
        decay_what: what weight decay touches, as in `decayed`.
        clip: largest global norm of g, before weight decay; 0: any.
        lr_scale: rules of `rate_factors`. A factor of 0 takes a parameter out of the norm too.
        plateau: `Plateau.scale`.
        own: makes an optimizer of the schedule, in place of the named one. Of the other arguments
            `clip`, `lr_scale` and `plateau` apply.

    Raises:
        UserError: an unknown name.
    """
    if not own:
        choice("optim.name", name, CHOICES["optim.name"], UserError)
    mask = partial(decayed, what=decay_what)
    weights = optax.add_decayed_weights(weight_decay, mask) if weight_decay else optax.identity()
    velocity = optax.trace(momentum, nesterov) if momentum else optax.identity()
    rate = optax.chain(optax.scale_by_learning_rate(schedule), plateau or optax.identity())
    adam = optax.scale_by_adam(momentum, beta2, epsilon, nesterov=nesterov)
    known = {
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
    }
    parts = (own(schedule), plateau or optax.identity()) if own else known[name]
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


# ------------------------------------------------------------------------------------ loss scaling


class LossScale(NamedTuple):
    scale: jax.Array  # () float32: the loss is multiplied by it, the gradient divided
    streak: jax.Array  # () int32: steps since it changed


def scale_loss(start: float = 2.0**15, patience: int = 2000) -> optax.GradientTransformation:
    """Keeps float16's gradients in its range: Micikevicius et al. 2018, section 3.2.

    It changes no gradient. One that is not finite halves the scale, down to 1; `patience` finite
    ones double it. `loss_scale` reads it, `train_step` applies it and skips the update.
    """

    def init(_):
        return LossScale(jnp.float32(start), jnp.int32(0))

    def update(updates, state, params=None):
        finite = jnp.isfinite(optax.tree.norm(updates))
        grows = state.streak + 1 >= patience
        larger = jnp.where(grows, 2 * state.scale, state.scale)
        scale = jnp.where(finite, larger, jnp.maximum(1.0, state.scale / 2))
        streak = jnp.where(finite & ~grows, state.streak + 1, 0)
        return updates, LossScale(scale, streak)

    return optax.GradientTransformation(init, update)


def with_loss_scale(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(scale_loss(), tx)


def loss_scale(opt_state: Any) -> jax.Array | None:
    """The scale of the loss; None where the optimizer has none."""
    found = find(opt_state, LossScale)
    return found.scale if found else None


def evaluated_params(opt_state: Any, params: Any) -> Any:
    """The parameters that a schedule-free optimizer evaluates; None for other optimizers.

    Defazio et al. 2024: it trains at one point and evaluates a mean of them.
    """
    found = find(opt_state, optax.contrib.ScheduleFreeState)
    return optax.contrib.schedule_free_eval_params(found, params) if found else None


def find(opt_state: Any, kind: type) -> Any:
    """The part of an optimizer's state that is of a type; None where there is none."""

    def is_one(x: Any) -> bool:
        return isinstance(x, kind)

    return next((x for x in jax.tree.leaves(opt_state, is_leaf=is_one) if is_one(x)), None)


# ------------------------------------------------------------------------------------------ plateau


class Plateau:
    """A rate that falls when evaluations stop getting better: optax's rule on top-1 accuracies.

    `patience` evaluations in a row without a better one multiply the rate by `factor`, down to
    `floor`. `scale` is a part of the optimizer and multiplies the rate; `observe` updates its state
    after an evaluation.
    """

    def __init__(self, factor: float, patience: int, floor: float):
        self._rule = optax.contrib.reduce_on_plateau(
            factor, patience, rtol=0.0, atol=1e-6, min_scale=floor
        )

        def scale(updates, state, params=None):
            return jax.tree.map(lambda u: state.scale * u, updates), state

        self.scale = optax.GradientTransformation(self._rule.init, scale)

    def observe(self, opt_state: Any, top1: float, place: Callable = lambda tree: tree) -> Any:
        """`opt_state` after an evaluation; `place` puts the few new values on the devices."""

        def advance(x):
            return (
                place(self._rule.update({}, jax.device_get(x), value=1 - top1)[1])
                if _is_plateau(x)
                else x
            )

        return jax.tree.map(advance, opt_state, is_leaf=_is_plateau)


def plateau_factor(opt_state: Any) -> float:
    """What a plateau has made of the rate so far; 1 without one."""
    found = find(opt_state, ReduceLROnPlateauState)
    return float(found.scale) if found else 1.0


def _is_plateau(x: Any) -> bool:
    return isinstance(x, ReduceLROnPlateauState)
