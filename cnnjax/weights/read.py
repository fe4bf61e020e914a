"""Files of weights as dictionaries of numpy arrays. What a file is, is read from its first bytes, not from its name.

h5py, safetensors, torch and tensorflow are imported where they are needed; a missing one is named in one sentence.
"""

import hashlib
import importlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.weights.layout import Tensors, WeightsError

TABLE_MAGIC = bytes.fromhex(
    "57fb808b247547db"
)  # ends the index of a TensorFlow checkpoint, and a whole one of version 1


def library(name: str, path: Path, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"{path} is {what}, and reading it needs {name.partition('.')[0]}: pip install it first"
        ) from error


def sniff(path: Path) -> str:
    """The format of a file: a key of READERS. WeightsError says what it is instead."""
    if path.with_name(path.name + ".index").is_file():
        return "tensorflow"
    if not path.exists():
        raise WeightsError(f"there is no file {path}")
    if path.is_dir():
        if (path / "checkpoint").is_file():
            return "tensorflow"
        raise WeightsError(f"{path} is a folder: name the file of weights in it")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        file.seek(max(0, size - 8))
        tail = file.read()
    if not head:
        raise WeightsError(f"{path} is empty")
    if tail == TABLE_MAGIC or (".ckpt" in path.name and ".data-" in path.name):
        return "tensorflow"
    if head.startswith(b"\x89HDF\r\n"):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        try:
            members = zipfile.ZipFile(path).namelist()
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
        ) as error:  # the second: a zip version that is none
            raise WeightsError(
                f"{path} is truncated or damaged: its table of contents cannot be read"
            ) from error
        if "model.weights.h5" in members:
            return "hdf5"
        if any(member.endswith("data.pkl") for member in members):
            return "torch"
        raise WeightsError(
            f"{path} is a zip archive, but neither torch nor Keras wrote it: unpack it and name the file in it"
        )
    length = int.from_bytes(
        head[:8], "little"
    )  # of a JSON object: looks like a pickle if it is 0x280
    if head[8:9] == b"{" and length < 2**40:
        if length + 8 > size:
            raise WeightsError(
                f"{path} is truncated or damaged: its header is longer than the file"
            )
        return "safetensors"
    if re.match(rb"\x80[\x02-\x05]", head):
        return "torch"
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        raise WeightsError(f"{path} is a packed archive: unpack it and name the checkpoint in it")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path} is a web page, not weights: the download went wrong")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer: fetch the file that it stands for")
    raise WeightsError(
        f"{path} is none of the known formats (torch, safetensors, HDF5, Keras, TensorFlow checkpoint)"
    )


def digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def read(path: Path) -> tuple[str, Tensors]:
    """The format of a file, and its tensors by the names that they have in it."""
    format = sniff(path)
    return format, READERS[format](path)


def _damaged(path: Path, error: Exception) -> WeightsError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WeightsError(f"{path} is truncated or damaged ({first[:160]})")


# ---------------------------------------------------------------------------------------------- safetensors


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The text that a safetensors file carries beside its tensors."""
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})


def _safetensors(path: Path) -> Tensors:
    library("safetensors", path, "a safetensors file")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


# ---------------------------------------------------------------------------------------------- torch


def _torch(path: Path) -> Tensors:
    """A `state_dict`, alone or in a training checkpoint. Only tensors are unpickled: code in the file is refused."""
    torch = library("torch", path, "a torch file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise _damaged(path, error) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path} holds pickled objects or code{f' ({found[1]})' if found else ''}, not only tensors, and was refused: "
            "save the model's state_dict()"
        ) from error
    except Exception as error:  # what a cut pickle fails with depends on where it was cut
        raise _damaged(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(x, torch.Tensor) for x in content.values()
    ):
        raise WeightsError(f"{path} holds no state_dict, but {type(content).__name__}")
    # DataParallel puts `module.` in front of every name.
    return {
        name.removeprefix("module."): x.detach().to(torch.float32).numpy()
        for name, x in content.items()
    }


# ---------------------------------------------------------------------------------------------- Keras


def _hdf5(path: Path) -> Tensors:
    """Keras: `.h5` of versions 1 and 2, `.weights.h5` and `.keras` of version 3, as `layer/kernel`."""
    h5py = library("h5py", path, "an HDF5 file")
    try:
        file: Any = path
        if zipfile.is_zipfile(path):
            file = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
        with h5py.File(file) as root:
            if "layers" in root:
                return _keras_3(path, root["layers"], h5py)
            if "_layer_checkpoint_dependencies" in root:
                raise _early_keras_3(path)
            return _keras_2(path, root.get("model_weights", root))
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _keras_2(path: Path, root: Any) -> Tensors:
    """A group for each layer, whose attribute `weight_names` lists its datasets."""
    if "layer_names" not in root.attrs:
        raise WeightsError(f"{path} is an HDF5 file, but not one of Keras: it lists no layers")
    tensors: Tensors = {}
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs["weight_names"]]
        parents = {name.rpartition("/")[0] for name in names}
        for name in names:
            # A model that is a layer of another one is one group; otherwise the group's name is the layer's.
            owner = layer if len(parents) == 1 else name.split("/")[-2]
            tensors[f"{owner}/{_keras_leaf(name)}"] = np.asarray(root[layer][name])
    return tensors


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras_leaf(name: str) -> str:
    """`block1_conv1/block1_conv1_W_1:0` (Keras 1) and `block1_conv1/kernel:0` are both a kernel."""
    last = re.sub(r"(_\d+)?(:0)?$", "", name.rpartition("/")[2])
    return {"W": "kernel", "b": "bias"}.get(last.rpartition("_")[2], last)


def _early_keras_3(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is of an early Keras 3, which named no layers: save it with a newer one"
    )


def _keras_3(path: Path, root: Any, h5py: Any) -> Tensors:
    """A group for each layer, named by its class, with an attribute for its name; datasets are numbered."""
    tensors: Tensors = {}

    def visit(name: str, group: Any) -> None:
        if (
            not isinstance(group, h5py.Group)
            or not name.endswith("/vars")
            or not len(group)
            or "seed_generator" in name
        ):
            return
        if "name" not in group.attrs:
            raise _early_keras_3(path)
        values = [np.asarray(group[str(i)]) for i in range(len(group))]
        if values[0].ndim > 1:
            leaves = ["kernel", "bias"]
        else:
            leaves = ["gamma", "beta", "moving_mean", "moving_variance"][-len(values) :]
        for leaf, value in zip(leaves, values):
            tensors[f"{_text(group.attrs['name'])}/{leaf}"] = value

    root.visititems(visit)
    return tensors


# ---------------------------------------------------------------------------------------------- TensorFlow


def _tensorflow(path: Path) -> Tensors:
    """A checkpoint of version 1 (one file) or 2 (its prefix, or any of its files, or the folder that lists it)."""
    train = library("tensorflow", path, "a TensorFlow checkpoint").train
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    if path.is_dir():
        prefix = train.latest_checkpoint(str(path))
        if prefix is None:
            raise WeightsError(f"{path} lists a checkpoint that is not there")
    try:
        reader = train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # its own classes, of which each TensorFlow has others
        raise _damaged(path, error) from error


READERS: dict[str, Callable[[Path], Tensors]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "hdf5": _hdf5,
    "tensorflow": _tensorflow,
}
