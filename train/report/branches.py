"""What each branch of a network contributes: it is set to zero, and the answers change.

Branches are found where the network joins them: a concatenation over channels of what at least two
layers of one block return. So the Inceptions, their residual blocks, reductions and stems need
nothing of their own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from cnnjax import ops
from train.report.explain import exact


class Branch(NamedTuple):
    block: str  # where it is joined to the others
    name: str  # its last layer; "pool" for a pooling alone
    channels: slice  # of the joined map


class Contribution(NamedTuple):
    branch: Branch
    fall: float  # of the mean probability of the network's own answers when the branch is zero
    changed: float  # proportion of the answers that are different then


def branches(model: nn.Module, variables: Any, images: Any) -> list[Branch]:
    """All branches, in the network's order; nothing is computed."""
    _, joins = _trace(exact(model), variables, jnp.asarray(images))
    return [branch for join in joins.values() for branch in join]


def contributions(
    model: nn.Module,
    variables: Any,
    images: Any,
    probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> list[Contribution]:
    """What each branch contributes, in the network's order.

    Args:
        model: the network.
        variables: its variables.
        images: (N, H, W, C), as the network reads them.
        probabilities: of logits.
    """
    images = jnp.asarray(images)
    closed, joins = _trace(exact(model), variables, images)

    @jax.jit
    def answers(variables, images, factors):
        inputs = jax.tree.leaves((variables, images))
        logits = _evaluate(closed.jaxpr, closed.consts, inputs, dict(zip(joins, factors)))[0]
        return probabilities(logits)

    def answer(silent: Branch | None = None) -> np.ndarray:
        factors = [np.ones(join[-1].channels.stop, np.float32) for join in joins.values()]
        for join, of_join in zip(joins.values(), factors):
            if silent is not None and silent in join:
                of_join[silent.channels] = 0
        return np.asarray(answers(variables, images, factors))

    whole = answer()
    classes, rows = whole.argmax(-1), np.arange(len(whole))
    found = []
    for branch in (branch for join in joins.values() for branch in join):
        without = answer(branch)
        fall = (whole[rows, classes] - without[rows, classes]).mean()
        changed = (without.argmax(-1) != classes).mean()
        found.append(Contribution(branch, float(fall), float(changed)))
    return found


def _trace(
    model: nn.Module, variables: Any, images: jax.Array
) -> tuple[Any, dict[int, list[Branch]]]:
    """The network's jaxpr, and by the number of each equation that joins branches what it joins.

    The jaxpr returns the logits, and after them what each layer returns.
    """
    paths: list[str] = []
    if hasattr(model, "remat"):
        model = model.clone(remat=False)  # its blocks' equations would be hidden in a jaxpr each

    def run(variables, images):
        outputs = []

        def listen(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__" and isinstance(out, jax.Array):
                outputs.append(out)
                paths.append("/".join(context.module.path))
            return out

        with nn.intercept_methods(listen), ops.plain():
            logits = model.apply(variables, images, train=False).logits
        return [logits, *outputs]

    closed = jax.make_jaxpr(run)(variables, images)
    made_by: dict[Any, str] = {}  # a block takes precedence over its last layer
    results = zip(closed.jaxpr.outvars[1:], paths)
    for var, path in sorted(results, key=lambda result: result[1].count("/")):
        if not isinstance(var, Literal):
            made_by.setdefault(var, path)
    joins = {}
    for place, eqn in enumerate(closed.jaxpr.eqns):
        if eqn.primitive.name == "concatenate" and eqn.params["dimension"] == images.ndim - 1:
            join = list(_join(eqn, made_by))
            if sum(branch.name != "pool" for branch in join) > 1:
                joins[place] = join
    return closed, joins


def _join(eqn: Any, made_by: dict[Any, str]) -> Iterator[Branch]:
    """What a concatenation joins."""
    made = [made_by.get(var, "") for var in eqn.invars]
    block = next((path for path in made if path), "").rpartition("/")[0]
    start = 0
    for var, path in zip(eqn.invars, made):
        stop = start + var.aval.shape[-1]
        inside = path.removeprefix(f"{block}/") if block else path
        yield Branch(block or "network", inside or "pool", slice(start, stop))
        start = stop


def _evaluate(
    jaxpr: Jaxpr, consts: Any, inputs: list[Any], factors: dict[int, jax.Array]
) -> list[Any]:
    """The jaxpr's results; `factors` has a factor (C,) for the results of some equations."""
    known = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, inputs))

    def value(var):
        return var.val if isinstance(var, Literal) else known[var]

    for place, eqn in enumerate(jaxpr.eqns):
        # jit and custom derivatives run a jaxpr; everything else is a primitive.
        closed = next((x for x in eqn.params.values() if isinstance(x, ClosedJaxpr)), None)
        call = jaxpr_as_fun(closed) if closed else partial(eqn.primitive.bind, **eqn.params)
        out = call(*map(value, eqn.invars))
        out = list(out) if isinstance(out, list | tuple) else [out]
        if place in factors:
            out = [out[0] * factors[place]]
        known |= zip(eqn.outvars, out)
    return [value(var) for var in jaxpr.outvars]
