"""Everybody's published weights as variables of these networks, and a file format of our own.

>>> pretrained = cnnjax.weights.load("inception_v3_google-0cc3c7bd.pth", "inception_v3", "torchvision")
>>> logits = pretrained.model.apply(pretrained.variables, pretrained.preprocessing(images)).logits
>>> cnnjax.weights.save("inception_v3.safetensors", pretrained)
>>> pretrained = cnnjax.weights.load("inception_v3.safetensors")

`metadata.RECORDS` lists the files that are known. Nothing is downloaded.
"""

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from cnnjax.registry import create_model, get_spec
from cnnjax.spelling import nearest
from cnnjax.weights import facenet, keras, slim, timm, torchvision
from cnnjax.weights.assemble import assemble
from cnnjax.weights.layout import Source, WeightsError, WeightsWarning, leaves
from cnnjax.weights.metadata import RECORDS, Preprocessing, Record, find, records_of
from cnnjax.weights.read import read, safetensors_metadata

__all__ = [
    "RECORDS",
    "Preprocessing",
    "Pretrained",
    "Record",
    "WeightsError",
    "WeightsWarning",
    "load",
    "save",
]

# facenet's two are in different formats: the file decides.
SOURCES: dict[str, tuple[Source, ...]] = {
    "torchvision": (torchvision.SOURCE,),
    "timm": (timm.SOURCE,),
    "keras": (keras.SOURCE,),
    "slim": (slim.SOURCE,),
    "facenet": (facenet.SOURCE_CHECKPOINT, facenet.SOURCE_PORT),
}
VERSION = 1

# Fields of a model that say how to run it, not which network it is.
HOW = ("parent", "name", "num_classes", "dtype", "bn_axis", "bn_frozen", "remat")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its values, and what has to be known to use it."""

    model: nn.Module
    variables: dict[str, Any]  # {"params": …, "batch_stats": …} of numpy arrays
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    name: str = ""  # of the model in the registry
    origin: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # source, file, hash, licence, published accuracy
    fresh: tuple[
        str, ...
    ] = ()  # modules that were initialised, because the file has no values for them


def load(path: str | os.PathLike, model: str | None = None, source: str = "cnnjax", *, num_classes: int | None = None,
         keep_background: bool = False, **options: Any) -> Pretrained:  # fmt: skip
    """A file of weights as a model that fits them, with every variable filled and the preprocessing that they need.

    `source` says who wrote the file: cnnjax (which needs no `model`), torchvision, timm, keras, slim or facenet. timm has
    several weights of one model: `model="inception_v3.gluon_in1k"` says which, if the file's name does not.

    The number of classes is the file's. Another `num_classes`, or a file without a classifier, gets freshly initialised
    ones (`Pretrained.fresh`). The class that TF-slim puts before ImageNet's 1000 is dropped unless `keep_background`.
    `options` are further fields of the model, such as `dtype` or `dropout`.

    WeightsError names what does not fit; a hash that is not the published one, or a file without a record, is a
    WeightsWarning. ValueError: an unknown model or source.
    """
    path = Path(path)
    if source == "cnnjax":
        return _load_ours(path, model, num_classes, options)
    if source not in SOURCES:
        raise ValueError(f"no source is called {source!r}; {nearest(source, [*SOURCES, 'cnnjax'])}")
    if model is None:
        raise ValueError(f"weights of {source} need model=…: {', '.join(_models(source))}")
    model, _, tag = model.partition(".")
    get_spec(model)
    if model not in _models(source):
        raise ValueError(f"{source} publishes no {model}; it has {', '.join(_models(source))}")

    format, tensors = read(path)
    publisher = next((s for s in SOURCES[source] if format in s.formats and model in s.maps), None)
    if publisher is None:
        raise WeightsError(
            f"{path} is a {format} file, and {source} publishes none of {model} in that format"
        )
    tensors, map = publisher.prepare(tensors), publisher.maps[model]
    classes = (
        len(tensors[map.classifier])
        if map.classifier in tensors and tensors[map.classifier].ndim == 1
        else None
    )
    drop = int(map.background and classes == 1001 and not keep_background)
    needed = dict(map.options)
    if map.aux is not None:
        needed["aux"] = any(name.startswith(map.aux) for name in tensors)
    fitting = classes - drop if classes else None
    network = create_model(model, num_classes=num_classes or fitting, **needed | options)
    if map.aux is not None and needed["aux"] and not getattr(network, "aux", False):
        tensors = {name: x for name, x in tensors.items() if not name.startswith(map.aux)}
    variables, fresh = assemble(
        network,
        get_spec(model).input_size,
        tensors,
        f"{path} does not fit {source}'s {model}",
        publisher,
        map,
        drop=drop,
        new_heads=num_classes not in (None, fitting),
    )
    record, note = find(path, source, model, tag)
    random = f"{path} has no values for {', '.join(fresh)}: initialised at random" if fresh else ""
    for text in filter(None, (random, note)):
        warnings.warn(text, WeightsWarning, stacklevel=2)
    preprocessing = (record or records_of(source, model)[0]).preprocessing
    origin = {"source": source, "file": path.name}
    if record:
        known = {
            key: getattr(record, key)
            for key in ("where", "tag", "hash", "licence", "top1", "top5", "note")
        }
        origin |= {key: value for key, value in known.items() if value}
    return Pretrained(network, variables, preprocessing, None, model, origin, fresh)


def save(path: str | os.PathLike, pretrained: Pretrained) -> None:
    """Writes a safetensors file that `load(path)` needs nothing else for. `pretrained.name` is the registry's.

    WeightsError: the variables are not the model's, or one of its options cannot be written.
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
    fields = [field.name for field in dataclasses.fields(network) if field.name not in HOW]
    options = {
        name: getattr(network, name)
        for name in fields
        if getattr(network, name) != getattr(default, name)
    }
    content = {
        "version": VERSION,
        "model": pretrained.name,
        "num_classes": network.num_classes,
        "options": options,
        "preprocessing": pretrained.preprocessing.to_dict(),
        "class_names": pretrained.class_names,
        "origin": pretrained.origin,
    }
    try:
        text = json.dumps(content)
    except TypeError as error:
        raise WeightsError(
            f"an option of {pretrained.name} cannot be written: {options}"
        ) from error
    tensors = {
        path: np.ascontiguousarray(x, np.float32) for path, x in leaves(pretrained.variables)
    }
    assemble(
        network,
        get_spec(pretrained.name).input_size,
        tensors,
        f"these variables do not fit {pretrained.name}",
    )
    partial = path.with_name(path.name + ".partial")
    save_file(
        tensors, partial, {"cnnjax": text}
    )  # one key: the library writes several in any order
    os.replace(partial, path)


def _load_ours(
    path: Path, model: str | None, num_classes: int | None, options: dict[str, Any]
) -> Pretrained:
    format, tensors = read(path)
    text = safetensors_metadata(path).get("cnnjax") if format == "safetensors" else None
    if text is None:
        raise WeightsError(
            f"{path} is a {format} file, but not one of cnnjax: source=… says whose it is"
        )
    try:
        content = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: what it says of itself cannot be read") from error
    if content["version"] > VERSION:
        raise WeightsError(
            f"{path} was written by a newer cnnjax (format {content['version']}, this one reads {VERSION})"
        )
    name = content["model"]
    if model not in (None, name):
        raise WeightsError(f"{path} holds {name}, not {model}")
    stored = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in content["options"].items()
    }
    network = create_model(
        name, num_classes=num_classes or content["num_classes"], **stored | options
    )
    other = num_classes not in (None, content["num_classes"])
    variables, fresh = assemble(
        network, get_spec(name).input_size, tensors, f"{path} does not fit {name}", new_heads=other
    )
    names = tuple(content["class_names"]) if content["class_names"] and not other else None
    preprocessing = Preprocessing.from_dict(content["preprocessing"])
    return Pretrained(network, variables, preprocessing, names, name, content["origin"], fresh)


def _models(source: str) -> list[str]:
    return list(dict.fromkeys(model for s in SOURCES[source] for model in s.maps))
