"""A network as an ONNX graph, written from its jaxpr: the operations that our networks are made of.

ONNX has channels before places, so each convolution and pooling stands between two transpositions,
most of which runtimes remove.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from train.export.translator import Translator, lengths, same, trace

OPSET = 18  # the first that takes the axes of reductions as an input
IR_VERSION = 9  # which runtimes since 2023 read
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]

# Operations of one and of two arguments that ONNX has by another name.
# fmt: off
SAME = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "pow": "Pow", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid",
    "sqrt": "Sqrt", "neg": "Neg", "abs": "Abs", "floor": "Floor",
}
# fmt: on
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


class Named(str):
    """The name of a value that the graph computes; constants are arrays."""


Value = Named | np.ndarray


def to_onnx(
    function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: Any, name: str
) -> onnx.ModelProto:
    """A function of images as an ONNX model, for any number of images.

    Args:
        function: images (N, *shape) to probabilities; the values that it holds become constants.
        shape: of one image.
        dtype: of the images.
        name: of the graph.

    Raises:
        UserError: there is no translation for an operation; the message names it.
    """
    closed = trace(function, shape, dtype)
    graph = Graph()
    (out,) = graph.translate(closed.jaxpr, closed.consts, [Named("images")])
    graph.node("Identity", out, name="probabilities")
    inputs = [_of_batch("images", closed.in_avals[0])]
    outputs = [_of_batch("probabilities", closed.out_avals[0])]
    proto = helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        proto, opset_imports=[opset], ir_version=IR_VERSION, producer_name="cnnjax"
    )


def _of_batch(name: str, aval: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
    return helper.make_tensor_value_info(name, kind, ["batch", *aval.shape[1:]])


class Graph(Translator):
    """The nodes and constants of an ONNX graph, in the order in which they are added."""

    target = "ONNX"
    computed = Named

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        # By the id of an array: its name, and the array itself, which keeps the id its own.
        self._names: dict[int, tuple[str, np.ndarray]] = {}
        self._count = 0

    def node(
        self, kind: str, *inputs: Value | Sequence[int], name: str = "", **attributes: Any
    ) -> Named:
        """Adds a node; returns the name of its result."""
        self._count += 1
        out = Named(name or f"{kind.lower()}{self._count}")
        self.nodes.append(
            helper.make_node(kind, [self.named(x) for x in inputs], [out], **attributes)
        )
        return out

    def named(self, value: Any) -> str:
        """The name of a value; a constant is added on its first use."""
        if isinstance(value, Named):
            return value
        if id(value) not in self._names:
            name = f"constant{len(self.constants)}"
            dtype = np.int64 if isinstance(value, list | tuple) else None
            array = np.asarray(value, dtype, order="C")
            self.constants.append(numpy_helper.from_array(array, name))
            self._names[id(value)] = (name, value)
        return self._names[id(value)][0]

    def simple(self, eqn: Any, values: list[Value]) -> Value | None:
        name = eqn.primitive.name
        if name in SAME:
            return self.node(SAME[name], *values)
        if name in REDUCTIONS:
            return self.node(REDUCTIONS[name], values[0], list(eqn.params["axes"]), keepdims=0)
        return None

    # One for each primitive

    def op_convert_element_type(self, eqn: Any, x: Named) -> Value:
        if eqn.invars[0].aval.dtype == eqn.params["new_dtype"]:
            return x
        return self.node(
            "Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
        )

    def op_square(self, eqn: Any, x: Named) -> Value:
        return self.node("Mul", x, x)

    def op_integer_pow(self, eqn: Any, x: Named) -> Value:
        return self.node("Pow", x, np.asarray(eqn.params["y"], eqn.invars[0].aval.dtype))

    def op_rsqrt(self, eqn: Any, x: Named) -> Value:
        return self.node("Reciprocal", self.node("Sqrt", x))

    def op_select_n(self, eqn: Any, which: Value, *cases: Value) -> Value:
        if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
            raise self.unsupported("a choice is between two")
        return self.node("Where", which, cases[1], cases[0])

    def op_reshape(self, eqn: Any, x: Named) -> Value:
        return self.node("Reshape", x, lengths(eqn.params["new_sizes"], of_batch=-1))

    def op_squeeze(self, eqn: Any, x: Named) -> Value:
        return self.node("Squeeze", x, list(eqn.params["dimensions"]))

    def op_broadcast_in_dim(self, eqn: Any, x: Named, *_: Value) -> Value:
        shape = eqn.params["shape"]
        known = dict(zip(eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape))
        before = [known.get(i, 1) for i in range(len(shape))]
        reshaped = self.node("Reshape", x, lengths(before, of_batch=-1))
        if all(map(same, before, shape)):
            return reshaped
        return self.node("Expand", reshaped, lengths(shape, of_batch=1))

    def op_transpose(self, eqn: Any, x: Named) -> Value:
        return self.node("Transpose", x, perm=list(eqn.params["permutation"]))

    def op_rev(self, eqn: Any, x: Named) -> Value:
        axes = list(eqn.params["dimensions"])
        ends = [np.iinfo(np.int64).min] * len(axes)
        return self.node("Slice", x, [-1] * len(axes), ends, axes, [-1] * len(axes))

    def op_slice(self, eqn: Any, x: Named) -> Value:
        starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
        steps, shape = eqn.params["strides"] or [1] * len(starts), eqn.invars[0].aval.shape
        cut = [
            i
            for i in range(len(starts))
            if starts[i] != 0 or not same(ends[i], shape[i]) or steps[i] != 1
        ]
        if not cut:
            return x
        starts, ends, steps = ([int(values[i]) for i in cut] for values in (starts, ends, steps))
        return self.node("Slice", x, starts, ends, cut, steps)

    def op_concatenate(self, eqn: Any, *parts: Value) -> Value:
        if not all(isinstance(part, Named) for part in parts):
            raise self.unsupported("constants cannot be appended to images")
        return self.node("Concat", *parts, axis=eqn.params["dimension"])

    def op_gather(self, eqn: Any, x: Named, places: np.ndarray) -> Value:
        """Channels by their places, (M, 1)."""
        numbers = eqn.params["dimension_numbers"]
        self.check_last_axis(eqn, numbers.offset_dims, numbers.start_index_map)
        return self.node("Gather", x, places[:, 0].astype(np.int64), axis=-1)

    def op_scatter_add(self, eqn: Any, x: np.ndarray, places: np.ndarray, channels: Named) -> Value:
        """Adds channels at their places (M, 1), as a product with a matrix of ones and zeros."""
        numbers = eqn.params["dimension_numbers"]
        self.check_last_axis(eqn, numbers.update_window_dims, numbers.scatter_dims_to_operand_dims)
        out = eqn.outvars[0].aval
        onto = (places == np.arange(out.shape[-1])).astype(out.dtype)
        return self.node("Add", self.node("MatMul", channels, onto), x)

    def op_pad(self, eqn: Any, x: Named, value: np.ndarray) -> Value:
        low, high, inside = zip(*eqn.params["padding_config"])
        if any(inside):
            raise self.unsupported("padding between cells has no translation")
        return self.node("Pad", x, [*map(int, low), *map(int, high)], np.asarray(value))

    def op_dot_general(self, eqn: Any, a: Value, b: Value) -> Value:
        self.check_product(eqn)
        return self.node("MatMul", a, b)

    def op_conv_general_dilated(self, eqn: Any, x: Named, kernel: Value) -> Value:
        p = eqn.params
        if isinstance(kernel, Named) or {*p["lhs_dilation"], p["batch_group_count"]} != {1}:
            raise self.unsupported("a convolution has a constant kernel and no dilated images")
        images, kernels, out = p["dimension_numbers"]
        x = self.node("Transpose", x, perm=list(images))
        y = self.node(
            "Conv",
            x,
            np.transpose(kernel, kernels),
            strides=list(p["window_strides"]),
            group=p["feature_group_count"],
            pads=_pads(p["padding"]),
            dilations=list(p["rhs_dilation"]),
        )
        return self.node("Transpose", y, perm=[int(i) for i in np.argsort(out)])

    def op_reduce_window_max(self, eqn: Any, x: Named) -> Value:
        return self.pool(eqn, "MaxPool", x)

    def op_reduce_window_sum(self, eqn: Any, x: Named) -> Value:
        """A mean that counts the padding, which is zero, times the number of cells."""
        mean = self.pool(eqn, "AveragePool", x, count_include_pad=1)
        cells = np.prod(eqn.params["window_dimensions"])
        return self.node("Mul", mean, np.asarray(cells, eqn.outvars[0].aval.dtype))

    def pool(self, eqn: Any, kind: str, x: Named, **attributes: Any) -> Named:
        """Over the middle two axes or, for local response normalisation, over the last two."""
        p, window, axes = eqn.params, eqn.params["window_dimensions"], self.window(eqn)
        attributes |= {
            "kernel_shape": list(window[axes]),
            "strides": list(p["window_strides"][axes]),
            "pads": _pads(p["padding"][axes]),
        }
        if window[3] != 1:
            return self.node(kind, x, **attributes)
        y = self.node(kind, self.node("Transpose", x, perm=TO_CHANNELS_FIRST), **attributes)
        return self.node("Transpose", y, perm=TO_CHANNELS_LAST)


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [int(low) for low, _ in pairs] + [int(high) for _, high in pairs]
