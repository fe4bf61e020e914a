"""torchvision's networks with random values, saved by torch, loaded here: the same answers at two
sizes, stage by stage.
"""

import dataclasses

import jax
import numpy as np
import pytest

from cnnjax import weights
from tests.parity.peers import (
    LIMIT,
    compare,
    compare_heads,
    difference,
    images,
    load,
    modules,
    ours,
    randomise,
    their_logits,
    torchvision_models,
    training,
    without_dropout,
)

pytestmark = pytest.mark.parity

ALEXNET = {
    "conv1": "features.2",
    "conv2": "features.5",
    "conv3": "features.7",
    "conv4": "features.9",
    "conv5": "features.12",
    "fc6": "classifier.2",
    "fc7": "classifier.5",
}
GOOGLENET = {
    "conv1": "conv1",
    "conv2": "conv3",
    **modules("mixed", "inception", {3: "ab", 4: "abcde", 5: "ab"}),
}
INCEPTION_V3 = {
    **{
        "conv1a": "Conv2d_1a_3x3",
        "conv2a": "Conv2d_2a_3x3",
        "conv2b": "Conv2d_2b_3x3",
        "pool3a": "maxpool1",
    },
    **{"conv3b": "Conv2d_3b_1x1", "conv4a": "Conv2d_4a_3x3", "pool5a": "maxpool2"},
    **modules("mixed", "Mixed_", {5: "bcd", 6: "abcde", 7: "abc"}),
}


def vgg_stages(network):
    import torch

    pools = [
        str(i)
        for i, module in enumerate(network.features)
        if isinstance(module, torch.nn.MaxPool2d)
    ]
    return {f"block{i}": f"features.{pool}" for i, pool in enumerate(pools, 1)} | {
        "fc6": "classifier.1",
        "fc7": "classifier.4",
    }


def saved(network, path):
    import torch

    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "vgg11",
        "vgg16_bn",
        # Each has half a gigabyte of values.
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg19_bn")
        ),
    ],
)
def test_vgg(name, tmp_path):
    network = randomise(torchvision_models().get_model(name, num_classes=100))
    pretrained = load(saved(network, tmp_path / "file.pth"), name, "torchvision")
    assert pretrained.model.num_classes == 100
    for size in (224, 96):
        compare(name, pretrained, network, size, vgg_stages(network))


def test_alexnet(tmp_path):
    network = randomise(torchvision_models().alexnet())
    pretrained = load(saved(network, tmp_path / "file.pth"), "alexnet_owt", "torchvision")
    for size in (224, 160):
        compare("alexnet", pretrained, network, size, ALEXNET)


@pytest.fixture(scope="module")
def googlenet(tmp_path_factory):
    network = randomise(torchvision_models().googlenet(init_weights=False))
    path = saved(network, tmp_path_factory.mktemp("googlenet") / "file.pth")
    return network, load(path, "inception_v1_bn", "torchvision")


@pytest.fixture(scope="module")
def inception_v3(tmp_path_factory):
    network = randomise(torchvision_models().inception_v3(init_weights=False))
    path = saved(network, tmp_path_factory.mktemp("inception_v3") / "file.pth")
    return network, load(path, "inception_v3", "torchvision")


@pytest.mark.parametrize("size", [224, 155])
def test_googlenet(googlenet, size):
    network, pretrained = googlenet
    compare("googlenet", pretrained, network, size, GOOGLENET)


@pytest.mark.parametrize("size", [299, 155])
def test_inception_v3(inception_v3, size):
    network, pretrained = inception_v3
    compare("inception_v3", pretrained, network, size, INCEPTION_V3)


HEADS = [("googlenet", 224), ("googlenet", 256), ("inception_v3", 299), ("inception_v3", 331)]


@pytest.mark.parametrize(("name", "size"), HEADS)
def test_auxiliary_heads(name, size, request):
    """Heads answer in training only: both networks run as in training, but with the moving
    statistics, without dropout.
    """
    network, pretrained = request.getfixturevalue(name)
    compare_heads(name, pretrained, network, size)


@pytest.mark.parametrize(("name", "size"), HEADS[::2])
def test_training(name, size, request):
    """As in training, with the statistics of the batch: those of a few values, which blow rounding
    up, so in float64.
    """
    network, pretrained = request.getfixturevalue(name)
    x = images(size, batch=4).astype(np.float64)
    with training(network.double(), frozen=False):
        expected = their_logits(network, x)
    network.float()
    with jax.enable_x64(True):
        double = without_dropout(pretrained)
        double = dataclasses.replace(
            double, variables=jax.tree.map(lambda v: v.astype(np.float64), double.variables)
        )
        outputs, _ = ours(double, x, train=True)
    found = [
        difference(a, b) for a, b in zip((outputs.logits, *outputs.aux), expected, strict=True)
    ]
    print(
        f"{name} in training at {size}: logits {found[0]:.1e}, heads",
        *(f"{value:.1e}" for value in found[1:]),
    )
    assert max(found) <= LIMIT


def test_records_are_torchvisions_own():
    """File name, accuracy, resize and crop of every record, against torchvision's metadata."""
    models = torchvision_models()
    names = {"alexnet_owt": "alexnet", "inception_v1_bn": "googlenet"}
    rows = [
        record
        for record in weights.RECORDS
        if record.source == "torchvision" and "earlier" not in record.note
    ]
    for record in rows:
        entry = models.get_model_weights(names.get(record.model, record.model)).IMAGENET1K_V1
        transform, p = entry.transforms(), record.preprocessing
        assert record.where + record.file == entry.url
        metrics = entry.meta["_metrics"]["ImageNet-1K"]
        assert (record.top1, record.top5) == (metrics["acc@1"], metrics["acc@5"])
        assert (p.size, p.resize, p.interpolation) == (
            transform.crop_size[0],
            transform.resize_size[0],
            transform.interpolation.value,
        )
        if len(p.mean) == 3:
            assert p.mean == pytest.approx([255 * value for value in transform.mean])
            assert p.std == pytest.approx([255 * value for value in transform.std])


def test_input_of_ports_from_tensorflow(googlenet, inception_v3):
    """torchvision normalises by ImageNet's statistics and undoes it inside these two: here it is
    one step.
    """
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (2, 155, 155, 3), np.uint8)
    for network, pretrained in (googlenet, inception_v3):
        x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        network.transform_input = True
        with torch.no_grad():
            expected = network(torch.from_numpy(x.astype(np.float32).transpose(0, 3, 1, 2).copy()))
        network.transform_input = False
        outputs, _ = ours(pretrained, pretrained.preprocessing(pixels))
        assert difference(outputs.logits, expected) <= LIMIT
