"""Reads files of weights as dictionaries of numpy arrays.

The format is recognised by the file's first bytes, not by its name. h5py, safetensors, torch and
tensorflow are imported when needed; an error names the one that is missing.

One function a format.
"""

import argparse
import hashlib
import importlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.weights.layout import Tensors, WeightsError, WeightsWarning

# Where training scripts keep a state_dict. Averages come first: they are what is evaluated.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PARAMETERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
# What wrappers put before names: DataParallel, torch.compile, and modules that hold the network.
WRAPPERS = r"(^|(?<=\.))(module|_orig_mod)\."
HOLDERS = ("model.", "backbone.", "net.", "network.", "encoder.")

# The last bytes of a TensorFlow checkpoint's index, and of a whole checkpoint of version 1.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")


def library(name: str, path: Path, what: str, verb: str = "reading") -> Any:
    """Imports a library. WeightsError: it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"{path} is {what}, and {verb} it needs {name.partition('.')[0]}: pip install it first"
        ) from error


def sniff(path: Path) -> str:
    """The format of a file: a key of READERS. WeightsError: it has none of these formats."""
    if path.with_name(path.name + ".index").is_file():
        return "tensorflow"
    if not path.exists():
        raise WeightsError(f"there is no file {path}")
    if path.is_dir():
        if (path / "checkpoint").is_file():
            return "tensorflow"
        if (path / "checkpoints").is_dir():
            raise WeightsError(
                f"{path} is a run folder: write its weights to a file first, with "
                f"python -m train.export --workdir={path} --format=safetensors --out=FILE"
            )
        raise WeightsError(f"{path} is a folder: name the file of weights in it")
    if not path.is_file():  # opening a FIFO would wait for its writer
        raise WeightsError(f"{path} is not a regular file")
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
        # zipfile raises NotImplementedError for a version or a compression that it does not know.
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise WeightsError(
                f"{path} is truncated or damaged: its table of contents cannot be read"
            ) from error
        if "model.weights.h5" in members:
            return "hdf5"
        if any(member.endswith("constants.pkl") for member in members):
            raise WeightsError(
                f"{path} is a TorchScript program: save the state_dict() of the model instead"
            )
        if any(member.endswith("data.pkl") for member in members):
            return "torch"
        raise WeightsError(
            f"{path} is a zip archive that neither torch nor Keras wrote (as .npz files are); "
            f"formats are {', '.join(READERS)}"
        )
    # The length of a JSON object. 0x280 would look like a pickle, so this test comes first.
    length = int.from_bytes(head[:8], "little")
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
        raise WeightsError(f"{path} is a Git LFS pointer: fetch the file itself")
    raise WeightsError(
        f"{path} has an unknown format; known are torch, safetensors, HDF5, Keras "
        "and TensorFlow checkpoints"
    )


def digest(path: Path, algorithm: str) -> str:
    """The hash of a file as hex digits."""
    with open(path, "rb") as file:
        new = hashlib.new(algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: new).hexdigest()


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        format: a key of READERS.
        tensors: by name.
        key: where in a training checkpoint they were, or "".
    """

    format: str
    tensors: Tensors
    key: str = ""


def read(path: Path) -> Content:
    """Reads a file of any format. WeightsError: it cannot be read."""
    return READERS[sniff(path)](path)


def _damaged(path: Path, error: Exception) -> WeightsError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WeightsError(f"{path} is truncated or damaged ({first[:160]})")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})


def _safetensors(path: Path) -> Content:
    library("safetensors", path, "a safetensors file")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            # NumPy has no types of 8 bits and fewer, and the library raises what it likes.
            names = list(file.keys())  # an open file is no mapping: it cannot be iterated
            types = {name: file.get_slice(name).get_dtype() for name in names}
            strange = next((name for name, type in types.items() if type.startswith("F8")), None)
            if strange is not None:
                raise WeightsError(
                    f"{path} holds {types[strange]} values ({strange!r}), which cannot be read: "
                    "convert it to float16 or float32"
                )
            tensors = {name: file.get_tensor(name) for name in types}
    except (SafetensorError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise _damaged(path, error) from error
    return Content("safetensors", _without_wrappers(path, tensors))


def _torch(path: Path) -> Content:
    """A `state_dict`, alone or in a training checkpoint.

    Only tensors are unpickled, and the options that training scripts save beside them. A file with
    code or other objects is refused.
    """
    torch = library("torch", path, "a torch file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise _damaged(path, error) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = f" ({found[1]})" if found else ""
        raise WeightsError(
            f"{path} holds pickled objects or code{name}, not only tensors, and was refused: "
            "save the model's state_dict()"
        ) from error
    except Exception as error:  # the class depends on where a pickle was cut
        raise _damaged(path, error) from error
    key, state = _state_dict(path, content, torch.Tensor)
    tensors = {name: x.detach().to(torch.float32).numpy() for name, x in state.items()}
    return Content("torch", _without_wrappers(path, tensors), key)


def _state_dict(path: Path, content: Any, tensor: type) -> tuple[str, dict[str, Any]]:
    """The dictionary of tensors in what a torch file holds, and its key there, or ""."""

    def is_one(x: Any) -> bool:
        return isinstance(x, dict) and bool(x) and all(isinstance(v, tensor) for v in x.values())

    if is_one(content) or content == {}:
        return "", content
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no state_dict, but {type(content).__name__}")
    found = [key for key in (*AVERAGES, *PARAMETERS) if is_one(content.get(key))]
    # The name of a model's own choice, if there is only one.
    found = found or [key for key, value in content.items() if is_one(value)]
    if len(found) != 1 and (not found or found[0] not in (*AVERAGES, *PARAMETERS)):
        keys = ", ".join(map(str, found or content))
        raise WeightsError(f"{path} holds {'several' if found else 'no'} state_dict: {keys}")
    if found[0] in AVERAGES and len(found) > 1:
        _say(f"{path} holds {' and '.join(found)}: taking the averages, {found[0]}")
    return found[0], content[found[0]]


def _without_wrappers(path: Path, tensors: Tensors) -> Tensors:
    """The tensors without the prefixes that wrappers put before their names."""
    names = {name: re.sub(WRAPPERS, "", name) for name in tensors}
    stripped = sorted({match[2] + "." for n in tensors for match in re.finditer(WRAPPERS, n)})
    while holder := next((h for h in HOLDERS if any(n.startswith(h) for n in names.values())), ""):
        names = {old: new.removeprefix(holder) for old, new in names.items()}
        stripped.append(holder)
    if not stripped or len(set(names.values())) < len(names):
        return tensors
    _say(f"{path}: {', '.join(stripped)} was removed from the names of its tensors")
    return {names[name]: x for name, x in tensors.items()}


def _say(text: str) -> None:
    warnings.warn(text, WeightsWarning, stacklevel=2)


def _hdf5(path: Path) -> Content:
    """Keras' `.h5` (version 1 and 2), `.weights.h5` and `.keras` (3), as `layer/kernel`."""
    h5py = library("h5py", path, "an HDF5 file")
    try:
        file: Any = path
        if zipfile.is_zipfile(path):
            file = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
        with h5py.File(file) as root:
            if "layers" in root:
                return Content("hdf5", _keras_3(path, root["layers"], h5py))
            if "_layer_checkpoint_dependencies" in root:
                raise _early_keras_3(path)
            return Content("hdf5", _keras_2(path, root.get("model_weights", root)))
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _keras_2(path: Path, root: Any) -> Tensors:
    """A group for each layer; its attribute `weight_names` lists its datasets."""
    if "layer_names" not in root.attrs:
        raise WeightsError(f"{path} is an HDF5 file, but Keras did not write it: no layers listed")
    tensors: Tensors = {}
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs["weight_names"]]
        parents = {name.rpartition("/")[0] for name in names}
        for name in names:
            # A model inside a model is one group of many layers; otherwise a group is a layer.
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
        f"{path} was written by an early Keras 3, which named no layers: save it with a newer one"
    )


def _keras_3(path: Path, root: Any, h5py: Any) -> Tensors:
    """A group for each layer, named by its class; the layer's name is an attribute.

    The datasets are numbered.
    """
    tensors: Tensors = {}

    def visit(name: str, group: Any) -> None:
        if not isinstance(group, h5py.Group) or not len(group):
            return
        if not name.endswith("/vars") or "seed_generator" in name:
            return
        if "name" not in group.attrs:
            raise _early_keras_3(path)
        values = [np.asarray(group[str(i)]) for i in range(len(group))]
        if values[0].ndim > 1:
            names = ["kernel", "bias"]
        else:
            names = ["gamma", "beta", "moving_mean", "moving_variance"][-len(values) :]
        for leaf, value in zip(names, values):
            tensors[f"{_text(group.attrs['name'])}/{leaf}"] = value

    root.visititems(visit)
    return tensors


def _tensorflow(path: Path) -> Content:
    """A checkpoint of version 1 (one file) or 2 (its prefix, any of its files, or its folder)."""
    train = library("tensorflow", path, "a TensorFlow checkpoint").train
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    if path.is_dir():
        prefix = train.latest_checkpoint(str(path))
        if prefix is None:
            raise WeightsError(f"{path} lists a checkpoint that does not exist")
    try:
        reader = train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        return Content("tensorflow", {name: reader.get_tensor(name) for name in names})
    except Exception as error:  # the class depends on TensorFlow's version
        raise _damaged(path, error) from error


READERS: dict[str, Callable[[Path], Content]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "hdf5": _hdf5,
    "tensorflow": _tensorflow,
}
