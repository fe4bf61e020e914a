"""Synthetic images, and the examples in the docstrings, which use them."""

import doctest
import importlib

import numpy as np
import pytest

from tests.data.pictures import write_folder
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


def test_slices_of_a_split_in_memory():
    whole = data.load("synthetic:4x4x1/4", "train")
    few, rest, tenth = (
        data.load("synthetic:4x4x1/4", f"train[{bounds}]") for bounds in (":400", "400:", "90%:")
    )
    assert (len(few), len(rest), len(tenth)) == (400, 1648, 205)
    assert few.class_names == whole.class_names and set(few.labels) == {0, 1, 2, 3}
    pixels = [image.tobytes() for split in (few, rest) for image in split.images]
    assert sorted(pixels) == sorted(image.tobytes() for image in whole.images)
    np.testing.assert_array_equal(
        few.images, data.load("synthetic:4x4x1/4", "training[:400]").images
    )


@pytest.mark.parametrize(
    ("source", "split", "sentence"),
    [
        ("synthetic:4x4x1/4", "train[3000:]", r"train\[3000:\] has no examples"),
        ("synthetic:4x4x1/4", "train[:x]", r"no split 'train\[:x\]'"),
        ("folder:DIR", "train[:5]", "in memory only"),
    ],
)
def test_slices_that_do_not_exist(source, split, sentence, tmp_path):
    write_folder(tmp_path, train=1, held_out=1)
    with pytest.raises(DataError, match=sentence):
        data.load(source.replace("DIR", str(tmp_path)), split)


@pytest.mark.parametrize("module", ["plan", "pipeline", "sources"])
def test_the_examples_in_the_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"train.data.{module}"))
    assert result.attempted and not result.failed
