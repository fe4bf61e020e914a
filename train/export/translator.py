"""A jaxpr of our networks, walked equation by equation into the operations of another library.

What depends on constants alone is computed here, by jax: BatchNorm becomes one factor and one term
for each channel. Only the axis of the batch has a symbolic length; a constant that is repeated
along it keeps the length 1 there, and the operation that reads it repeats it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from cnnjax import ops
from cnnjax.jaxprs import inner
from train.errors import UserError

TRANSPARENT = ("stop_gradient", "copy", "copy_p", "name")


def trace(
    function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: Any
) -> ClosedJaxpr:
    """A function of images (N, *shape), for any number of images, in plain operations."""
    (batch,) = jax.export.symbolic_shape("batch")
    with ops.plain():
        return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *shape), dtype))


class Translator:
    """A subclass has a method `op_…` for each primitive, and `simple` for those that need none.

    A value is a constant (an array), or an instance of `computed`, which stands for what the
    program computes.
    """

    target: str  # its name in messages
    computed: type

    def simple(self, eqn: Any, values: list[Any]) -> Any:
        """The result of an operation that the target has by another name; None for the others."""
        return None

    def unsupported(self, what: str) -> UserError:
        return UserError(f"{self.target}: {what}")

    def translate(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """Adds the equations of a jaxpr; returns its results."""
        known: dict[Any, Any] = {}
        known |= zip(jaxpr.constvars, map(np.asarray, consts))
        known |= zip(jaxpr.invars, inputs)
        for eqn in jaxpr.eqns:
            values = [np.asarray(x.val) if isinstance(x, Literal) else known[x] for x in eqn.invars]
            known |= dict(zip(eqn.outvars, self.equation(eqn, values)))
        return [np.asarray(x.val) if isinstance(x, Literal) else known[x] for x in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[Any]) -> list[Any]:
        """Adds one equation; returns its results."""
        name, jaxpr = eqn.primitive.name, inner(eqn)
        if jaxpr is not None:
            closed = [value for value in eqn.params.values() if isinstance(value, ClosedJaxpr)]
            return self.translate(jaxpr, closed[0].consts if closed else (), values)
        if name in TRANSPARENT:
            return values
        if not any(isinstance(value, self.computed) for value in values):
            return [np.asarray(x) for x in self.constant(eqn, values)]
        if (result := self.simple(eqn, values)) is not None:
            return [result]
        translation = getattr(self, f"op_{name.replace('-', '_')}", None)
        if translation is None:
            raise self.unsupported(f"there is no translation for jax's {name}")
        return [translation(eqn, *values)]

    def constant(self, eqn: Any, values: list[Any]) -> list[Any]:
        """Computes an equation of constants; the length of the batch becomes 1."""
        params = dict(eqn.params)
        for key in ("shape", "new_sizes"):
            if key in params:
                params[key] = tuple(lengths(params[key], of_batch=1))
        out = eqn.primitive.bind(*map(jax.numpy.asarray, values), **params)
        return out if eqn.primitive.multiple_results else [out]

    def check_last_axis(self, eqn: Any, others: Sequence[int], indexed: Sequence[int]) -> None:
        """UserError unless a gather or scatter is along channels."""
        rank = len(eqn.invars[0].aval.shape)
        if (
            tuple(indexed) != (rank - 1,)
            or tuple(others) != tuple(range(rank - 1))
            or len(eqn.invars[1].aval.shape) != 2
        ):
            raise self.unsupported(f"{eqn.primitive.name} is translated along channels only")

    def check_product(self, eqn: Any) -> None:
        """UserError unless a product is over the last and the first axis."""
        contracted, batched = eqn.params["dimension_numbers"]
        rank = len(eqn.invars[0].aval.shape)
        if batched != ((), ()) or tuple(map(tuple, contracted)) != ((rank - 1,), (0,)):
            raise self.unsupported("only products over the last and the first axis")

    def window(self, eqn: Any) -> slice:
        """A pooling's two axes: the middle ones; the last for local response normalisation."""
        p, window = eqn.params, eqn.params["window_dimensions"]
        dilated = {*p["base_dilation"], *p["window_dilation"]} != {1}
        if len(window) != 4 or window[0] != 1 or 1 not in (window[1], window[3]) or dilated:
            raise self.unsupported(f"windows of {window} have no translation")
        return slice(1, 3) if window[3] == 1 else slice(2, 4)


def same(a: Any, b: Any) -> bool:
    """Whether two lengths, of which either may be symbolic, are equal."""
    return bool(a == b)


def lengths(shape: Sequence[Any], of_batch: int) -> list[int]:
    """Lengths of axes as numbers, `of_batch` where they are not."""
    return [int(n) if isinstance(n, int | np.integer) else of_batch for n in shape]
