"""timm's networks with random values, saved as its hub and its releases do: the same answers at two
sizes, stage by stage.
"""

import dataclasses

import numpy as np
import pytest

from cnnjax import weights
from tests.parity.peers import (
    compare,
    compare_heads,
    difference,
    images,
    load,
    ours,
    randomise,
    theirs,
    timm_module,
)
from tests.parity.test_torchvision import INCEPTION_V3, vgg_stages

pytestmark = pytest.mark.parity

V3 = INCEPTION_V3 | {"pool3a": "Pool1", "pool5a": "Pool2"}
V4 = {
    name: f"features.{index}"
    for index, name in enumerate(
        ["conv1a", "conv2a", "conv2b", "mixed3a", "mixed4a", "mixed5a"]
        + [f"mixed5{letter}" for letter in "bcde"]
        + [f"mixed6{letter}" for letter in "abcdefgh"]
        + [f"mixed7{letter}" for letter in "abcd"]
    )
}
RESNET_V2 = {
    **{f"conv{name}": f"conv2d_{name}" for name in ("1a", "2a", "2b", "3b", "4a", "7b")},
    **{"pool3a": "maxpool_3a", "pool5a": "maxpool_5a"},
    **{f"mixed{name}": f"mixed_{name}" for name in ("5b", "6a", "7a")},
    **{f"block35_{i + 1}": f"repeat.{i}" for i in range(10)},
    **{f"block17_{i + 1}": f"repeat_1.{i}" for i in range(20)},
    **{f"block8_{i + 1}": f"repeat_2.{i}" for i in range(9)},
    "block8_10": "block8",
}


def created(name, **options):
    return randomise(timm_module().create_model(name, pretrained=False, **options))


def saved(network, path):
    """`.safetensors` as on the hub, anything else as torch writes it."""
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path, {"format": "pt"})
    else:
        torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vgg11", "model.safetensors"),
        ("vgg13", "pytorch_model.bin"),
        ("vgg16", "model.safetensors"),
        ("vgg19", "file.pth"),
        ("vgg11_bn", "model.safetensors"),
        ("vgg13_bn", "pytorch_model.bin"),
        ("vgg16_bn", "model.safetensors"),
        ("vgg19_bn", "file.pth"),
    ],
)
def test_vgg(name, file, tmp_path):
    network = created(name, num_classes=100)
    pretrained = load(saved(network, tmp_path / file), name, "timm")
    stages = vgg_stages(network) | {"fc6": "pre_logits.act1", "fc7": "pre_logits.act2"}
    for size in (224, 96):
        compare(name, pretrained, network, size, stages)
    if name == "vgg11":  # timm slides its classifier over larger images, as the paper does
        dense = dataclasses.replace(pretrained, model=pretrained.model.clone(dense=True))
        compare(f"{name} dense", dense, network, 288, stages)


@pytest.mark.parametrize(
    ("name", "stages", "file"),
    [
        ("inception_v3", V3, "inception_v3.gluon_in1k/model.safetensors"),
        ("inception_v4", V4, "inception_v4.tf_in1k/pytorch_model.bin"),
        ("inception_resnet_v2", RESNET_V2, "file.pth"),
    ],
)
def test_inception(name, stages, file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    network = created(name)
    pretrained = load(saved(network, tmp_path / file), name, "timm")
    for size in (299, 155):
        compare(name, pretrained, network, size, stages)


def test_inception_v3_with_its_auxiliary_head(tmp_path):
    """The weights from torchvision have one, and timm's network then answers twice."""
    network = created("inception_v3", aux_logits=True)
    pretrained = load(saved(network, tmp_path / "file.pth"), "inception_v3.tv_in1k", "timm")
    assert pretrained.model.aux
    for size in (299, 331):
        compare_heads("inception_v3", pretrained, network, size)
    pretrained = load(tmp_path / "file.pth", "inception_v3", "timm", aux=False)
    assert "aux" not in pretrained.variables["params"]


def test_background_class_of_releases(tmp_path):
    """Before the hub, ports from TensorFlow kept 1001 classes: the first one goes."""
    network = created("inception_v4", num_classes=1001)
    path = saved(network, tmp_path / "file.pth")
    x = images(155)
    expected, _ = theirs(network, x, {})
    pretrained = load(path, "inception_v4", "timm")
    assert pretrained.model.num_classes == 1000
    assert difference(ours(pretrained, x)[0].logits, expected[:, 1:]) <= 5e-5
    assert load(path, "inception_v4", "timm", keep_background=True).model.num_classes == 1001


def test_records_are_timms_own():
    """Preprocessing, licence and file of every record, against timm's configuration of that tag."""
    timm = timm_module()
    from timm.data import resolve_data_config

    rows = [
        record
        for record in weights.RECORDS
        if record.source == "timm" and record.file == "model.safetensors"
    ]
    tagged = {f"{record.model}.{record.tag}" for record in rows}
    for family in ("vgg*", "inception_v3*", "inception_v4*", "inception_resnet_v2*"):
        assert set(timm.list_pretrained(family)) <= tagged
    for record in rows:
        config = timm.get_pretrained_cfg(f"{record.model}.{record.tag}")
        data = resolve_data_config({}, pretrained_cfg=config.to_dict())
        p, size = record.preprocessing, data["input_size"][1]
        assert record.licence.lower() == config.license
        assert (p.size, p.resize, p.interpolation) == (
            size,
            int(size / data["crop_pct"]),
            data["interpolation"],
        )
        for of_record, of_timm in ((p.mean, data["mean"]), (p.std, data["std"])):
            assert list(np.broadcast_to(of_record, 3)) == pytest.approx(
                [255 * value for value in of_timm]
            )
