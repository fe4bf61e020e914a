"""Inception-v3: the docstring's table, stems, what factorisation saves, the auxiliary head."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, ops
from cnnjax.models.heads import AuxHead
from cnnjax.models.inception_v3 import STEMS, InceptionA, InceptionV3
from cnnjax.models.layers import ConvBN, PooledConvBN
from tests.models.shapes import KEYS, parameters, shapes


def convolutions(model, side, *, train):
    """The number of convolutions of one application, by plain operations."""
    variables = analysis.abstract_variables(model, (side, side, 3), train=True)
    apply = partial(model.apply, train=train, rngs=KEYS, mutable=["batch_stats"])
    with ops.plain():
        lowered = jax.jit(apply).lower(variables, jnp.zeros((1, side, side, 3)))
    return lowered.as_text().count("stablehlo.convolution")


MAPS = {
    "conv1a": (149, 149, 32),
    "conv2a": (147, 147, 32),
    "conv2b": (147, 147, 64),
    "pool3a": (73, 73, 64),
    "conv3b": (73, 73, 80),
    "conv4a": (71, 71, 192),
    "pool5a": (35, 35, 192),
    "mixed5b": (35, 35, 256),
    "mixed5c": (35, 35, 288),
    "mixed5d": (35, 35, 288),
    **{f"mixed6{letter}": (17, 17, 768) for letter in "abcde"},
    "mixed7a": (8, 8, 1280),
    "mixed7b": (8, 8, 2048),
    "mixed7c": (8, 8, 2048),
}


def test_the_maps_are_those_of_the_table():
    _, outputs, maps = shapes(InceptionV3(), 299)
    assert maps == MAPS
    assert outputs.features.shape == (1, 2048) and outputs.logits.shape == (1, 1000)


def test_names_are_torchvisions():
    params = analysis.abstract_variables(InceptionV3(), (299, 299, 3), train=True)["params"]
    assert set(params) == {name for name in MAPS if not name.startswith("pool")} | {"aux", "head"}
    branches = {
        "mixed5b": "branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
        "mixed6b": "branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 "
        "branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5",
        "mixed7b": "branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 "
        "branch3x3dbl_3a branch3x3dbl_3b",
    }
    for name, layers in branches.items():
        assert set(params[name]) == {"branch1x1", "branch_pool", *layers.split()}
    assert params["mixed7a"]["branch7x7x3_2"]["conv"]["kernel"].shape == (1, 7, 192, 192)
    assert set(params["conv1a"]) == {"conv", "bn"}
    assert set(params["aux"]) == {"conv0", "conv1", "head"}


@pytest.mark.parametrize(
    ("classes", "main", "with_aux"),
    [(1000, 23_817_352, 27_143_152), (1001, 23_819_401, 27_145_970)],
)
def test_slims_counts_without_gamma(classes, main, with_aux):
    model = InceptionV3(num_classes=classes, bn_scale=False)
    assert (parameters(model), parameters(model, train=True)) == (main, with_aux)


@pytest.mark.parametrize("side", STEMS)
def test_each_stem_hands_its_own_image_size_to_the_same_network(side):
    variables, _, maps = shapes(InceptionV3(stem=side), side)
    assert variables == analysis.abstract_variables(InceptionV3(), (299, 299, 3))
    assert [maps[name][0] for name in ("mixed5b", "mixed6a", "mixed7a")] == (
        [36, 17, 8] if side == 79 else [35, 17, 8]
    )
    assert ("pool3a" in maps) == (side != 79)


@pytest.mark.parity
def test_smaller_images_cost_the_same():
    large, medium, small = (
        analysis.summarize(InceptionV3(stem=s), (s, s, 3)) for s in (299, 151, 79)
    )
    assert medium.multiply_adds == large.multiply_adds == 5_713_216_096
    # 6 % less: conv2a and conv2b have a quarter of the cells, conv4a a few more.
    assert small.multiply_adds == 5_361_703_520
    assert [summary.receptive_field for summary in (large, medium, small)] == [1311, 657, 331]


@pytest.mark.parametrize(
    ("stem", "smallest", "with_aux"),
    [
        pytest.param(299, 75, 299, marks=pytest.mark.parity),
        pytest.param(151, 39, 151, marks=pytest.mark.parity),
        (79, 21, 77),
    ],
)
def test_smallest_images(stem, smallest, with_aux):
    model = InceptionV3(stem=stem)
    assert shapes(model, smallest)[2]["mixed7c"] == (1, 1, 2048)
    with pytest.raises(
        ValueError, match=f"at least {smallest}x{smallest} pixels, got {smallest - 1}x"
    ):
        shapes(model, smallest - 1)
    assert shapes(model, with_aux, train=True)[2]["mixed6e"] == (17, 17, 768)
    with pytest.raises(ValueError, match=f"aux=False.*at least {with_aux}x"):
        shapes(model, with_aux - 1, train=True)
    assert shapes(InceptionV3(stem=stem, aux=False), smallest, train=True)[1].aux == ()


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem=224 is unknown; known are 299, 151, 79"):
        shapes(InceptionV3(stem=224), 299)


@pytest.mark.parity
def test_what_factorisation_saves():
    """Kernels, and two BatchNorm values for each channel of the layers that disappear."""
    whole, factorized = (
        analysis.summarize(InceptionV3(factorized=f), (299, 299, 3)) for f in (False, True)
    )
    # A 5x5 against two 3x3: mixed5b to 5d and mixed6a.
    five = (25 * 64 - 9 * 64 - 9 * 96) * 96 - 2 * 96
    seven = 0
    for c in (128, 160, 160, 192):  # mixed6b to 6e: three 7x7 where there were six
        seven += 49 * c * (192 + c + 192) - 7 * c * (c + 192 + c + c + c + 192) - 2 * 3 * c
    last = (49 - 14) * 192 * 192 - 2 * 192  # mixed7a
    assert whole.parameters - factorized.parameters == 4 * five + seven + last
    assert (whole.parameters, whole.multiply_adds) == (37_696_584, 9_712_155_232)
    assert whole.receptive_field == factorized.receptive_field
    assert shapes(InceptionV3(factorized=False), 299)[2] == MAPS


@pytest.mark.parity
def test_the_head_exists_in_training_only():
    assert convolutions(InceptionV3(aux=False), 299, train=True) == 94
    assert convolutions(InceptionV3(), 299, train=False) == 94
    assert convolutions(InceptionV3(), 299, train=True) == 96
    assert [head.shape for head in shapes(InceptionV3(), 299, train=True)[1].aux] == [(1, 1000)]
    assert shapes(InceptionV3(), 299)[1].aux == ()


def test_the_head_without_batch_norm_has_a_bias_instead():
    variables = analysis.abstract_variables(InceptionV3(aux_bn=False), (299, 299, 3), train=True)
    assert set(variables["params"]["aux"]["conv1"]["conv"]) == {"kernel", "bias"}
    assert set(variables["batch_stats"]["aux"]) == {"conv0"}
    assert parameters(InceptionV3(aux_bn=False), train=True) == 27_161_264 - 768


def test_the_head_slides_over_a_larger_map_and_averages():
    head = AuxHead(3, partial(ConvBN, norm=partial(nn.BatchNorm, use_running_average=True)))
    x = jax.random.uniform(jax.random.key(0), (1, 17, 32, 4))
    windows = jnp.concatenate([x[:, :, start : start + 17] for start in range(0, 16, 3)])
    variables = jax.jit(head.init)(jax.random.key(1), windows)
    apply = jax.jit(head.apply)
    np.testing.assert_allclose(
        apply(variables, x), apply(variables, windows).mean(0, keepdims=True), atol=1e-6
    )


def test_counting_the_pad_changes_the_edge_of_the_pooling_branch_only():
    layer = dict(norm=partial(nn.BatchNorm, use_running_average=True), activation=lambda x: x)
    conv = partial(ConvBN, **layer)
    block = {
        count: InceptionA(2, conv, partial(PooledConvBN, count_pad=count, **layer), factorized=True)
        for count in (True, False)
    }
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 3))
    variables = block[True].init(jax.random.key(1), x)
    changed = ~np.isclose(*(block[count].apply(variables, x) for count in block), atol=1e-6)[0]
    assert not changed[..., :-2].any()
    edge = np.ones((6, 6), bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_array_equal(changed[..., -2:], np.broadcast_to(edge[..., None], (6, 6, 2)))


def test_rematerialisation_leaves_the_tree_alone():
    plain, remat = (
        analysis.abstract_variables(InceptionV3(remat=r), (299, 299, 3), train=True)
        for r in (False, True)
    )
    assert plain == remat
    jaxpr = jax.make_jaxpr(InceptionV3(remat=True, aux=False).apply)(
        remat, jnp.zeros((1, 75, 75, 3))
    )
    assert (
        sum(eqn.primitive.name in ("remat", "remat2", "checkpoint") for eqn in jaxpr.eqns)
        == 3 + 4 + 2
    )
