"""The table of published files, and how a file is matched with its record."""

import hashlib
import re
import warnings
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import get_spec, weights
from cnnjax.weights import SOURCES, metadata
from cnnjax.weights.layout import rename
from tests.weights.files import shapes, torchvision_tensors, variables, write

RECORDS = weights.RECORDS
MODEL = "inception_v1_bn"


def test_every_map_has_records_and_every_record_a_map():
    maps = {
        (source, model)
        for source, parts in SOURCES.items()
        for part in parts
        for model in part.maps
    }
    assert {(record.source, record.model) for record in RECORDS} == maps


@pytest.mark.parametrize(
    "record",
    RECORDS,
    ids=lambda record: f"{record.source}-{record.model}-{record.tag or record.file}",
)
def test_a_record_is_complete(record):
    spec = get_spec(record.model)
    assert record.preprocessing.size == spec.input_size[0]
    assert record.where.startswith("http")
    assert record.hash is None or re.fullmatch("sha256:[0-9a-f]{8}|md5:[0-9a-f]{32}", record.hash)
    assert (
        record.preprocessing.resize is None
    ) or record.preprocessing.resize > record.preprocessing.size
    assert record.top1 is None or 50 < record.top1 < 100
    assert record.top5 is None or record.top1 < record.top5 < 100
    if record.background:
        maps = [part.maps[record.model] for part in SOURCES[record.source]]
        assert all(entry.background for entry in maps)


def test_files_have_different_names_or_tags():
    keys = [(record.source, record.model, record.file, record.tag) for record in RECORDS]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_preprocessing(convert):
    pixels = convert(np.array([[[[0, 127, 255]]]], np.uint8))
    for preprocessing, expected in [
        (metadata.SLIM_299, [-1.0, -1 / 255, 1.0]),
        (metadata.TORCH_224, [-0.485 / 0.229, (127 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
        (metadata.KERAS_VGG, [255 - 103.939, 127 - 116.779, -123.68]),
        (metadata.SLIM_VGG, [-123.68, 127 - 116.78, 255 - 103.94]),
        (metadata.FACE, [-127.5 / 128, -0.5 / 128, 127.5 / 128]),
    ]:
        found = preprocessing(pixels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.asarray(found)[0, 0, 0], expected, rtol=1e-6, atol=1e-5)
        assert weights.Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


# Number and checksum of the names that our leaves have in each source. test_keras.py and
# tests/parity check the names themselves with the sources' own networks.
NAMES = {
    "torchvision/alexnet_owt/0": (16, 190328184),
    "torchvision/vgg11/0": (22, 2436409711),
    "torchvision/vgg11_bn/0": (54, 3842616684),
    "torchvision/vgg13/0": (26, 1184075433),
    "torchvision/vgg13_bn/0": (66, 1605762068),
    "torchvision/vgg16/0": (32, 2336349164),
    "torchvision/vgg16_bn/0": (84, 887325169),
    "torchvision/vgg19/0": (38, 859171037),
    "torchvision/vgg19_bn/0": (102, 1659219773),
    "torchvision/inception_v1_bn/0": (305, 3137639572),
    "torchvision/inception_v3/0": (484, 3252696953),
    "timm/vgg11/0": (22, 2401049854),
    "timm/vgg11_bn/0": (54, 3523049845),
    "timm/vgg13/0": (26, 3770466553),
    "timm/vgg13_bn/0": (66, 2455484029),
    "timm/vgg16/0": (32, 3039123062),
    "timm/vgg16_bn/0": (84, 4062654739),
    "timm/vgg19/0": (38, 2691267926),
    "timm/vgg19_bn/0": (102, 342732182),
    "timm/inception_v3/0": (484, 3252696953),
    "timm/inception_v4/0": (747, 2978386784),
    "timm/inception_resnet_v2/0": (1102, 1566253134),
    "keras/vgg16/0": (32, 2147135433),
    "keras/vgg19/0": (38, 1845527621),
    "keras/inception_v3/0": (378, 890601795),
    "keras/inception_resnet_v2/0": (898, 414726860),
    "slim/vgg16/0": (32, 2863614439),
    "slim/vgg19/0": (38, 2852457013),
    "slim/inception_v1_bn/0": (230, 49120829),
    "slim/inception_v2_slim/0": (277, 3229878536),
    "slim/inception_v3/0": (388, 3588783806),
    "slim/inception_v4/0": (608, 3769941198),
    "slim/inception_resnet_v2/0": (908, 4011178181),
    "facenet/inception_resnet_v1_facenet/0": (492, 2176342918),
    "facenet/inception_resnet_v1_facenet/1": (604, 899925787),
}


def names(part, model):
    entry = part.maps[model]
    options = dict(entry.options) | ({"aux": True} if entry.aux else {})
    found = sorted(rename(path.partition("/")[2], entry.rules) for path in shapes(model, **options))
    assert len(set(found)) == len(found)
    assert entry.classifier in found
    return len(found), zlib.crc32("\n".join(found).encode())


@pytest.mark.parity
def test_names_stay():
    found = {
        f"{s}/{m}/{i}": names(part, m)
        for s, parts in SOURCES.items()
        for i, part in enumerate(parts)
        for m in part.maps
    }
    assert found == NAMES


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file with the published name but other values and another format."""
    tensors = torchvision_tensors(MODEL, variables(MODEL, num_classes=4, aux=False))
    return write(tmp_path_factory.mktemp("weights") / "googlenet-1378be20.pth", tensors)


def test_another_hash_than_the_record(file):
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.warns(weights.WeightsWarning) as caught:
        pretrained = weights.load(file, MODEL, "torchvision")
    message = (
        f"{file} is not the published file: its sha256 is {sha256}, the published one 1378be20…"
    )
    assert [str(warning.message) for warning in caught] == [message]
    assert not {"hash", "top1", "top5"} & set(pretrained.origin)  # the published facts do not hold
    assert pretrained.preprocessing == metadata.TORCH_224_SYMMETRIC


def test_the_hash_of_the_record(file, monkeypatch):
    """The hash identifies a file under any name."""
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    rows = tuple(
        r._replace(hash=f"sha256:{digits}") if (r.source, r.model) == ("torchvision", MODEL) else r
        for r in RECORDS
    )
    monkeypatch.setattr(metadata, "RECORDS", rows)
    renamed = file.with_name("renamed.safetensors")
    renamed.write_bytes(file.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error", weights.WeightsWarning)
        for path in (file, renamed):
            origin = weights.load(path, MODEL, "torchvision").origin
            assert (origin["file"], origin["hash"], origin["top1"]) == (
                path.name,
                f"sha256:{digits}",
                69.778,
            )


def test_no_record(file):
    path = file.with_name("mine.safetensors")
    path.write_bytes(file.read_bytes())
    message = (
        r"^no record of mine\.safetensors: assuming the preprocessing of "
        r"torchvision's googlenet-1378be20\.pth$"
    )
    with pytest.warns(weights.WeightsWarning, match=message):
        pretrained = weights.load(path, MODEL, "torchvision")
    assert pretrained.preprocessing == metadata.TORCH_224_SYMMETRIC
    assert pretrained.origin == {"source": "torchvision", "file": "mine.safetensors"}


def record_of(path, model, tag=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return metadata.find(path, "timm", model, tag)


def test_timms_tags(tmp_path):
    """All its files have one name: the tag comes from the hub's folder or from the caller."""
    hub = (
        tmp_path / "models--timm--inception_v3.gluon_in1k" / "snapshots" / "1" / "model.safetensors"
    )
    record, note = record_of(hub, "inception_v3")
    assert (record.tag, note) == ("gluon_in1k", "")
    record, note = record_of(tmp_path / "model.safetensors", "inception_v3", "tf_adv_in1k")
    assert (record.tag, record.file, note) == ("tf_adv_in1k", "model.safetensors", "")
    record, note = record_of(tmp_path / "model.safetensors", "inception_v3")
    assert record is None
    assert note == (
        "no record of model.safetensors: assuming the preprocessing of timm's inception_v3.tf_in1k "
        "(choose by model='inception_v3.TAG': tf_in1k, tf_adv_in1k, tv_in1k, gluon_in1k)"
    )
    record, note = record_of(tmp_path / "model.safetensors", "vgg16")
    assert (record.tag, note) == ("tv_in1k", "")
    message = r"model='inception_v3\.gluon' is unknown; did you mean inception_v3\.gluon_in1k"
    with pytest.raises(ValueError, match=message):
        record_of(tmp_path / "model.safetensors", "inception_v3", "gluon")
