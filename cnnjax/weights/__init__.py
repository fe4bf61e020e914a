"""Published weights as variables of these networks, and a file format of our own.

`load` reads a file, `save` writes our format, `RECORDS` lists the known files. Nothing is
downloaded. README.md explains the sources and the commands.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.registry import create_model, get_spec
from cnnjax.spelling import choice
from cnnjax.trees import flatten
from cnnjax.weights import imagenet
from cnnjax.weights.assemble import HOW, assemble
from cnnjax.weights.export import export
from cnnjax.weights.layout import Source, Tensors, WeightsError, WeightsWarning
from cnnjax.weights.metadata import RECORDS, Preprocessing, Record, find, records_of
from cnnjax.weights.network import Prediction, Pretrained
from cnnjax.weights.publishers import SOURCES
from cnnjax.weights.read import read, safetensors_metadata
from cnnjax.weights.recognise import fits, recognise

__all__ = [
    "RECORDS",
    "SOURCES",
    "Prediction",
    "Preprocessing",
    "Pretrained",
    "Record",
    "WeightsError",
    "WeightsWarning",
    "export",
    "load",
    "save",
]

VERSION = 2  # from 2 on with a digest
# The metadata, beside the digest.
CONTENT = (
    *("version", "model", "num_classes", "options"),
    *("image_shape", "preprocessing", "class_names", "origin"),
)


def load(
    path: str | os.PathLike,
    model: str | None = None,
    source: str | None = "cnnjax",
    *,
    num_classes: int | None = None,
    trunk: bool = False,
    keep_background: bool = False,
    **options: Any,
) -> Pretrained:
    """Loads a file of weights into a model that fits them.

    Warns with WeightsWarning if layers were initialised at random, if tensors of the file were left
    out, if the file's hash is not the published one, or if there is no record of the file.

    Args:
        path: the file (for TF-slim and facenet also a checkpoint's prefix or folder).
        model: one of `cnnjax.list_models()`. timm publishes several weights for one model; if the
            file's name does not tell which, append the tag: "inception_v3.gluon_in1k". Our own
            files need no `model`.
        source: who wrote the file: cnnjax, torchvision, timm, keras, slim or facenet. None: the
            names of its tensors tell, and the model as well.
        num_classes: by default the file's number of classes. With another number, the classifiers
            are initialised at random and listed in `Pretrained.fresh`.
        trunk: load the network up to its features. A classifier of any kind is left out, and the
            model's own is initialised at random.
        keep_background: keep the class that TF-slim puts before ImageNet's 1000.
        **options: further fields of the model, such as `dtype` or `dropout`.

    Returns:
        The model with every variable filled, and the preprocessing that the weights need.

    Raises:
        WeightsError: the file cannot be read, or a tensor is missing, left over, of another shape
            or not finite. The message names it.
        ValueError: an unknown model, source or option.

    >>> import tempfile
    >>> model = cnnjax.create_model("lenet5")
    >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> preprocessing = cnnjax.weights.Preprocessing(32, channels="L")
    >>> path = tempfile.mkdtemp() + "/lenet5.safetensors"
    >>> cnnjax.weights.save(
    ...     path, cnnjax.weights.Pretrained(model, variables, preprocessing, name="lenet5")
    ... )
    >>> pretrained = cnnjax.weights.load(path)
    >>> pretrained(np.zeros((2, 32, 32, 1), np.uint8)).logits.shape
    (2, 10)
    """
    path = Path(path)
    if source is not None:
        choice("source", source, [*SOURCES, "cnnjax"])
    if source not in (None, "cnnjax") and model is None:
        raise ValueError(f"weights of {source} need model=…; one of {', '.join(_models(source))}")
    wanted, _, tag = (model or "").partition(".")
    if source not in (None, "cnnjax"):
        get_spec(wanted)
        if wanted not in _models(source):
            raise ValueError(f"{source} publishes no {wanted}; it has {', '.join(_models(source))}")
    format, tensors, key = read(path)
    metadata = safetensors_metadata(path) if format == "safetensors" else {}
    if source == "cnnjax" or (source is None and "cnnjax" in metadata):
        if "cnnjax" not in metadata:
            raise WeightsError(
                f"{path} is a {format} file, but cnnjax did not write it: give its source=…"
            )
        return _load_ours(path, metadata["cnnjax"], tensors, model, num_classes, trunk, options)
    if source is None:
        source, wanted = recognise(path, format, tensors, wanted)
    publisher = next((s for s in SOURCES[source] if format in s.formats and wanted in s.maps), None)
    if publisher is None:
        raise WeightsError(
            f"{path} is a {format} file, and {source} publishes none of {wanted} in that format"
        )
    return _load_published(
        path,
        f"{path} (its {key})" if key else str(path),
        publisher.prepare(tensors),
        source,
        publisher,
        wanted,
        tag,
        num_classes=num_classes,
        trunk=trunk,
        keep_background=keep_background,
        options=options,
    )


def _load_published(
    path: Path,
    shown: str,
    tensors: Tensors,
    source: str,
    publisher: Source,
    model: str,
    tag: str,
    *,
    num_classes: int | None,
    trunk: bool,
    keep_background: bool,
    options: dict[str, Any],
) -> Pretrained:
    """A publisher's file, as `load` returns it."""
    map = publisher.maps[model]
    bias = tensors.get(map.classifier)
    classes = len(bias) if bias is not None and bias.ndim == 1 else None
    drop = int(map.background and classes == 1001 and not keep_background)
    needed = map.options_of(tensors)
    fitting = classes - drop if classes else None
    count = num_classes or (None if trunk else fitting)
    network = create_model(model, num_classes=count, **needed | options)
    if map.aux is not None and needed["aux"] and not getattr(network, "aux", False):
        tensors = {name: x for name, x in tensors.items() if not name.startswith(map.aux)}
    size, what = get_spec(model).input_size, f"{shown} does not fit {source}'s {model}"
    try:
        assembled = assemble(
            network,
            size,
            tensors,
            what,
            publisher,
            map,
            drop=drop,
            new_heads=num_classes not in (None, fitting),
            trunk=trunk,
        )
    except WeightsError as error:
        foreign = classes is None or " does not fit head/" in str(error)
        if trunk or not foreign or not fits(publisher, model, map, tensors):
            raise
        hint = "trunk=True loads the network without its classifier"
        raise WeightsError(f"{error}; {hint}") from None
    record, note = find(path, source, model, tag)
    notes = [note] if note else []
    if assembled.fresh:
        notes.append(
            f"{path} has no values of {network.num_classes} classes for "
            f"{', '.join(assembled.fresh)}: initialised at random"
        )
    if trunk and assembled.left_out:
        notes.append(f"{path}: left out are {', '.join(assembled.left_out)}")
    for text in notes:
        warnings.warn(text, WeightsWarning, stacklevel=3)
    origin = {"source": source, "file": path.name}
    class_names = None
    if record:
        keys = ("where", "tag", "hash", "licence", "top1", "top5", "note")
        origin |= {key: value for key in keys if (value := getattr(record, key))}
        if not assembled.fresh and source != "facenet":
            class_names = _of_imagenet(network.num_classes)
    preprocessing = (record or records_of(source, model)[0]).preprocessing
    return Pretrained(
        network,
        assembled.variables,
        preprocessing,
        class_names,
        model,
        origin,
        assembled.fresh,
    )


def _of_imagenet(count: int) -> tuple[str, ...] | None:
    """The names of ImageNet's classes, with TF-slim's background class where it was kept."""
    names = imagenet.names()
    return {len(names): names, len(names) + 1: ("background", *names)}.get(count)


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
    from safetensors.numpy import save_file

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
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # by the umask; safetensors makes files for their owner only
        # A single key, because the order of several is not fixed.
        save_file(tensors, partial, {"cnnjax": text})
        partial.chmod(mode)
        os.replace(partial, path)
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


def _load_ours(
    path: Path,
    text: str,
    tensors: Tensors,
    model: str | None,
    num_classes: int | None,
    trunk: bool,
    options: dict[str, Any],
) -> Pretrained:
    """A file that `save` wrote, as `load` returns it."""
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


def _models(source: str) -> list[str]:
    """The models that a source publishes weights of."""
    return list(dict.fromkeys(model for s in SOURCES[source] for model in s.maps))
