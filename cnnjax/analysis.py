"""What a network costs and sees, layer by layer: parameters, multiply-adds, receptive fields and
activation memory.

All figures come from one abstract trace (the jaxpr) of `model.apply`, so they exist for any Flax
module. Receptive fields follow Araujo, Norris, Sim: Computing receptive fields of convolutional
neural networks, 2019.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import jaxprs, trees
from cnnjax.ops import plain


class Field(NamedTuple):
    """A receptive field: the part of the input that a cell of a map sees, as (height, width).

    Attributes:
        size: in pixels.
        stride: the distance in pixels of the fields of neighbouring cells.
    """

    size: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)

    def window(self, kernel: tuple, strides: tuple, dilation: tuple) -> "Field":
        """The field of a cell that is computed from a window of `kernel` cells."""
        if self == WHOLE:
            return WHOLE
        axes = zip(self.size, kernel, dilation, self.stride)
        size = tuple(s + (k - 1) * d * step for s, k, d, step in axes)
        return Field(size, tuple(step * s for step, s in zip(self.stride, strides)))

    def union(self, other: "Field") -> "Field":
        """The field of a cell that is computed from one cell of each of two maps."""
        if WHOLE in (self, other):
            return WHOLE
        size, stride = map(max, self.size, other.size), map(max, self.stride, other.stride)
        return Field(tuple(size), tuple(stride))


WHOLE = Field((-1, -1), (0, 0))  # the whole image: after a dense layer or a global mean


@dataclasses.dataclass
class Layer:
    """One row: a convolution, dense layer or pooling, and what follows it up to the next row."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output, without the batch axis
    parameters: int
    multiply_adds: int
    field: Field
    activation_bytes: int  # size of the output for one image, in the compute type


class Summary(NamedTuple):
    """The figures of a network, for one image."""

    layers: list[Layer]
    parameters: int
    multiply_adds: int
    receptive_field: int  # the longest side of all layers' fields, in pixels
    activation_bytes: int


def abstract_variables(
    model: nn.Module, input_size: tuple[int, int, int], *, train: bool = False
) -> Any:
    """The shapes of a model's variables, as `jax.ShapeDtypeStruct`s. Nothing is computed.

    `train=True` includes the auxiliary heads. `input_size` is (H, W, C).
    """
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    image = jax.ShapeDtypeStruct((1, *input_size), jnp.float32)
    with plain():  # which trace in half the time
        return jax.eval_shape(lambda keys, image: model.init(keys, image, train=train), keys, image)


def count_parameters(tree: Any) -> int:
    """The number of values in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def summarize(model: nn.Module, input_size: tuple[int, int, int]) -> Summary:
    """Traces the inference network on one image and adds up its cost.

    Args:
        model: any Flax module; `apply` takes (variables, images, train=False).
        input_size: (H, W, C) of the image.

    Returns:
        The layers in the order of computation, and the totals.

    Raises:
        ValueError: the image is smaller than the network allows.

    >>> summary = cnnjax.analysis.summarize(cnnjax.create_model("lenet5"), (32, 32, 1))
    >>> summary.parameters, summary.multiply_adds, summary.receptive_field
    (61706, 416520, 32)
    """
    variables = abstract_variables(model, input_size)
    image = jax.ShapeDtypeStruct((1, *input_size), jnp.float32)
    with plain():
        jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    layers: list[Layer] = []
    fields: dict[Any, Field] = {jaxpr.jaxpr.invars[-1]: Field()}
    _walk(jaxpr.jaxpr, fields, layers, "")
    leaves = trees.flatten(variables.get("params", {})).items()
    params = {path: math.prod(leaf.shape) for path, leaf in leaves}
    _assign(params, layers)
    return Summary(
        layers,
        sum(params.values()),
        sum(layer.multiply_adds for layer in layers),
        max((max(layer.field.size) for layer in layers if layer.field != WHOLE), default=0),
        sum(layer.activation_bytes for layer in layers),
    )


def _assign(params: dict[str, int], layers: list[Layer]) -> None:
    """Adds each parameter to a row: to its own layer's, else to the last one in the smallest scope
    around it that has a row.

    A BatchNorm's parameters thus count with its convolution.
    """
    for path, size in params.items():
        scope = path
        while scope:
            scope = scope.rpartition("/")[0]
            inside = [row for row in layers if not scope or f"{row.name}/".startswith(f"{scope}/")]
            if inside:
                own = (row for row in inside if row.name == scope)
                next(own, inside[-1]).parameters += size
                break


def _walk(jaxpr: Any, fields: dict[Any, Field], layers: list[Layer], prefix: str) -> None:
    """Follows the image through the equations of a jaxpr and appends to `layers`.

    `fields` has the receptive field of each variable that depends on the image.
    """

    def fields_of(variables):
        """The fields of those variables that have one; literals (with a `val`) have none."""
        known = ((i, v) for i, v in enumerate(variables) if not hasattr(v, "val"))
        return {i: fields[v] for i, v in known if v in fields}

    for eqn in jaxpr.eqns:
        scope = "/".join(filter(None, (prefix, str(eqn.source_info.name_stack))))
        arguments = fields_of(eqn.invars)
        if not arguments:
            continue
        inner = jaxprs.inner(eqn)
        if inner is not None:
            first = len(eqn.invars) - len(inner.invars)  # a `cond` has its index before them
            local = {inner.invars[i - first]: f for i, f in arguments.items() if i >= first}
            _walk(inner, local, layers, scope)
            for var, out in zip(inner.outvars, eqn.outvars):
                if not hasattr(var, "val") and var in local:
                    fields[out] = local[var]
            continue
        row, out = _row(eqn), eqn.outvars[0].aval
        field = functools.reduce(Field.union, arguments.values())
        if row is not None:
            field = field.window(*row.window)
        if len(out.shape) < 4 or _is_global(eqn):
            field = WHOLE
        fields |= dict.fromkeys(eqn.outvars, field)
        if row is not None:
            name = scope.partition("/")[2] or row.kind.split()[0]
            size = math.prod(out.shape) * out.dtype.itemsize
            multiply_adds = jaxprs.multiply_adds(eqn) or 0
            layers.append(Layer(name, row.kind, out.shape[1:], 0, multiply_adds, field, size))


def _is_global(eqn) -> bool:
    """Whether an equation reduces the whole map."""
    return eqn.primitive.name.startswith("reduce_") and {1, 2} <= set(eqn.params.get("axes", ()))


class _Row(NamedTuple):
    """An equation that makes a row of the table."""

    kind: str
    window: tuple[tuple, tuple, tuple] = ((1, 1), (1, 1), (1, 1))  # kernel, strides, dilation


def _row(eqn) -> _Row | None:
    """The row of an equation; None for an equation that belongs to the row before it."""
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
        window, strides = tuple(kernel[i] for i in numbers[2:]), eqn.params["window_strides"]
        kind = f"conv {window[0]}x{window[1]}"
        kind += f" /{strides[0]}" if max(strides) > 1 else ""
        groups = eqn.params["feature_group_count"]
        kind += f", {groups} groups" if groups > 1 else ""
        return _Row(kind, (window, strides, eqn.params["rhs_dilation"]))
    if name == "dot_general":
        return _Row("dense")
    if name.startswith("reduce_window"):
        _, *window, channels = eqn.params["window_dimensions"]
        strides = eqn.params["window_strides"][1:3]
        pool = "max pool" if "max" in name else "average pool"
        kind = f"{pool} {window[0]}x{window[1]} /{strides[0]}"
        if channels > 1:
            kind = f"norm over {channels} channels"
        return _Row(kind, (tuple(window), strides, (1, 1)))
    if _is_global(eqn) and max(eqn.invars[0].aval.shape[1:3]) > 1:
        return _Row("global average")
    return None
