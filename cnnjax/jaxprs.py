"""Reads the equations of a traced program (its jaxpr): what they call and what they cost."""

import math
from typing import Any

import numpy as np


def inner(eqn: Any) -> Any:
    """The jaxpr that an equation runs; None for a primitive.

    Of the branches of `lax.platform_dependent` it is the default one, which accelerators run.
    """
    if eqn.primitive.name == "cond":
        platforms = eqn.params.get("branches_platforms")
        closed = eqn.params["branches"][platforms.index(None) if platforms else -1]
    else:
        keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
        closed = next((eqn.params[key] for key in keys if key in eqn.params), None)
    return getattr(closed, "jaxpr", closed)


def multiply_adds(eqn: Any, *, padding: bool = True) -> int | None:
    """The multiply-adds of a convolution or a matrix product; None for all other equations.

    Args:
        eqn: an equation of a jaxpr.
        padding: whether to count products with the zeros of padding and of a dilated image.
    """
    out = eqn.outvars[0].aval
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(out.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if eqn.primitive.name != "conv_general_dilated":
        return None
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in eqn.invars)
    c_in, *window = (kernel[i] for i in numbers.rhs_spec[1:])
    if padding:
        return math.prod(out.shape) * c_in * math.prod(window)
    n, features = (out.shape[i] for i in numbers.out_spec[:2])
    pairs = 1  # of a pixel of the result and a tap of the kernel, axis by axis
    sizes = [image[i] for i in numbers.lhs_spec[2:]]
    places_of = [out.shape[i] for i in numbers.out_spec[2:]]
    for i, (size, taps, places) in enumerate(zip(sizes, window, places_of)):
        stride, (low, _) = params["window_strides"][i], params["padding"][i]
        hole, spread = params["lhs_dilation"][i], params["rhs_dilation"][i]
        at = np.arange(places)[:, None] * stride + np.arange(taps) * spread - low
        pairs *= int(np.sum((at >= 0) & (at % hole == 0) & (at < size * hole)))
    return pairs * n * features * c_in
