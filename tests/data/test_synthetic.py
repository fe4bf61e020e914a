"""Synthetic images, and the examples in the docstrings, which use them."""

import doctest
import importlib

import numpy as np
import pytest

from train import data
from train.errors import DataError


def test_a_synthetic_image_does_not_depend_on_when_it_is_drawn():
    some, everything = (data.load("synthetic:9x7x3/4", "train") for _ in range(2))
    images, labels = some.fetch(np.array([7, 2, 2, 9]))
    np.testing.assert_array_equal(images, everything.images[[7, 2, 2, 9]])
    np.testing.assert_array_equal(everything.fetch([-1, 0])[0], everything.images[[-1, 0]])
    assert images.shape == (4, 9, 7, 3) and labels.tolist() == [3, 2, 2, 1]
    assert len({image.tobytes() for image in everything.images}) == 2048
    held_out = data.load("synthetic:9x7x3/4", "test")
    assert not (held_out.images[:4] == everything.images[:4]).all()


@pytest.mark.parametrize("spec", ["99999x99999x3/2", "28x28x1/9999999", "28x28x5/2"])
def test_synthetic_images_that_are_too_large(spec):
    with pytest.raises(DataError, match=f"synthetic:{spec} is too large"):
        data.load(f"synthetic:{spec}", "train")


@pytest.mark.parametrize("module", ["plan", "pipeline", "sources"])
def test_the_examples_in_the_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"train.data.{module}"))
    assert result.attempted and not result.failed
