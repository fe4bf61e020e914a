"""A file format of our own: safetensors, with all that loading needs in the metadata."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.registry import create_model, get_spec
from cnnjax.trees import flatten
from cnnjax.weights.assemble import HOW, assemble
from cnnjax.weights.layout import Tensors, WeightsError
from cnnjax.weights.metadata import Preprocessing
from cnnjax.weights.network import Pretrained

VERSION = 2  # from 2 on with a digest
# The metadata, beside the digest.
CONTENT = (
    *("version", "model", "num_classes", "options"),
    *("image_shape", "preprocessing", "class_names", "origin"),
)


def save(path: str | os.PathLike, pretrained: Pretrained) -> None:
    """Writes a safetensors file that holds all that `load(path)` needs.

    An existing file is replaced in one step, after the new one is complete.

    Args:
        path: the file to write.
        pretrained: what to write. `pretrained.name` must be the model's name in the registry.

    Returns:
        None.

    Raises:
        WeightsError: the variables or the class names do not fit the model, or one of the model's
            options cannot be written as JSON.
        ValueError: an unknown model.

    >>> import tempfile
    >>> model = cnnjax.create_model("lenet5")
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> preprocessing = cnnjax.weights.Preprocessing(32, channels="L")
    >>> pretrained = cnnjax.weights.Pretrained(model, variables, preprocessing, name="lenet5")
    >>> cnnjax.weights.save(tempfile.mkdtemp() + "/lenet5.safetensors", pretrained)
    """
    path, network = Path(path), pretrained.model
    default = create_model(pretrained.name, num_classes=network.num_classes)
    if type(network) is not type(default):
        raise WeightsError(f"a {type(network).__name__} is not the registry's {pretrained.name}")
    if pretrained.class_names is not None and len(pretrained.class_names) != network.num_classes:
        raise WeightsError(
            f"{len(pretrained.class_names)} class names do not fit {network.num_classes} classes"
        )
    leaves = flatten(pretrained.variables).items()
    tensors = {name: np.ascontiguousarray(x, np.float32) for name, x in leaves}
    shape = _fitting_shape(pretrained, tensors)
    fields = [field.name for field in dataclasses.fields(network) if field.name not in HOW]
    values = {name: getattr(network, name) for name in fields}
    options = {name: x for name, x in values.items() if x != getattr(default, name)}
    content = {
        "version": VERSION,
        "model": pretrained.name,
        "num_classes": network.num_classes,
        "options": options,
        "image_shape": shape,
        "preprocessing": pretrained.preprocessing.to_dict(),
        "class_names": pretrained.class_names,
        "origin": pretrained.origin,
    }
    try:
        content["digest"] = _digest(content, tensors)
        text = json.dumps(content)
    except TypeError as error:
        message = f"an option of {pretrained.name} cannot be written: {options}"
        raise WeightsError(message) from error
    write_safetensors(path, tensors, {"cnnjax": text})


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Writes a whole file or nothing, with the mode that the umask gives.

    Args:
        path: the file; one that is there is replaced.
        tensors: by name.
        metadata: one key at most, because the order of several is not fixed.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # safetensors makes files for their owner only
        save_file(tensors, partial, metadata)
        partial.chmod(mode)
        os.replace(partial, path)
    except SafetensorError as error:  # a full disk, for example
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _fitting_shape(pretrained: Pretrained, tensors: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """(H, W, C) of images for which the network has exactly these variables.

    It is `image_shape` if that is given; otherwise that of the preprocessing or of the registry.

    Raises:
        WeightsError: the variables do not fit.
    """
    preprocessing, name = pretrained.preprocessing, pretrained.name
    channels = 1 if preprocessing.channels == "L" else 3
    known = (preprocessing.size, preprocessing.size, channels), get_spec(name).input_size
    errors = []
    for shape in (pretrained.image_shape,) if pretrained.image_shape else dict.fromkeys(known):
        try:
            assemble(pretrained.model, shape, tensors, f"these variables do not fit {name}")
            return shape
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def load_own(
    path: Path,
    text: str,
    tensors: Tensors,
    model: str | None,
    num_classes: int | None,
    trunk: bool,
    options: dict[str, Any],
) -> Pretrained:
    """A file that `save` wrote, as `cnnjax.weights.load` returns it."""
    try:
        content = json.loads(text)
        version, digest = content["version"], content.pop("digest", None)
        if version > VERSION:
            raise WeightsError(
                f"{path} was written by a newer cnnjax (format {version}, this one reads {VERSION})"
            )
        # The first files had neither a digest nor a shape.
        first = "image_shape" not in content or (version < 2 and digest is None)
        if set(content) - set(CONTENT) or not (first or digest == _digest(content, tensors)):
            raise WeightsError(f"{path} is damaged: its content is not what was saved")
        name, origin = content["model"], content["origin"]
        stored = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["options"].items()
        }
        shape = tuple(content["image_shape"]) if "image_shape" in content else None
        names = tuple(content["class_names"]) if content["class_names"] else None
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        known_classes = content["num_classes"]
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged: its metadata cannot be read") from error
    if model not in (None, name):
        raise WeightsError(f"{path} holds {name}, not {model}")
    classes = num_classes or known_classes
    network = create_model(name, num_classes=classes, **stored | options)
    other = trunk or classes != known_classes
    size = shape or get_spec(name).input_size
    what = f"{path} does not fit {name}"
    assembled = assemble(network, size, tensors, what, new_heads=other)
    names, fresh = None if other else names, assembled.fresh
    return Pretrained(
        network, assembled.variables, preprocessing, names, name, origin, fresh, shape
    )


def _digest(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """The SHA-256 of a file's metadata and values, as `save` writes them."""
    digest = hashlib.sha256(json.dumps(content).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ravel(tensors[name]).data)
    return digest.hexdigest()
