"""torch files are pickles: only tensors are taken out of them, and nothing in them is run."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from cnnjax import weights
from tests.parity.peers import load
from tests.weights.files import torchvision_tensors, variables

pytestmark = pytest.mark.parity

MODEL = "inception_v1_bn"


class Code:
    """What an attacker puts into a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def tensors():
    import torch

    values = torchvision_tensors(MODEL, variables(MODEL, num_classes=4, aux=False))
    return OrderedDict((name, torch.from_numpy(x)) for name, x in values.items())


def sentence(path):
    with pytest.raises(weights.WeightsError) as caught:
        load(path, MODEL, "torchvision")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_refused(how, tensors, tmp_path):
    import torch

    path, content = tmp_path / "file.pth", {**tensors, "code": Code(tmp_path / "was_run")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content["code"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    assert "holds pickled objects or code" in sentence(path)
    assert sentence(path).endswith("and was refused: save the model's state_dict()")
    assert not (tmp_path / "was_run").exists()


def test_a_whole_module_is_refused(tmp_path):
    import torch

    torch.save(torch.nn.Linear(2, 3), tmp_path / "file.pth")
    assert "holds pickled objects or code (torch.nn.modules.linear.Linear)" in sentence(
        tmp_path / "file.pth"
    )


@pytest.mark.parametrize("new", [True, False])
def test_truncated(new, tensors, tmp_path):
    import torch

    path = tmp_path / "file.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    for length in (len(whole) - 100, len(whole) // 2, 1000):
        path.write_bytes(whole[:length])
        assert "is truncated or damaged" in sentence(path)


def test_what_else_torch_saves(tensors, tmp_path):
    import torch

    path = tmp_path / "file.pth"
    torch.save([1, 2], path)
    assert sentence(path).endswith("holds no state_dict, but list")
    torch.save({"epoch": 3}, path)
    assert "holds no state_dict" in sentence(path)
    torch.save({}, path)
    assert sentence(path).endswith(f"does not fit torchvision's {MODEL}: it is empty")


def test_training_checkpoints(tensors, tmp_path):
    """Alone, in the older format, inside a checkpoint, from DataParallel, in half precision."""
    import torch

    parallel = {f"module.{name}": x for name, x in tensors.items()}
    halves = {name: x.half() for name, x in tensors.items()}
    contents = {
        "plain": tensors,
        "inside": {"epoch": 3, "state_dict": tensors, "optimizer": {}},
        "parallel": {"model": parallel},
    }
    torch.save(tensors, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    for name, content in (contents | {"halves": halves}).items():
        torch.save(content, tmp_path / f"{name}.pth")
    expected = tensors["conv1.conv.weight"].numpy().transpose(2, 3, 1, 0)
    for name in (*contents, "older", "halves"):
        kernel = load(tmp_path / f"{name}.pth", MODEL, "torchvision").variables["params"]["conv1"][
            "conv"
        ]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_allclose(kernel, expected, rtol=1e-3 if name == "halves" else 0)
