"""Inception v2: the table of BN-Inception, its heads, and what TF-slim does differently."""

from functools import partial

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.models import inception_v2
from cnnjax.models.layers import Conv, ConvBN, PooledConvBN
from tests.models.shapes import parameters, shapes
from tests.models.values import starting_values

MAPS = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "conv2_reduce": (56, 56, 64),
    "conv2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "mixed3a": (28, 28, 256),
    "mixed3b": (28, 28, 320),
    "mixed3c": (14, 14, 576),
    "mixed4a": (14, 14, 576),
    "mixed4b": (14, 14, 576),
    "mixed4c": (14, 14, 608),
    "mixed4d": (14, 14, 608),
    "mixed4e": (7, 7, 1056),
    "mixed5a": (7, 7, 1024),
    "mixed5b": (7, 7, 1024),
}
SLIM = {"mixed4c": (14, 14, 576), "mixed4d": (14, 14, 576), "mixed4e": (7, 7, 1024)}


def rows(name, **options):
    return analysis.summarize(cnnjax.create_model(name, **options), (224, 224, 3)).layers


def test_maps():
    assert shapes(cnnjax.create_model("inception_v2"), 224)[2] == MAPS
    assert shapes(cnnjax.create_model("inception_v2_slim"), 224)[2] == MAPS | SLIM


def test_pooling_of_each_module():
    pools = {
        row.name.split("/")[0]: row.kind
        for row in rows("inception_v2")
        if row.name.endswith("/pool")
    }
    average, maximum, halving = "average pool 3x3 /1", "max pool 3x3 /1", "max pool 3x3 /2"
    others = {"mixed3c": halving, "mixed4e": halving, "mixed5b": maximum}
    assert pools == {name: average for name in MAPS if name.startswith("mixed")} | others


def test_the_5x5_of_v1_is_two_3x3():
    kinds = {row.kind for row in rows("inception_v2") if "conv" in row.kind}
    assert kinds == {"conv 7x7 /2", "conv 1x1", "conv 3x3", "conv 3x3 /2"}


def test_heads_are_those_of_v1_with_batch_norm():
    variables, outputs, _ = shapes(cnnjax.create_model("inception_v2"), 224, train=True)
    for name, channels in (("aux1", 576), ("aux2", 608)):
        expected = channels * 128 + 2 * 128 + 4 * 4 * 128 * 1024 + 2 * 1024 + 1025 * 1000
        assert analysis.count_parameters(variables["params"][name]) == expected
        assert set(variables["batch_stats"][name]) == {"conv", "fc"}
    assert len(outputs.aux) == 2


def test_widths_of_tf_slim_with_a_plain_first_convolution():
    plain = cnnjax.create_model("inception_v2_slim", separable=False, bn_scale=True)
    summary = analysis.summarize(plain, (224, 224, 3))
    assert summary.parameters == 11_194_984 and round(summary.multiply_adds / 1e9, 4) == 2.0189


def test_classes_of_tf_slim():
    assert parameters(cnnjax.create_model("inception_v2_slim", num_classes=1001), 224) == 11_179_361


def test_separable_convolution_mixes_colours_in_its_second_step_only():
    layer, x = (
        inception_v2.SeparableConv(),
        np.random.default_rng(0).standard_normal((1, 16, 16, 3), np.float32),
    )
    variables = starting_values(jax.eval_shape(layer.init, jax.random.key(0), x))
    kernels = {name: leaf["kernel"].shape for name, leaf in variables["params"].items()}
    assert kernels == {"depthwise": (7, 7, 1, 24), "pointwise": (1, 1, 24, 64)}
    depthwise, pointwise = (
        variables["params"]["depthwise"]["kernel"],
        variables["params"]["pointwise"],
    )
    padded = np.pad(x[0], ((2, 3), (2, 3), (0, 0)))
    maps = np.empty((8, 8, 3, 8))
    for i, j, colour in np.ndindex(8, 8, 3):
        window = padded[2 * i : 2 * i + 7, 2 * j : 2 * j + 7, colour]
        maps[i, j, colour] = np.tensordot(
            window, depthwise.reshape(7, 7, 3, 8)[:, :, colour], axes=2
        )
    expected = np.maximum(maps.reshape(8, 8, 24) @ pointwise["kernel"][0, 0] + pointwise["bias"], 0)
    np.testing.assert_allclose(layer.apply(variables, x)[0], expected, atol=1e-4)


@pytest.mark.parametrize(("padding", "column"), [("caffe", [6, 9, 9, 9]), ("same", [9, 9, 9, 6])])
def test_where_strided_convolutions_pad(padding, column):
    """Eight rows at stride 2 need one of padding: Caffe puts it first, TensorFlow last."""
    conv = Conv(1, (3, 3), 2, inception_v2.EDGES[padding].conv3x3, use_bias=False)
    kernel = {"params": {"kernel": np.ones((3, 3, 1, 1), np.float32)}}
    assert conv.apply(kernel, np.ones((1, 8, 8, 1), np.float32))[0, :, 1, 0].tolist() == column


def test_edges_of_the_average_pools():
    def projection(count_pad):
        """The output of the pooling branch for a constant map."""
        conv, pool_conv = (
            partial(layer, norm=lambda name: lambda x: x) for layer in (ConvBN, PooledConvBN)
        )
        pool_conv = partial(pool_conv, count_pad=count_pad)
        block = inception_v2.Mixed(inception_v2.MODULES["mixed3a"], conv, pool_conv)
        x = np.ones((1, 4, 4, 2), np.float32)
        variables = starting_values(jax.eval_shape(block.init, jax.random.key(0), x))
        return np.asarray(block.apply(variables, x))[0, :, :, -32:]

    plain, counted = projection(False), projection(True)
    np.testing.assert_allclose(plain, np.broadcast_to(plain[1, 1], plain.shape), rtol=1e-5)
    np.testing.assert_allclose(counted[1, 1], plain[1, 1], rtol=1e-5)
    np.testing.assert_allclose(counted[0, 1], plain[1, 1] * 6 / 9, rtol=1e-5)
    np.testing.assert_allclose(counted[0, 0], plain[1, 1] * 4 / 9, rtol=1e-5)


def test_padding_by_name():
    with pytest.raises(ValueError, match="inception_v2's padding='torch' is unknown"):
        rows("inception_v2", padding="torch")
