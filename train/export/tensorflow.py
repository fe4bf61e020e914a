"""A network as a TensorFlow program, written from its jaxpr: the source of SavedModel and TFLite.

It is made of TensorFlow's own operations, which every version reads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from train.data.tf import tf
from train.export.translator import Translator, lengths, same, trace

# fmt: off
SAME = {
    "add": tf.add, "sub": tf.subtract, "mul": tf.multiply, "div": tf.divide, "max": tf.maximum,
    "min": tf.minimum, "pow": tf.pow, "exp": tf.exp, "log": tf.math.log, "tanh": tf.tanh,
    "logistic": tf.sigmoid, "sqrt": tf.sqrt, "rsqrt": tf.math.rsqrt, "square": tf.square,
    "neg": tf.negative, "abs": tf.abs, "floor": tf.floor,
}
REDUCTIONS = {
    "reduce_sum": tf.reduce_sum, "reduce_max": tf.reduce_max, "reduce_min": tf.reduce_min,
}
# fmt: on


def to_tensorflow(
    function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: Any
) -> tf.Module:
    """A function of images as a module of TensorFlow, for any number of images.

    Args:
        function: images (N, *shape) to probabilities; the values that it holds become constants.
        shape: of one image.
        dtype: of the images.

    Returns:
        A module whose function `answer` maps `images` to {"probabilities"}.

    Raises:
        UserError: there is no translation for an operation; the message names it.
    """
    closed = trace(function, shape, dtype)
    module = tf.Module()

    def answer(images):
        (out,) = Program().translate(closed.jaxpr, closed.consts, [images])
        return {"probabilities": out}

    spec = tf.TensorSpec((None, *shape), dtype, "images")
    module.answer = tf.function(answer, input_signature=[spec], autograph=False)
    return module


class Program(Translator):
    """Operations of TensorFlow on tensors (N, H, W, C)."""

    target = "TensorFlow"
    computed = tf.Tensor

    def simple(self, eqn: Any, values: list[Any]) -> Any:
        name = eqn.primitive.name
        if name in REDUCTIONS:
            return REDUCTIONS[name](values[0], list(eqn.params["axes"]))
        return SAME[name](*values) if name in SAME else None

    def op_convert_element_type(self, eqn: Any, x: Any) -> Any:
        return tf.cast(x, np.dtype(eqn.params["new_dtype"]))

    def op_integer_pow(self, eqn: Any, x: Any) -> Any:
        return tf.pow(x, np.asarray(eqn.params["y"], eqn.invars[0].aval.dtype))

    def op_select_n(self, eqn: Any, which: Any, *cases: Any) -> Any:
        if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
            raise self.unsupported("a choice is between two")
        return tf.where(which, cases[1], cases[0])

    def op_reshape(self, eqn: Any, x: Any) -> Any:
        return tf.reshape(x, lengths(eqn.params["new_sizes"], of_batch=-1))

    def op_squeeze(self, eqn: Any, x: Any) -> Any:
        return tf.squeeze(x, list(eqn.params["dimensions"]))

    def op_broadcast_in_dim(self, eqn: Any, x: Any, *_: Any) -> Any:
        shape = eqn.params["shape"]
        known = dict(zip(eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape))
        before = [known.get(i, 1) for i in range(len(shape))]
        x = tf.reshape(x, lengths(before, of_batch=-1))
        times = [
            1 if same(have, want) or not isinstance(want, int) else want
            for have, want in zip(before, shape)
        ]
        return x if set(times) == {1} else tf.tile(x, times)

    def op_transpose(self, eqn: Any, x: Any) -> Any:
        return tf.transpose(x, eqn.params["permutation"])

    def op_rev(self, eqn: Any, x: Any) -> Any:
        return tf.reverse(x, list(eqn.params["dimensions"]))

    def op_slice(self, eqn: Any, x: Any) -> Any:
        p, shape = eqn.params, eqn.invars[0].aval.shape
        steps = p["strides"] or [1] * len(shape)
        ends = [None if same(b, n) else int(b) for b, n in zip(p["limit_indices"], shape)]
        return x[tuple(map(slice, map(int, p["start_indices"]), ends, map(int, steps)))]

    def op_concatenate(self, eqn: Any, *parts: Any) -> Any:
        if not all(isinstance(part, tf.Tensor) for part in parts):
            raise self.unsupported("constants cannot be appended to images")
        return tf.concat(parts, eqn.params["dimension"])

    def op_gather(self, eqn: Any, x: Any, places: np.ndarray) -> Any:
        """Channels by their places, (M, 1)."""
        numbers = eqn.params["dimension_numbers"]
        self.check_last_axis(eqn, numbers.offset_dims, numbers.start_index_map)
        return tf.gather(x, places[:, 0], axis=-1)

    def op_scatter_add(self, eqn: Any, x: np.ndarray, places: np.ndarray, channels: Any) -> Any:
        """Adds channels at their places (M, 1), as a product with a matrix of ones and zeros."""
        numbers = eqn.params["dimension_numbers"]
        self.check_last_axis(eqn, numbers.update_window_dims, numbers.scatter_dims_to_operand_dims)
        out = eqn.outvars[0].aval
        return tf.matmul(channels, (places == np.arange(out.shape[-1])).astype(out.dtype)) + x

    def op_pad(self, eqn: Any, x: Any, value: np.ndarray) -> Any:
        low, high, inside = zip(*eqn.params["padding_config"])
        if any(inside):
            raise self.unsupported("padding between cells has no translation")
        return tf.pad(x, list(zip(low, high)), constant_values=value)

    def op_dot_general(self, eqn: Any, a: Any, b: Any) -> Any:
        self.check_product(eqn)
        return tf.matmul(a, b)

    def op_conv_general_dilated(self, eqn: Any, x: Any, kernel: Any) -> Any:
        p = eqn.params
        if {*p["lhs_dilation"], p["batch_group_count"]} != {1}:
            raise self.unsupported("a convolution has no dilated images")
        images, kernels, out = p["dimension_numbers"]
        x = tf.transpose(x, (images[0], *images[2:], images[1]))
        kernel = tf.transpose(kernel, (*kernels[2:], kernels[1], kernels[0]))
        x, padding = padded(x, p["padding"], p["window_strides"], kernel.shape[:2], 0.0)
        groups, how = p["feature_group_count"], dict(dilations=p["rhs_dilation"])
        parts = [
            tf.nn.conv2d(part, weights, p["window_strides"], padding, **how)
            for part, weights in zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1))
        ]
        y = parts[0] if groups == 1 else tf.concat(parts, -1)
        places = {out[0]: 0, out[2]: 1, out[3]: 2, out[1]: 3}
        return tf.transpose(y, [places[i] for i in range(4)])

    def op_reduce_window_max(self, eqn: Any, x: Any) -> Any:
        return self.pool(eqn, tf.nn.max_pool2d, x, -float(np.finfo(np.float32).max))

    def op_reduce_window_sum(self, eqn: Any, x: Any) -> Any:
        """A mean over zeros and cells, times their number."""
        if eqn.params["window_dimensions"][3] != 1:
            return self.sum_of_channels(eqn, x)
        cells = np.prod(eqn.params["window_dimensions"])
        return cells * self.pool(eqn, tf.nn.avg_pool2d, x, 0.0, exact=True)

    def pool(self, eqn: Any, kind: Callable, x: Any, fill: float, exact: bool = False) -> Any:
        p, axes = eqn.params, self.window(eqn)
        if axes != slice(1, 3):
            raise self.unsupported("maxima are pooled over places")
        size, strides = p["window_dimensions"][axes], p["window_strides"][axes]
        x, padding = padded(x, p["padding"][axes], strides, size, fill, always=exact)
        return kind(x, size, strides, padding)

    def sum_of_channels(self, eqn: Any, x: Any) -> Any:
        """Over neighbouring channels, as local response normalisation has it."""
        self.window(eqn)
        size, channels = eqn.params["window_dimensions"][3], eqn.outvars[0].aval.shape[3]
        x = tf.pad(x, [(0, 0)] * 3 + [tuple(map(int, eqn.params["padding"][3]))])
        return tf.add_n([x[..., i : i + channels] for i in range(size)])


def padded(
    x: Any,
    pads: Sequence[tuple[int, int]],
    strides: Sequence[int],
    window: Sequence[int],
    fill: float,
    *,
    always: bool = False,
) -> tuple[Any, str]:
    """(images, "SAME" or "VALID"): padded here where TensorFlow's own "SAME" is another one.

    "SAME" keeps the fill value out of the ranges that are quantised.
    """
    if not any(map(any, pads)):
        return x, "VALID"
    shape = x.shape[1:3]
    usual = []
    for n, s, k in zip(shape, strides, window):
        total = max(0, (-(-n // s) - 1) * s + k - n)
        usual.append((total // 2, total - total // 2))
    if not always and [tuple(map(int, pair)) for pair in pads] == usual:
        return x, "SAME"
    pairs = [tuple(map(int, pair)) for pair in pads]
    return tf.pad(x, [(0, 0), *pairs, (0, 0)], constant_values=fill), "VALID"
