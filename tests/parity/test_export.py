"""A network that we wrote is loaded by the publisher's own code, and is the same to the bit.

The publisher's network gets random values and is read here, written here, and read by a second one
of the publisher's. That both answer alike is what the other tests of this folder show.
"""

import numpy as np
import pytest

from cnnjax import create_model, weights
from cnnjax.trees import nest
from tests.helpers import assert_trees_close
from tests.parity.peers import (
    LIMIT,
    difference,
    images,
    load,
    ours,
    randomise,
    timm_module,
    torchvision_models,
)
from tests.weights.files import variables
from tests.weights.slim_names import INCEPTION_RESNET_V2, INCEPTION_V4

pytestmark = pytest.mark.parity

# The rules of the other VGGs are made by the same loops; each has half a gigabyte of values.
OTHER_VGGS = ["vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg19", "vgg19_bn"]
VGG = ["vgg11", "vgg16_bn"]
TORCH = [
    *(("torchvision", name, name) for name in VGG),
    ("torchvision", "alexnet", "alexnet_owt"),
    ("torchvision", "googlenet", "inception_v1_bn"),
    ("torchvision", "inception_v3", "inception_v3"),
    *(("timm", name, name) for name in VGG),
    *(("timm", name, name) for name in ("inception_v3", "inception_v4", "inception_resnet_v2")),
    *(
        pytest.param(source, name, name, marks=pytest.mark.slow)
        for source in ("torchvision", "timm")
        for name in OTHER_VGGS
    ),
]


def built(source, name):
    if source == "timm":
        return timm_module().create_model(name, pretrained=False, num_classes=7)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision_models().get_model(name, num_classes=7, **options)


@pytest.mark.parametrize(("source", "name", "model"), TORCH)
def test_torch(source, name, model, tmp_path):
    import torch

    first = randomise(built(source, name))
    torch.save(first.state_dict(), tmp_path / "first.pth")
    pretrained = load(tmp_path / "first.pth", model, source)
    path = tmp_path / "second.pth"
    weights.export(path, pretrained, source)
    second = built(source, name).eval()
    second.load_state_dict(torch.load(path, weights_only=True), strict=True)
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
    assert_trees_close(load(path, model, source).variables, pretrained.variables)
    if name == "googlenet":
        x = images(155)
        with torch.no_grad():
            answers = second(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        assert difference(ours(pretrained, x)[0].logits, answers) <= LIMIT


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [
        ("vgg_16", "vgg16", 224),
        pytest.param("vgg_19", "vgg19", 224, marks=pytest.mark.slow),
        ("inception_v1", "inception_v1_bn", 224),
        ("inception_v2", "inception_v2_slim", 224),
        ("inception_v3", "inception_v3", 299),
    ],
)
def test_slim(name, model, size, tmp_path):
    from tests.parity.test_slim import Graph

    first = Graph(name, size, num_classes=7).randomise()
    pretrained = load(first.save(tmp_path / "first.ckpt"), model, "slim")
    path = tmp_path / "second.ckpt"
    weights.export(path, pretrained, "slim")
    second = Graph(name, size, num_classes=7).restore(str(path))
    for mine, theirs in zip(first.variables, second.variables, strict=True):
        a, b = first.session.run(mine), second.session.run(theirs)
        assert "AuxLogits" in mine.op.name or np.array_equal(a, b), mine.op.name
    assert_trees_close(load(path, model, "slim").variables, pretrained.variables)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("inception_v4", INCEPTION_V4), ("inception_resnet_v2", INCEPTION_RESNET_V2)],
)
def test_slim_names(name, layers, tmp_path):
    """PyPI's tf-slim lacks these two: the layers are those of the published checkpoints."""
    import tensorflow as tf

    options = {"bn_scale": False, "aux": True, "num_classes": 7}
    tree = nest(variables(name, **options))
    preprocessing = weights.Preprocessing(299)
    pretrained = weights.Pretrained(create_model(name, **options), tree, preprocessing, name=name)
    path = tmp_path / "model.ckpt"
    weights.export(path, pretrained, "slim")
    found = {variable for variable, _ in tf.train.list_variables(str(path))}
    assert all(any(x.endswith(f"/{layer}/weights") for x in found) for layer in layers)
    assert_trees_close(load(path, name, "slim").variables, tree)


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [
        ("VGG16", "vgg16", 224),
        pytest.param("VGG19", "vgg19", 224, marks=pytest.mark.slow),
        ("InceptionV3", "inception_v3", 299),
        ("InceptionResNetV2", "inception_resnet_v2", 299),
    ],
)
def test_keras(name, model, size, tmp_path):
    import keras

    from tests.weights.test_keras import randomise

    build = getattr(keras.applications, name)
    first = randomise(build(weights=None, classes=7))
    first.save_weights(tmp_path / "first.weights.h5")
    pretrained = load(tmp_path / "first.weights.h5", model, "keras")
    path = tmp_path / "second.weights.h5"
    weights.export(path, pretrained, "keras")
    second = build(weights=None, classes=7)
    second.load_weights(path)
    for mine, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(mine, theirs)
    assert_trees_close(load(path, model, "keras").variables, pretrained.variables)
