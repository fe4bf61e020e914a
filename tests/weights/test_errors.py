"""A wrong file gets one sentence that says what is wrong. (Pickles: see tests/parity.)"""

import sys
import warnings
import zipfile

import numpy as np
import pytest

from cnnjax import weights
from cnnjax.weights.layout import fold
from tests.weights.files import torchvision_tensors, variables, write
from tests.weights.slim_names import write_checkpoint

MODEL = "inception_v1_bn"


@pytest.fixture(scope="module")
def values():
    return variables(MODEL, num_classes=11, aux=False)


@pytest.fixture(scope="module")
def tensors(values):
    return torchvision_tensors(MODEL, values)


def load(path, model=MODEL, source="torchvision", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", weights.WeightsWarning)
        return weights.load(path, model, source, **options)


def sentence(path, *arguments, **options):
    """The message of the WeightsError, which has one line."""
    with pytest.raises(weights.WeightsError) as caught:
        load(path, *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_right_file(tensors, values, tmp_path):
    pretrained = load(write(tmp_path / "a.safetensors", tensors))
    assert pretrained.model.num_classes == 11
    assert not pretrained.model.aux
    kernel = pretrained.variables["params"]["mixed4b"]["branch3x3"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, values["params/mixed4b/branch3x3/conv/kernel"])


def test_tensors_that_do_not_fit(tensors, tmp_path):
    path = tmp_path / "a.safetensors"
    start = f"{path} does not fit torchvision's {MODEL}: "
    without = {name: x for name, x in tensors.items() if name != "conv2.bn.running_var"}
    assert sentence(write(path, without)) == start + "tensor 'conv2.bn.running_var' is missing"
    more = tensors | {
        "conv9.weight": np.zeros(3, np.float32),
        "conv9.bias": np.zeros(3, np.float32),
    }
    assert (
        sentence(write(path, more)) == start + "tensor 'conv9.bias' (and 1 more) has no place in it"
    )
    renamed = without | {"conv2.bn.variance": tensors["conv2.bn.running_var"]}
    assert (
        sentence(write(path, renamed))
        == start + "tensor 'conv2.bn.running_var' is missing and 'conv2.bn.variance' left over"
    )
    wrong = tensors | {"conv3.conv.weight": np.zeros((192, 64, 1, 9), np.float32)}
    assert sentence(write(path, wrong)) == (
        start
        + "tensor 'conv3.conv.weight' of shape (192, 64, 1, 9) "
        + "does not fit conv2/conv/kernel of shape (3, 3, 64, 192)"
    )


def test_values_that_are_not_finite(tensors, tmp_path):
    bias = tensors["fc.bias"].copy()
    bias[3] = np.nan
    path = write(tmp_path / "a.safetensors", tensors | {"fc.bias": bias})
    assert sentence(path).endswith("tensor 'fc.bias' holds values that are not finite")


def test_another_architecture_or_source(tensors, tmp_path):
    path = write(tmp_path / "a.safetensors", tensors)
    other = "does not fit torchvision's vgg16: it holds none of its tensors, but 'conv1.bn.bias'"
    assert f"{other} (and" in sentence(path, "vgg16")
    assert "does not fit torchvision's inception_v3: tensor 'Conv2d_1a_3x3." in sentence(
        path, "inception_v3"
    )
    assert (
        sentence(path, MODEL, "slim")
        == f"{path} is a safetensors file, and slim publishes none of {MODEL} in that format"
    )
    assert "is a safetensors file, and keras publishes none of vgg16" in sentence(
        path, "vgg16", "keras"
    )


def test_usage(tmp_path):
    for arguments, message in [
        (
            ("a", "vgg16", "torchvison"),
            "source='torchvison' is unknown; did you mean torchvision",
        ),
        (("a", "vgg61", "torchvision"), "model='vgg61' is unknown; did you mean vgg"),
        (
            ("a", "inception_v4", "torchvision"),
            "torchvision publishes no inception_v4; it has alexnet_owt, vgg11,",
        ),
        (("a", None, "torchvision"), "weights of torchvision need model="),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            weights.load(*arguments)
        assert not isinstance(caught.value, weights.WeightsError)


def test_files_that_are_something_else(tensors, tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert sentence(tmp_path / "none.pth") == f"there is no file {tmp_path}/none.pth"
    assert sentence(tmp_path) == f"{tmp_path} is a folder: name the file of weights in it"
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    assert "is a run folder: write its weights to a file first" in sentence(tmp_path / "run")
    assert sentence(file("empty.pth", b"")).endswith("empty.pth is empty")
    page = b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>"
    for name in ("page.pth", "page.h5", "page.safetensors"):
        assert sentence(file(name, page)).endswith(
            f"{name} is a web page, not weights: the download went wrong"
        )
    assert sentence(file("a.tar.gz", b"\x1f\x8b\x08" + bytes(99))).endswith(
        "is a packed archive: unpack it and name the checkpoint in it"
    )
    assert "is a Git LFS pointer" in sentence(
        file("lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a")
    )
    assert "has an unknown format; known are torch, safetensors," in sentence(
        file("noise.pth", bytes(range(256)) * 4)
    )
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is a zip archive that neither torch nor Keras wrote" in sentence(tmp_path / "other.zip")


def test_truncated_files(tensors, tmp_path):
    whole = write(tmp_path / "a.safetensors", tensors).read_bytes()
    for length in (len(whole) // 2, 50):
        (tmp_path / "a.safetensors").write_bytes(whole[:length])
        assert "is truncated or damaged" in sentence(tmp_path / "a.safetensors")

    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(10_000)
    assert "is an HDF5 file, but Keras did not write it: no layers listed" in sentence(
        tmp_path / "a.h5", "vgg16", "keras"
    )
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[:4000])
    assert "is truncated or damaged" in sentence(tmp_path / "a.h5", "vgg16", "keras")

    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("model.weights.h5", whole)
    whole = (tmp_path / "a.keras").read_bytes()
    (tmp_path / "a.keras").write_bytes(whole[: len(whole) - 30])
    assert "is truncated or damaged: its table of contents cannot be read" in sentence(
        tmp_path / "a.keras", "vgg16", "keras"
    )

    write_checkpoint(tmp_path / "model.ckpt", {"x": np.zeros(10_000, np.float32)})
    assert "does not fit slim's vgg16: it holds none of its tensors, but 'x'" in sentence(
        tmp_path / "model.ckpt", "vgg16", "slim"
    )
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    assert "is truncated or damaged" in sentence(tmp_path / "model.ckpt", "vgg16", "slim")


def test_early_keras_3(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64))
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        file["_layer_checkpoint_dependencies/conv2d/vars/0"] = np.zeros((3, 3, 3, 64))
    for name in ("a.weights.h5", "b.weights.h5"):
        assert "was written by an early Keras 3, which named no layers" in sentence(
            tmp_path / name, "vgg16", "keras"
        )


@pytest.mark.parametrize(
    ("name", "content"),
    [("torch", b"\x80\x02}q\x00."), ("h5py", b"\x89HDF\r\n\x1a\n"), ("safetensors", None)],
)
def test_a_library_that_is_not_there(name, content, tmp_path, monkeypatch):
    path = write(tmp_path / "file", {"x": np.zeros(3, np.float32)})
    if content:
        path.write_bytes(content)
    monkeypatch.setitem(sys.modules, name, None)
    source, model = ("keras", "vgg16") if name == "h5py" else ("torchvision", MODEL)
    assert sentence(path, model, source).endswith(
        f"and reading it needs {name}: pip install it first"
    )


def test_only_equal_axes_are_folded():
    x = np.zeros((7, 7, 5, 3))
    assert fold(x, (245, 3)).shape == (245, 3)
    assert fold(x.reshape(245, 3), (7, 7, 5, 3)).shape == x.shape
    for shape in ((3, 245), (7, 5, 7, 3), (35, 21), (244, 3)):
        assert fold(x, shape) is x
