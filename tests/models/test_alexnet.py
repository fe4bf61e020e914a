"""AlexNet: the table of the paper, its normalisation, towers and starting values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.models.layers import local_response_norm
from cnnjax.ops.pooling import adaptive_avg_pool
from cnnjax.stages import apply_with_stages
from tests.models.shapes import shapes
from tests.models.values import starting_values


def values(model, side, channels=3):
    """Variables for a model, and an image."""
    variables = starting_values(analysis.abstract_variables(model, (side, side, channels)))
    return variables, np.random.default_rng(1).standard_normal(
        (1, side, side, channels), np.float32
    )


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        (
            "alexnet",
            227,
            [
                (27, 27, 96),
                (13, 13, 256),
                (13, 13, 384),
                (13, 13, 384),
                (6, 6, 256),
                (4096,),
                (4096,),
            ],
        ),
        (
            "alexnet_owt",
            224,
            [
                (27, 27, 64),
                (13, 13, 192),
                (13, 13, 384),
                (13, 13, 256),
                (6, 6, 256),
                (4096,),
                (4096,),
            ],
        ),
    ],
)
def test_maps(name, side, expected):
    _, _, maps = shapes(cnnjax.create_model(name), side)
    assert maps == dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"), expected))


def test_layers_of_the_paper():
    """Parameters and multiply-adds of each layer, from the shapes in the paper and Caffe's file."""
    summary = analysis.summarize(cnnjax.create_model("alexnet"), (227, 227, 3))
    rows = {
        row.name.split("/")[0]: (row.parameters, row.multiply_adds)
        for row in summary.layers
        if row.multiply_adds
    }
    assert rows == {
        "conv1": (34_944, 105_415_200),
        "conv2": (307_456, 223_948_800),
        "conv3": (885_120, 149_520_384),
        "conv4": (663_936, 112_140_288),
        "conv5": (442_624, 74_760_192),
        "fc6": (37_752_832, 37_748_736),
        "fc7": (16_781_312, 16_777_216),
        "head": (4_097_000, 4_096_000),
    }


def test_local_response_norm_is_the_papers_formula():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 11), np.float32) * 30
    expected = np.empty_like(x)
    for n, h, w, i in np.ndindex(x.shape):
        total = sum(x[n, h, w, j] ** 2 for j in range(max(0, i - 2), min(10, i + 2) + 1))
        expected[n, h, w, i] = x[n, h, w, i] / (2 + 1e-4 * total) ** 0.75
    np.testing.assert_allclose(local_response_norm(x), expected, rtol=1e-6)


def test_local_response_norm_in_bfloat16_sums_in_float32():
    x = jnp.full((1, 1, 1, 5), 300.0, jnp.bfloat16)
    y = local_response_norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(y[0, 0, 0, 2]), 300 / (2 + 1e-4 * 5 * 300**2) ** 0.75, rtol=4e-3
    )


def test_normalisation_can_be_switched_off():
    def rows(**options):
        model = cnnjax.create_model("alexnet", **options)
        return analysis.summarize(model, (227, 227, 3)).layers

    assert [row.name for row in rows() if "lrn" in row.name] == ["conv1/lrn", "conv2/lrn"]
    without = [row.kind for row in rows() if "lrn" not in row.name]
    assert [row.kind for row in rows(lrn=False)] == without


def test_towers_meet_in_conv3():
    """The first tower's kernels of conv1 reach the first half of conv2 and all of conv3."""
    # LRN would mix the channels next to the border between the towers.
    model = cnnjax.create_model("alexnet", num_classes=2, lrn=False)
    variables, image = values(model, 67)

    @jax.jit
    def maps(params, first_tower):
        factor = jnp.where(jnp.arange(96) < 48, first_tower, 1.0)
        params = params | {"conv1": jax.tree.map(lambda leaf: leaf * factor, params["conv1"])}
        return apply_with_stages(model, {"params": params}, image)[1]

    one, other = (maps(variables["params"], factor) for factor in (1.0, 2.0))
    moved = {name: np.any(one[name] != other[name], axis=(0, 1, 2)) for name in ("conv2", "conv3")}
    assert moved["conv2"][:128].any() and not moved["conv2"][128:].any()
    assert moved["conv3"][:192].any() and moved["conv3"][192:].any()


def convolutions(name, side):
    """Initial values of the convolutions. Those of the dense layers would take seconds."""

    def init(key):
        params = cnnjax.create_model(name, num_classes=2).init(key, jnp.zeros((1, side, side, 3)))[
            "params"
        ]
        return {
            layer: leaves["conv"] for layer, leaves in params.items() if layer.startswith("conv")
        }

    return jax.jit(init)(jax.random.key(0))


def test_starting_values_of_the_paper():
    layers = convolutions("alexnet", 67)
    biases = [np.unique(layers[f"conv{i}"]["bias"]).tolist() for i in (1, 2, 3, 4, 5)]
    assert biases == [[0], [1], [0], [1], [1]]
    for layer in layers.values():
        assert np.std(layer["kernel"]) == pytest.approx(0.01, rel=0.02)


def test_starting_values_of_torchvision():
    fan_in = {
        "conv1": 11 * 11 * 3,
        "conv2": 5 * 5 * 64,
        "conv3": 3 * 3 * 192,
        "conv4": 3 * 3 * 384,
        "conv5": 3 * 3 * 256,
    }
    layers = convolutions("alexnet_owt", 63)
    for name, size in fan_in.items():
        for leaf in layers[name].values():
            assert 0.9 < np.abs(leaf).max() * size**0.5 <= 1 and abs(leaf.mean()) * size**0.5 < 0.2


def test_dropout_draws_by_key_and_only_in_training():
    model = cnnjax.create_model("alexnet_owt", num_classes=3)
    variables, image = values(model, 63)

    @jax.jit
    def logits(variables, key):
        return [
            model.apply(variables, image, train=train, rngs={"dropout": key}).logits
            for train in (True, False)
        ]

    (one, plain), (other, same) = (
        logits(variables, key) for key in jax.random.split(jax.random.key(0))
    )
    assert np.any(one != other) and np.any(one != plain) and np.all(plain == same)


@pytest.mark.parametrize(("length", "size"), [(14, 4), (7, 7), (5, 6), (1, 6), (13, 6)])
def test_adaptive_pooling_is_torchs_rule(length, size):
    x = np.random.default_rng(0).standard_normal((2, length, length + 1, 3), np.float32)
    y = adaptive_avg_pool(x, size)
    assert y.shape == (2, size, size, 3)
    for i, j in np.ndindex(size, size):
        rows = slice(i * length // size, int(np.ceil((i + 1) * length / size)))
        columns = slice(j * (length + 1) // size, int(np.ceil((j + 1) * (length + 1) / size)))
        np.testing.assert_allclose(
            y[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=1e-5, atol=1e-6
        )
