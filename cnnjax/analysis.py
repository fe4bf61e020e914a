"""What a network costs and sees, layer by layer: parameters, multiply-adds, receptive field, activation memory.

Everything is read off one abstract trace (the jaxpr) of `model.apply`, so it holds for any Flax module, the user's own
included. The receptive field follows Araujo, Norris, Sim: Computing receptive fields of CNNs, 2019.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Field(NamedTuple):
    """The part of the input that one cell of a map sees, in pixels along (height, width)."""

    size: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)  # how far apart the parts of neighbouring cells are

    def window(self, kernel: tuple, strides: tuple, dilation: tuple) -> "Field":
        """What a cell sees that is computed from a window of `kernel` cells."""
        if self == WHOLE:
            return WHOLE
        size = tuple(
            s + (k - 1) * d * step
            for s, k, d, step in zip(self.size, kernel, dilation, self.stride)
        )
        return Field(size, tuple(step * s for step, s in zip(self.stride, strides)))

    def union(self, other: "Field") -> "Field":
        """What a cell sees that is computed from one cell of each of two maps."""
        if WHOLE in (self, other):
            return WHOLE
        return Field(
            tuple(map(max, self.size, other.size)), tuple(map(max, self.stride, other.stride))
        )


WHOLE = Field((-1, -1), (0, 0))  # every pixel, behind a dense layer or a global mean


@dataclasses.dataclass
class Layer:
    """One row: a convolution, a dense layer or a pooling with all that follows it up to the next one."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output, without the batch
    parameters: int
    multiply_adds: int
    field: Field
    activation_bytes: int  # the output's, for one image at the compute type


class Summary(NamedTuple):
    """A whole network, for one image."""

    layers: list[Layer]
    parameters: int
    multiply_adds: int
    receptive_field: int  # the longer side of the largest
    activation_bytes: int


def abstract_variables(
    model: nn.Module, input_size: tuple[int, int, int], *, train: bool = False
) -> Any:
    """The variables' shapes, without computing any: `train=True` includes auxiliary heads."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    image = jax.ShapeDtypeStruct((1, *input_size), jnp.float32)
    return jax.eval_shape(lambda keys, image: model.init(keys, image, train=train), keys, image)


def count_parameters(tree: Any) -> int:
    """Trainable values in a tree of parameters (arrays or shapes)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def summarize(model: nn.Module, input_size: tuple[int, int, int]) -> Summary:
    """Traces the inference network on one image of (H, W, C) and sums up what it does."""
    variables = abstract_variables(model, input_size)
    image = jax.ShapeDtypeStruct((1, *input_size), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    layers: list[Layer] = []
    fields: dict[Any, Field] = {jaxpr.jaxpr.invars[-1]: Field()}
    _walk(jaxpr.jaxpr, fields, layers, "")
    leaves = jax.tree.leaves_with_path(variables.get("params", {}))
    params = {_path(path): math.prod(leaf.shape) for path, leaf in leaves}
    _assign(params, layers)
    return Summary(
        layers,
        sum(params.values()),
        sum(layer.multiply_adds for layer in layers),
        max((max(layer.field.size) for layer in layers if layer.field != WHOLE), default=0),
        sum(layer.activation_bytes for layer in layers),
    )


def _path(path: tuple) -> str:
    return "/".join(key.key for key in path)


def _assign(params: dict[str, int], layers: list[Layer]) -> None:
    """Gives each parameter to the last row under its nearest enclosing scope with a row (BatchNorm: its convolution)."""
    for path, size in params.items():
        scope = path
        while scope:
            scope = scope.rpartition("/")[0]
            rows = [
                layer for layer in layers if not scope or f"{layer.name}/".startswith(f"{scope}/")
            ]
            if rows:
                rows[-1].parameters += size
                break


def _inner(eqn) -> Any:
    """The jaxpr that a call-like equation runs on an accelerator, or None for a primitive."""
    if eqn.primitive.name == "cond":
        platforms = eqn.params.get("branches_platforms")
        index = platforms.index(None) if platforms else -1
        return eqn.params["branches"][index]
    return next(
        (eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None
    )


def _walk(jaxpr, fields: dict, layers: list[Layer], prefix: str) -> None:
    """Follows the image through the equations; `fields` maps each variable that depends on it to what it sees."""

    def field_of(var):
        return fields.get(var) if not hasattr(var, "val") else None  # literals see nothing

    for eqn in jaxpr.eqns:
        scope = "/".join(filter(None, (prefix, str(eqn.source_info.name_stack))))
        seen = [field for var in eqn.invars if (field := field_of(var)) is not None]
        if not seen:
            continue
        inner = _inner(eqn)
        if inner is not None:
            closed = inner.jaxpr if hasattr(inner, "jaxpr") else inner
            arguments = eqn.invars[len(eqn.invars) - len(closed.invars) :]
            local = {
                var: f
                for var, arg in zip(closed.invars, arguments)
                if (f := field_of(arg)) is not None
            }
            _walk(closed, local, layers, scope)
            for var, out in zip(closed.outvars, eqn.outvars):
                if not hasattr(var, "val") and var in local:
                    fields[out] = local[var]
            continue
        row = _event(eqn)
        sees = functools.reduce(Field.union, seen)
        if row is not None:
            kind, multiply_adds, window = row
            sees = sees.window(*window)
        out = eqn.outvars[0].aval
        if len(out.shape) < 4 or _is_global(eqn):
            sees = WHOLE
        for var in eqn.outvars:
            fields[var] = sees
        if row is not None:
            name = scope.partition("/")[2] or kind.split()[0]
            size = math.prod(out.shape)
            layers.append(
                Layer(name, kind, out.shape[1:], 0, multiply_adds, sees, size * out.dtype.itemsize)
            )


def _is_global(eqn) -> bool:
    """Whether a reduction takes in the whole map."""
    return eqn.primitive.name.startswith("reduce_") and {1, 2} <= set(eqn.params.get("axes", ()))


def _event(eqn) -> tuple[str, int, tuple] | None:
    """What a row of the table is made of: its kind, its multiply-adds and its window; None for everything else."""
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    none = ((1, 1), (1, 1), (1, 1))
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
        c_in, window = kernel[numbers[1]], tuple(kernel[i] for i in numbers[2:])
        strides, groups = eqn.params["window_strides"], eqn.params["feature_group_count"]
        kind = f"conv {window[0]}x{window[1]}"
        kind += f" /{strides[0]}" if max(strides) > 1 else ""
        kind += f", {groups} groups" if groups > 1 else ""
        multiply_adds = math.prod(out.shape) * c_in * math.prod(window)
        return kind, multiply_adds, (window, strides, eqn.params["rhs_dilation"])
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return (
            "dense",
            math.prod(out.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted),
            none,
        )
    if name.startswith("reduce_window"):
        _, *window, channels = eqn.params["window_dimensions"]
        strides = eqn.params["window_strides"][1:3]
        pool = "max pool" if "max" in name else "average pool"
        kind = (
            f"norm over {channels} channels"
            if channels > 1
            else f"{pool} {window[0]}x{window[1]} /{strides[0]}"
        )
        return kind, 0, (window, strides, (1, 1))
    if _is_global(eqn) and max(eqn.invars[0].aval.shape[1:3]) > 1:
        return "global average", 0, none
    return None
