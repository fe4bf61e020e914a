"""Inception-ResNet: four plans of one network, the residual rule, facenet's end."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis
from cnnjax.models.inception_resnet import (
    V1,
    V1_FACENET,
    V2,
    V2_PAPER,
    Block17,
    InceptionResNet,
    merge,
)
from cnnjax.models.layers import Conv, ConvBN
from cnnjax.stages import apply_with_stages
from tests.models.shapes import parameters, shapes

# Every kind of module once, narrow, with the ends of all plans: for tests that compute.
TINY = V1._replace(
    block35=((2,), (2, 2), (2, 2, 2)),
    mixed6a=((4,), (2, 2, 4)),
    block17=((2,), (2, 2, 2)),
    mixed7a=((2, 4), (2, 4), (2, 2, 4)),
    block8=((2,), (2, 2, 2)),
    repeats=(1, 1, 1),
    linear_end=True,
    bottleneck=8,
)


def blocks(plan):
    """The names of the modules after the stem."""
    a, b, c = plan.repeats
    return [
        *(f"block35_{i}" for i in range(1, a + 1)),
        "mixed6a",
        *(f"block17_{i}" for i in range(1, b + 1)),
        "mixed7a",
        *(f"block8_{i}" for i in range(1, c + plan.linear_end + 1)),
    ]


@pytest.mark.parametrize(
    ("plan", "stem", "widths", "end"),
    [
        (V1, {"conv4b": (35, 35, 256)}, (256, 896, 1792), []),
        (V1_FACENET, {"conv4b": (35, 35, 256)}, (256, 896, 1792), []),
        (V2, {"pool5a": (35, 35, 192), "mixed5b": (35, 35, 320)}, (320, 1088, 2080), ["conv7b"]),
        (V2_PAPER, {"mixed4a": (71, 71, 192), "mixed5a": (35, 35, 384)}, (384, 1152, 2144), []),
    ],
    ids=["V1", "V1_FACENET", "V2", "V2_PAPER"],
)
def test_the_maps_are_those_of_the_table(plan, stem, widths, end):
    variables, _, maps = shapes(InceptionResNet(plan), 299)
    after = {name for name in maps if name.startswith(("block", "mixed6", "mixed7", "conv7"))}
    assert after == {*blocks(plan), *end}
    assert {name: maps[name] for name in stem} == stem
    for kinds, side, width in zip(
        (("block35",), ("mixed6a", "block17"), ("mixed7a", "block8")), (35, 17, 8), widths
    ):
        assert {maps[name] for name in after if name.startswith(kinds)} == {(side, side, width)}
    assert set(variables["params"]) >= set(blocks(plan)) | {"conv1a", "conv2a", "conv2b", "head"}


def test_names():
    params = analysis.abstract_variables(InceptionResNet(V2), (299, 299, 3))["params"]
    children = {
        name: set(params[name]) for name in ("block35_10", "block17_20", "block8_10", "mixed7a")
    }
    double = {f"branch3x3dbl_{i}" for i in (1, 2, 3)}
    assert children == {
        "block35_10": {"branch1x1", "branch3x3_1", "branch3x3_2", *double, "up"},
        "block17_20": {"branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3", "up"},
        "block8_10": {"branch1x1", "branch3x3_1", "branch3x3_2", "branch3x3_3", "up"},
        "mixed7a": {"branch3x3a_1", "branch3x3a_2", "branch3x3b_1", "branch3x3b_2", *double},
    }
    up = jax.tree.map(lambda leaf: leaf.shape, params["block17_1"]["up"])
    assert up == {"kernel": (1, 1, 384, 1088), "bias": (1088,)}
    assert params["block17_1"]["branch7x7_2"]["conv"]["kernel"].shape == (1, 7, 128, 160)
    assert params["block8_1"]["branch3x3_3"]["conv"]["kernel"].shape == (3, 1, 224, 256)


@pytest.mark.parametrize(
    ("classes", "main", "with_aux"),
    [(1000, 55_813_192, 59_179_952), (1001, 55_814_729, 59_182_258)],
)
def test_slims_counts_without_gamma(classes, main, with_aux):
    model = InceptionResNet(V2, num_classes=classes, bn_scale=False, aux=True)
    assert (parameters(model), parameters(model, train=True)) == (main, with_aux)


@pytest.mark.parametrize(
    ("plan", "without_gamma"),
    [(V1, 22_742_808), (V1._replace(linear_end=True), 24_342_808), (V2_PAPER, 32_417_496)],
)
def test_the_papers_counts(plan, without_gamma):
    assert parameters(InceptionResNet(plan, bn_scale=False)) == without_gamma


@pytest.mark.parametrize(("width", "embedding"), [(512, 23_467_824), (128, 22_779_312)])
def test_facenets_counts_stop_at_the_embedding(width, embedding):
    model = InceptionResNet(V1_FACENET._replace(bottleneck=width), num_classes=10, bn_scale=False)
    assert parameters(model, 160) == embedding + 10 * (width + 1)
    assert shapes(model, 160)[1].features.shape == (1, width)


@pytest.mark.parity
def test_the_head_exists_in_training_only():
    assert [head.shape for head in shapes(InceptionResNet(aux=True), 299, train=True)[1].aux] == [
        (1, 1000)
    ]
    assert shapes(InceptionResNet(aux=True), 75)[1].aux == ()
    with pytest.raises(ValueError, match=r"aux=False.*at least 299x299 pixels, got 200x200"):
        shapes(InceptionResNet(aux=True), 200, train=True)


def test_a_block_adds_the_scaled_branch_to_its_input():
    conv = partial(ConvBN, norm=partial(nn.BatchNorm, use_running_average=True))
    end = partial(merge, up=partial(Conv, bias_init=nn.initializers.ones), residual=True, scale=1.0)
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 6))
    build = partial(Block17, ((2,), (2, 2, 2)), conv)
    variables = build(end).init(jax.random.key(1), x)
    y = build(partial(end, residual=False, activation=lambda y: y)).apply(variables, x)
    assert (y < 0).any() and not np.allclose(y, 0)
    for scale in (1.0, 0.1):
        np.testing.assert_allclose(
            build(partial(end, scale=scale)).apply(variables, x),
            jnp.maximum(x + scale * y, 0),
            atol=1e-6,
        )


@pytest.fixture(scope="module")
def tiny():
    """(variables, apply, apply()) of the tiny network, with random values.

    `apply(variables, **options)` evaluates it and returns its outputs and stages.
    """
    shape = (80, 75, 3)
    random = np.random.default_rng(0)

    def leaf(path, shape):
        match path[-1].key:
            case "kernel":
                return random.normal(0, np.prod(shape.shape[:-1]) ** -0.5, shape.shape).astype(
                    np.float32
                )
            case "var" | "scale":
                return random.uniform(0.5, 1.5, shape.shape).astype(np.float32)
            case _:
                return random.normal(0, 0.3, shape.shape).astype(np.float32)

    abstract = analysis.abstract_variables(InceptionResNet(TINY, num_classes=3), shape)
    variables = jax.tree.map_with_path(leaf, abstract)
    image = random.normal(size=(2, *shape)).astype(np.float32)

    def apply(variables=variables, **options):
        model = InceptionResNet(TINY, num_classes=3, **options)
        outputs, stages = jax.jit(partial(apply_with_stages, model))(variables, image)
        return outputs, jax.tree.map(np.asarray, stages)

    return variables, apply, apply()


def test_scale_and_shortcut_are_options(tiny):
    _, apply, (_, standard) = tiny
    _, scaled = apply(residual_scale=0.17)
    _, cut = apply(residual=False)
    np.testing.assert_array_equal(scaled["block35_1"], standard["block35_1"])
    assert not np.allclose(scaled["block17_1"], standard["block17_1"])
    np.testing.assert_array_equal(cut["conv4b"], standard["conv4b"])
    branch = cut["block35_1"]  # after its ReLU
    expected = standard["conv4b"] + np.float32(0.17) * branch
    assert 0.1 < (branch > 0).mean() < 1
    np.testing.assert_allclose(standard["block35_1"][branch > 0], expected[branch > 0], rtol=1e-5)


def test_the_last_block_is_linear_and_unscaled(tiny):
    variables, apply, (_, standard) = tiny
    lower = jax.tree.map(lambda leaf: leaf, variables)
    lower["params"]["block8_2"]["up"]["bias"] = variables["params"]["block8_2"]["up"]["bias"] - 10
    _, lowered = apply(lower)
    assert (standard["block8_1"] >= 0).all() and (lowered["block8_2"] < 0).any()
    np.testing.assert_allclose(lowered["block8_2"], standard["block8_2"] - 10, atol=1e-4)


def test_the_classifier_reads_the_normalised_bottleneck(tiny):
    variables, _, (outputs, stages) = tiny
    params, stats = variables["params"], variables["batch_stats"]["bottleneck_bn"]
    assert set(params["bottleneck"]) == {"kernel"}
    embedding = stages["block8_2"].mean((1, 2)) @ params["bottleneck"]["kernel"]
    scale = params["bottleneck_bn"]["scale"][None] / np.sqrt(stats["var"] + 1e-3)[None]
    features = (embedding - stats["mean"][None]) * scale + params["bottleneck_bn"]["bias"][None]
    np.testing.assert_allclose(outputs.features, features, atol=1e-4)
    logits = features @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)


def test_the_embedding_stays_float32():
    outputs = shapes(InceptionResNet(V1_FACENET, dtype=jnp.bfloat16), 160)[1]
    assert outputs.features.dtype == outputs.logits.dtype == jnp.float32
