"""What a program must do at least, counted from its equations, and what this machine can do, measured: the roofline.

Williams, Waterman, Patterson: Roofline, 2009. Counts depend on neither the machine nor the compiler.
"""

import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "u8": 1, "f64": 8, "s64": 8}


class Work(NamedTuple):
    """Of one program on one device."""

    multiply_adds: (
        int  # of convolutions and matrix products, without those by the zeros of a padding
    )
    bytes: int  # what no fusion saves: arguments, results, and operands and results of those and of poolings
    reduced: int  # bytes that all-reduces take in

    def __add__(self, other: tuple) -> "Work":
        return Work(*(a + b for a, b in zip(self, other)))


class Rates(NamedTuple):
    multiply_adds: float  # a second, of a large matrix product
    bytes: float  # a second, read and written, of a large copy

    def seconds(self, work: Work) -> float:
        """The least time that the work takes: its arithmetic, or its traffic, whichever is longer."""
        return max(work.multiply_adds / self.multiply_adds, work.bytes / self.bytes)


def count(function: Callable, *arguments: Any) -> Work:
    """What `function(*arguments)` does, each argument a tree of arrays or shapes; of one device's share, if it is mapped."""
    closed = jax.make_jaxpr(function)(*arguments)
    variables = {*closed.jaxpr.invars, *closed.jaxpr.outvars}
    return _count(closed.jaxpr) + Work(0, sum(map(_size, variables)), 0)


def _size(variable: Any) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * getattr(
        aval.dtype, "itemsize", 0
    )  # keys of random numbers have none


def _count(jaxpr: Any) -> Work:
    total = Work(0, 0, 0)
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "cond":  # by platform: what accelerators run
            platforms = params.get("branches_platforms")
            total += _count(params["branches"][platforms.index(None) if platforms else -1].jaxpr)
            continue
        inner = next(
            (params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None
        )
        if inner is not None:
            times = params.get("length", 1)  # of a scan
            total += Work(*(times * n for n in _count(getattr(inner, "jaxpr", inner))))
            continue
        if name.startswith("psum"):
            total += Work(0, 0, sum(map(_size, eqn.invars)))
        elif (products := _products(eqn)) is not None:
            total += Work(products, sum(map(_size, [*eqn.invars, *eqn.outvars])), 0)
    return total


def _products(eqn: Any) -> int | None:
    """Multiply-adds of an equation that reads and writes memory whatever is fused; None for all others."""
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if name == "conv_general_dilated":
        params, numbers = eqn.params, eqn.params["dimension_numbers"]
        image, kernel = (v.aval.shape for v in eqn.invars)
        pairs = math.prod(
            _pairs(image[i], kernel[k], out.shape[o], stride, pad, hole, spread)
            for i, k, o, stride, (pad, _), hole, spread in zip(
                numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], params["window_strides"], params["padding"],
                params["lhs_dilation"], params["rhs_dilation"],
            )
        )  # fmt: skip
        n, features = (out.shape[i] for i in numbers.out_spec[:2])
        return pairs * n * features * kernel[numbers.rhs_spec[1]]
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(out.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return 0 if name.startswith(("reduce_window", "select_and")) else None


def _pairs(image: int, kernel: int, out: int, stride: int, pad: int, hole: int, spread: int) -> int:
    """How many products of one output row or column meet the image: not its padding, nor the holes of a dilated one."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * spread - pad
    return int(np.sum((at >= 0) & (at % hole == 0) & (at < image * hole)))


def measure(dtype: str = "float32") -> Rates:
    """What one device reaches at its best of several trials, in matrix products of this type and in copies of float32."""
    large = jax.default_backend() != "cpu"
    side, length = (8192, 2**28) if large else (2048, 2**26)
    a = jnp.ones((side, side), dtype)
    product = _best(jax.jit(lambda a: a @ a), a)
    x = jnp.ones(length, jnp.float32)
    return Rates(side**3 / product, 2 * x.nbytes / _best(jax.jit(lambda x: x + 1), x))


def _best(function: Callable, argument: jax.Array, trials: int = 10) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(trials):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def all_reduces(text: str) -> list[int]:
    """Bytes of the results of each all-reduce in a compiled program's text: '(f32[3,4]{1,0}, f32[]) all-reduce(…'."""
    found = []
    for line in re.findall(r" = (.*) all-reduce(?:-start)?\(", text):
        shapes = re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", line)
        found.append(
            sum(
                BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in shapes
            )
        )
    return found
