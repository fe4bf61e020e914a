"""Inception v1: Table 1, what the reductions save, the auxiliary heads and the two paddings."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.models.heads import GridAuxHead
from cnnjax.models.layers import ConvRelu
from cnnjax.ops.pooling import max_pool
from cnnjax.stages import apply_with_stages
from tests.models.shapes import parameters, shapes
from tests.models.values import starting_values

# Map, parameters and multiply-adds in millions of each stage of the paper's network.
TABLE_1 = {
    "mixed3a": ((28, 28, 256), 163_696, 128.0),
    "mixed3b": ((28, 28, 480), 388_736, 304.3),
    "mixed4a": ((14, 14, 512), 376_176, 73.6),
    "mixed4b": ((14, 14, 512), 449_160, 87.9),
    "mixed4c": ((14, 14, 512), 510_104, 99.9),
    "mixed4d": ((14, 14, 528), 605_376, 118.5),
    "mixed4e": ((14, 14, 832), 868_352, 170.0),
    "mixed5a": ((7, 7, 832), 1_043_456, 51.1),
    "mixed5b": ((7, 7, 1024), 1_444_080, 70.7),
}


def stages(name, **options):
    """{stage: (parameters, multiply-adds)} at 224."""
    totals = {}
    for row in analysis.summarize(cnnjax.create_model(name, **options), (224, 224, 3)).layers:
        before = totals.get(row.name.split("/")[0], (0, 0))
        totals[row.name.split("/")[0]] = (before[0] + row.parameters, before[1] + row.multiply_adds)
    return totals


def test_table_1():
    _, _, maps = shapes(cnnjax.create_model("inception_v1"), 224)
    assert maps["conv1"] == (112, 112, 64) and maps["conv2"] == (56, 56, 192)
    for name, (params, multiply_adds) in stages("inception_v1").items():
        if name in TABLE_1:
            assert (maps[name], params, round(multiply_adds / 1e6, 1)) == TABLE_1[name]


def test_the_heads_have_the_papers_parameters():
    variables, outputs, _ = shapes(cnnjax.create_model("inception_v1"), 224, train=True)
    assert analysis.count_parameters(variables["params"]["aux1"]) == 3_188_840
    assert analysis.count_parameters(variables["params"]["aux2"]) == 3_190_888
    assert len(outputs.aux) == 2


def test_what_the_reductions_save_in_mixed3a():
    """Weights without biases, and the channels of the next module's input."""
    biases = {"inception_v1": 64 + 96 + 128 + 16 + 32 + 32, "inception_v1_naive": 64 + 128 + 32}
    weights = {name: stages(name)["mixed3a"][0] - bias for name, bias in biases.items()}
    assert weights == {"inception_v1": 163_328, "inception_v1_naive": 387_072}
    widths = {name: shapes(cnnjax.create_model(name), 224)[2]["mixed3a"][-1] for name in biases}
    assert widths == {"inception_v1": 256, "inception_v1_naive": 416}


def test_channels_pile_up_without_a_projection():
    _, _, maps = shapes(cnnjax.create_model("inception_v1_naive"), 224)
    assert [maps[name][-1] for name in TABLE_1] == [
        416,
        832,
        1280,
        1728,
        2176,
        2640,
        3344,
        4048,
        4944,
    ]


def test_options_that_tf_slims_weights_need():
    slim = partial(
        cnnjax.create_model, "inception_v1_bn", padding="same", bn_scale=False, aux=False
    )
    assert parameters(slim(), 224) == parameters(slim(), 224, train=True) == 6_617_624
    assert parameters(slim(num_classes=1001), 224) == 6_618_649


def test_course_options():
    @cache
    def kinds(**options):
        model = cnnjax.create_model("inception_v1", **options)
        return [(row.name, row.kind) for row in analysis.summarize(model, (224, 224, 3)).layers]

    assert [name for name, _ in kinds() if "lrn" in name] == ["lrn", "lrn"]
    assert not [name for name, _ in kinds(lrn=False) if "lrn" in name]
    assert {kind for name, kind in kinds() if "branch5x5/" in name} == {"conv 5x5"}
    assert {kind for name, kind in kinds(largest_kernel=3) if "branch5x5/" in name} == {"conv 3x3"}
    assert not [
        name for name, _ in kinds(reductions=False) if "reduce" in name and name.startswith("mixed")
    ]
    assert (
        dict(kinds())["pool4"] == "max pool 3x3 /2"
        and dict(kinds(window5=2))["pool4"] == "max pool 2x2 /2"
    )
    with pytest.raises(ValueError, match="inception_v1's padding='valid' is unknown"):
        kinds(padding="valid")


@pytest.mark.parametrize("length", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_that_hangs_over_the_edge(length, window):
    """Caffe's rule: windows start inside and leave no cell out."""
    x = np.random.default_rng(0).standard_normal((1, length, length, 1), np.float32)
    size = max(0, -(-(length - window) // 2)) + 1
    y = max_pool(x, window, 2, "CEIL")
    assert y.shape == (1, size, size, 1)
    for i, j in np.ndindex(size, size):
        assert y[0, i, j, 0] == x[0, 2 * i : 2 * i + window, 2 * j : 2 * j + window].max()


@pytest.mark.parametrize(("padding", "rows"), [("caffe", 4), ("same", 5)])
def test_where_the_first_padding_goes(padding, rows):
    """The first cell of conv1 sees 3 or 2 rows of padding and 4 or 5 rows of the image."""
    model = cnnjax.create_model("inception_v1", padding=padding)
    variables = starting_values(analysis.abstract_variables(model, (64, 64, 3)))

    def corner(image):
        return apply_with_stages(model, variables, image)[1]["conv1"][0, 0, 0].sum()

    gradient = jax.jit(jax.grad(corner))(np.ones((1, 64, 64, 3), np.float32))[0]
    assert np.flatnonzero(gradient.any((1, 2))).tolist() == list(range(rows))


HEAD = partial(GridAuxHead, 7, ConvRelu, ConvRelu, dropout=0.0)


@pytest.mark.parametrize(
    ("adaptive", "windows"),
    [(False, [(0, 5), (3, 8), (6, 11), (9, 14)]), (True, [(0, 4), (3, 7), (7, 11), (10, 14)])],
)
def test_windows_of_the_auxiliary_heads(adaptive, windows):
    """The paper's windows of 5 at stride 3, and torchvision's adaptive ones of 4."""
    head, x = (
        HEAD(adaptive=adaptive),
        np.random.default_rng(0).standard_normal((2, 14, 14, 6), np.float32),
    )
    params = starting_values(jax.eval_shape(head.init, {"params": jax.random.key(0)}, x))["params"]
    pooled = np.stack(
        [np.stack([x[:, a:b, c:d].mean((1, 2)) for c, d in windows], 1) for a, b in windows], 1
    )
    hidden = np.maximum(
        pooled @ params["conv"]["conv"]["kernel"][0, 0] + params["conv"]["conv"]["bias"], 0
    )
    kernel = params["fc"]["conv"]["kernel"].reshape(-1, 1024)
    hidden = np.maximum(hidden.reshape(2, -1) @ kernel + params["fc"]["conv"]["bias"], 0)
    expected = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(head.apply({"params": params}, x), expected, atol=1e-5)


def test_auxiliary_heads_take_maps_of_any_size():
    for side in (1, 3, 5, 16, 30):
        x = jax.ShapeDtypeStruct((2, side, side + 1, 6), jnp.float32)
        assert jax.eval_shape(HEAD().init_with_output, {"params": jax.random.key(0)}, x)[
            0
        ].shape == (2, 7)


def test_dropout_of_the_auxiliary_heads():
    head, x = HEAD(dropout=0.7), np.ones((1, 4, 4, 6), np.float32)
    variables = starting_values(
        jax.eval_shape(head.init, dict.fromkeys(("params", "dropout"), jax.random.key(0)), x)
    )
    one, other = (
        head.apply(variables, x, rngs={"dropout": key})
        for key in jax.random.split(jax.random.key(0))
    )
    assert np.any(one != other)


def test_auxiliary_logits_come_nearest_the_input_first():
    model = cnnjax.create_model("inception_v1_bn", num_classes=3)
    variables = starting_values(analysis.abstract_variables(model, (32, 32, 3), train=True))
    for name, answer in (("aux1", 1.0), ("aux2", 2.0)):
        head = variables["params"][name]["head"]
        head["kernel"], head["bias"] = (
            np.zeros_like(head["kernel"]),
            np.full_like(head["bias"], answer),
        )
    train = partial(
        model.apply, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    fast = {"xla_backend_optimization_level": "0"}
    outputs, _ = jax.jit(train, compiler_options=fast)(
        variables, np.ones((2, 32, 32, 3), np.float32)
    )
    assert [np.unique(logits).tolist() for logits in outputs.aux] == [[1.0], [2.0]]
