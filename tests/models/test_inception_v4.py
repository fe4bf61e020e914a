"""Inception-v4: the docstring's table, TF-slim's counts and auxiliary head."""

import pytest

from cnnjax import analysis
from cnnjax.models.inception_v4 import InceptionV4
from tests.models.shapes import parameters, shapes

MAPS = {
    "conv1a": (149, 149, 32),
    "conv2a": (147, 147, 32),
    "conv2b": (147, 147, 64),
    "mixed3a": (73, 73, 160),
    "mixed4a": (71, 71, 192),
    "mixed5a": (35, 35, 384),
    **{f"mixed5{letter}": (35, 35, 384) for letter in "bcde"},
    **{f"mixed6{letter}": (17, 17, 1024) for letter in "abcdefgh"},
    **{f"mixed7{letter}": (8, 8, 1536) for letter in "abcd"},
}


def test_the_maps_are_those_of_the_table():
    _, outputs, maps = shapes(InceptionV4(), 299)
    assert maps == MAPS
    assert outputs.features.shape == (1, 1536) and outputs.aux == ()


def test_names():
    params = analysis.abstract_variables(InceptionV4(), (299, 299, 3))["params"]
    assert set(params) == {*MAPS, "head"}
    assert {name: set(params[name]) for name in ("mixed3a", "mixed4a", "mixed6a")} == {
        "mixed3a": {"branch3x3"},
        "mixed4a": {"branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in range(1, 5))},
        "mixed6a": {"branch3x3", *(f"branch3x3dbl_{i}" for i in range(1, 4))},
    }
    kernels = {name: layer["conv"]["kernel"].shape for name, layer in params["mixed7b"].items()}
    assert kernels == {
        "branch1x1": (1, 1, 1536, 256),
        "branch3x3_1": (1, 1, 1536, 384),
        "branch3x3_2a": (1, 3, 384, 256),
        "branch3x3_2b": (3, 1, 384, 256),
        "branch3x3dbl_1": (1, 1, 1536, 384),
        "branch3x3dbl_2": (3, 1, 384, 448),
        "branch3x3dbl_3": (1, 3, 448, 512),
        "branch3x3dbl_4a": (1, 3, 512, 256),
        "branch3x3dbl_4b": (3, 1, 512, 256),
        "branch_pool": (1, 1, 1536, 256),
    }
    kernels = [
        params["mixed6b"][f"branch7x7dbl_{i}"]["conv"]["kernel"].shape[:2] for i in range(1, 6)
    ]
    assert kernels == [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]


@pytest.mark.parametrize(
    ("classes", "main", "with_aux"),
    [(1000, 42_648_232, 46_006_800), (1001, 42_649_769, 46_009_106)],
)
def test_slims_counts_without_gamma(classes, main, with_aux):
    model = InceptionV4(num_classes=classes, bn_scale=False, aux=True)
    assert (parameters(model), parameters(model, train=True)) == (main, with_aux)


@pytest.mark.parity
def test_the_head_needs_the_whole_image():
    assert [head.shape for head in shapes(InceptionV4(aux=True), 299, train=True)[1].aux] == [
        (1, 1000)
    ]
    with pytest.raises(ValueError, match=r"aux=False.*at least 299x299 pixels, got 298x298"):
        shapes(InceptionV4(aux=True), 298, train=True)
    _, outputs, maps = shapes(InceptionV4(aux=True), 75)
    assert maps["mixed7d"] == (1, 1, 1536) and outputs.aux == ()
