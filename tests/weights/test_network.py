"""A network with its weights answers images of every kind, by names."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax import weights
from cnnjax.images import fit, pixels
from cnnjax.weights import imagenet
from tests.helpers import assert_trees_close
from train.classifier import Classifier, match_classes
from train.errors import DataError, UserError
from train.export.__main__ import main as export


@pytest.fixture(scope="module")
def net():
    """A small network of grey images."""
    model = cnnjax.create_model("lenet5", num_classes=3)
    tree = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    preprocessing = weights.Preprocessing(32, resize=36, channels="L")
    names = ("cat", "dog", "owl")
    return weights.Pretrained(model, jax.device_get(tree), preprocessing, names, "lenet5")


def test_images_of_every_kind(net, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 60, 1), np.uint8)
    Image.fromarray(grey[..., 0]).save(tmp_path / "a.png")
    expected = net(grey)
    assert isinstance(expected, cnnjax.Outputs) and expected.features.shape == (1, 84)
    square = fit(grey, net.preprocessing)
    assert square.shape == (32, 32, 1)
    direct = net.model.apply(net.variables, net.preprocessing(square[None])).logits
    np.testing.assert_allclose(expected.logits, direct, rtol=1e-5, atol=1e-5)
    path, colour = tmp_path / "a.png", np.repeat(grey, 3, 2)
    kinds = (path, str(path), Image.open(path), grey[..., 0], grey[None], [grey], colour)
    for same in (*kinds, [colour], Image.fromarray(colour)):
        assert_trees_close(net(same).logits, expected.logits)
    mixed = net([path, grey, Image.open(path)] * 12)  # more than one batch
    assert mixed.features.shape == (36, 84)
    np.testing.assert_allclose(
        mixed.logits, np.repeat(expected.logits, 36, 0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(net.features(path), expected.features)


def test_deep_pixels_are_the_same_by_path_and_opened(net, tmp_path):
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369
    Image.fromarray(levels).save(tmp_path / "deep.png")
    by_path = pixels(tmp_path / "deep.png", 1)
    np.testing.assert_array_equal(by_path[..., 0], levels >> 8)
    np.testing.assert_array_equal(pixels(Image.open(tmp_path / "deep.png"), 1), by_path)


@pytest.mark.parametrize("antialias", [True, False])
def test_a_crop_that_does_not_fit(antialias):
    small = weights.Preprocessing(64, resize=32, antialias=antialias)
    with pytest.raises(ValueError, match="crop of 64 does not fit into a short side of 32"):
        fit(np.zeros((90, 90, 3), np.uint8), small)


def test_an_own_resize_is_what_the_file_says(net, tmp_path):
    weights.save(tmp_path / "net.safetensors", net)
    out = tmp_path / "out.safetensors"
    flags = [f"--pretrained={tmp_path}/net.safetensors", f"--out={out}", "--format=safetensors"]
    export(flags)
    assert weights.load(out).preprocessing == net.preprocessing
    export([*flags, "--resize=40"])
    assert weights.load(out).preprocessing == replace(net.preprocessing, resize=40)
    with pytest.raises(UserError, match="crop of 32 does not fit into a short side of 20"):
        export([*flags, "--resize=20"])
    with pytest.raises(UserError, match="is a folder: name a file"):
        export([*flags[:1], f"--out={tmp_path}", "--format=safetensors"])


def test_predictions_and_stages(net):
    image = np.random.default_rng(1).integers(0, 256, (64, 80, 3), np.uint8)
    ((first, second),) = net.predict(image, top=2)
    assert first.probability >= second.probability and first.name in net.class_names
    assert first.probability == pytest.approx(float(jax.nn.softmax(net(image).logits).max()))
    stages = net.stages(image, "c3", "c1")
    assert list(stages) == ["c1", "c3"] and stages["c3"].shape == (1, 10, 10, 16)
    assert len(net.stages([image, image])) > 3
    with pytest.raises(ValueError, match="stage='c9' is unknown; did you mean c"):
        net.stages(image, "c9")


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 4, 3), np.float32), "images are uint8, 0 to 255, not float32"),
        (np.zeros((3, 40, 40), np.uint8), r"an image is \(H, W, 3\)"),
        ([], "no images"),
        (Path(__file__), "cannot be read: no image format"),
    ],
)
def test_no_images(net, image, text):
    with pytest.raises(ValueError, match=text):
        net(image)


def test_imagenet():
    classes = imagenet.classes()
    assert len(classes) == len(set(classes.values())) == 1000
    assert classes["n11939491"] == "daisy" and imagenet.ids()[985] == "n11939491"
    assert imagenet.ids() == tuple(sorted(imagenet.ids()))


def test_folders_named_by_synset():
    classifier = Classifier(
        "vgg16",
        "file",
        cnnjax.create_model("vgg16"),
        None,
        None,
        SimpleNamespace(source="folder:imagenette2"),
        (224, 224, 3),
        imagenet.names(),
    )
    assert match_classes(imagenet.ids(), classifier) is None
    some = ("n01440764", "n11939491")
    np.testing.assert_array_equal(match_classes(some, classifier, subset=True), [0, 985])
    with pytest.raises(DataError, match="--subset evaluates on those"):
        match_classes(some, classifier)
