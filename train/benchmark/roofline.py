"""The roofline: the least time of a program, by its counted work and the measured machine.

Williams, Waterman, Patterson: Roofline, 2009. The counts are of the program's equations, and depend
on neither the machine nor the compiler.
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import jaxprs

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "u8": 1, "f64": 8, "s64": 8}


class Work(NamedTuple):
    """What a program does on one device.

    Attributes:
        multiply_adds: of convolutions and matrix products, without those by the zeros of a padding.
        bytes: traffic that no fusion saves: the program's arguments and results, and the operands
            and results of its convolutions, matrix products and poolings.
        reduced: bytes that go into all-reduces.
    """

    multiply_adds: int
    bytes: int
    reduced: int

    def __add__(self, other: tuple) -> "Work":
        return Work(*(a + b for a, b in zip(self, other)))


class Rates(NamedTuple):
    """What a device reaches.

    Attributes:
        multiply_adds: a second, in a large matrix product.
        bytes: a second, read and written, in a large copy.
    """

    multiply_adds: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """The least time for the work: of its arithmetic or of its traffic, whichever is longer."""
        return max(work.multiply_adds / self.multiply_adds, work.bytes / self.bytes)


def count(function: Callable, *arguments: Any) -> Work:
    """The work of `function(*arguments)`; of one device's share, if the function is mapped.

    Args:
        arguments: trees of arrays or of their shapes.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    variables = {*jaxpr.invars, *jaxpr.outvars}
    return count_equations(jaxpr) + Work(0, sum(map(size, variables)), 0)


def count_equations(jaxpr: Any) -> Work:
    """The work of a jaxpr's equations, without its arguments and results."""
    total = Work(0, 0, 0)
    for eqn in jaxpr.eqns:
        name, called = eqn.primitive.name, jaxprs.inner(eqn)
        if called is not None:
            times = eqn.params.get("length", 1)  # of a scan
            total += Work(*(times * n for n in count_equations(called)))
        elif name.startswith("psum"):
            total += Work(0, 0, sum(map(size, eqn.invars)))
        else:
            products = jaxprs.multiply_adds(eqn, padding=False)
            if products is not None or name.startswith(("reduce_window", "select_and")):
                total += Work(products or 0, sum(map(size, [*eqn.invars, *eqn.outvars])), 0)
    return total


def size(variable: Any) -> int:
    """Bytes of a jaxpr's variable; 0 for the keys of random numbers, whose type has no size."""
    aval = variable.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 0)


def measure(dtype: str = "float32") -> Rates:
    """The best rates of one device: matrix products of this type, copies of float32."""
    on_cpu = jax.default_backend() == "cpu"
    side, length = (2048, 2**26) if on_cpu else (8192, 2**28)
    a, x = jnp.ones((side, side), dtype), jnp.ones(length, jnp.float32)
    product = best_time(jax.jit(lambda a: a @ a), a)
    return Rates(side**3 / product, 2 * x.nbytes / best_time(jax.jit(lambda x: x + 1), x))


def best_time(function: Callable, argument: jax.Array, trials: int = 10) -> float:
    """Seconds of the fastest call, after one that compiles."""
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(trials):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def all_reduces(text: str) -> list[int]:
    """Bytes of the results of each all-reduce in a compiled program's text.

    >>> all_reduces("%a = (f32[3,4]{1,0}, f32[]) all-reduce(%x, %y)")
    [52]
    """
    found = []
    for line in re.findall(r" = (.*) all-reduce(?:-start)?\(", text):
        shapes = re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", line)
        found.append(
            sum(
                BYTES[kind] * math.prod(map(int, filter(None, dims.split(","))))
                for kind, dims in shapes
            )
        )
    return found
