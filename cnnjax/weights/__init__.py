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
import jax
import numpy as np

from cnnjax.analysis import abstract_variables
from cnnjax.registry import create_model, get_spec, nearest
from cnnjax.weights import facenet, keras, slim, timm, torchvision
from cnnjax.weights.layout import (
    Map,
    Source,
    Tensors,
    WeightsError,
    WeightsWarning,
    fill,
    from_tensorflow,
    leaves,
    nest,
    rename,
)
from cnnjax.weights.metadata import RECORDS, Preprocessing, Record
from cnnjax.weights.read import digest, read, safetensors_metadata

__all__ = ["RECORDS", "Preprocessing", "Pretrained", "Record", "WeightsError", "WeightsWarning", "load", "save"]

# facenet's two are in different formats: the file decides.
SOURCES: dict[str, tuple[Source, ...]] = {
    "torchvision": (torchvision.SOURCE,),
    "timm": (timm.SOURCE,),
    "keras": (keras.SOURCE,),
    "slim": (slim.SOURCE,),
    "facenet": (facenet.SOURCE_CHECKPOINT, facenet.SOURCE_PORT),
}
OURS = Source(formats=("safetensors",), maps={}, axes=from_tensorflow)
VERSION = 1

# Fields of a model that say how to run it, not which network it is.
HOW = ("parent", "name", "num_classes", "dtype", "bn_axis", "remat")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its values, and what has to be known to use it."""

    model: nn.Module
    variables: dict[str, Any]  # {"params": …, "batch_stats": …} of numpy arrays
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    name: str = ""  # of the model in the registry
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)  # source, file, hash, licence, published accuracy
    fresh: tuple[str, ...] = ()  # modules that were initialised, because the file has no values for them


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
        raise WeightsError(f"{path} is a {format} file, and {source} publishes none of {model} in that format")
    tensors, map = publisher.prepare(tensors), publisher.maps[model]
    classes = len(tensors[map.classifier]) if map.classifier in tensors and tensors[map.classifier].ndim == 1 else None
    drop = int(map.background and classes == 1001 and not keep_background)
    needed = dict(map.options)
    if map.aux is not None:
        needed["aux"] = any(name.startswith(map.aux) for name in tensors)
    fitting = classes - drop if classes else None
    network = create_model(model, num_classes=num_classes or fitting, **needed | options)
    if map.aux is not None and needed["aux"] and not getattr(network, "aux", False):
        tensors = {name: x for name, x in tensors.items() if not name.startswith(map.aux)}
    what = f"{path} does not fit {source}'s {model}"
    variables, fresh = _assemble(
        network, model, tensors, publisher, map, drop, num_classes not in (None, fitting), what
    )
    if fresh:
        warnings.warn(
            f"{path} has no values for {', '.join(fresh)}: initialised at random", WeightsWarning, stacklevel=2
        )

    record, note = _record(path, source, model, tag)
    if note:
        warnings.warn(note, WeightsWarning, stacklevel=2)
    preprocessing = record.preprocessing if record else _default(source, model)
    origin = {"source": source, "file": path.name}
    if record:
        known = {key: getattr(record, key) for key in ("where", "tag", "hash", "licence", "top1", "top5", "note")}
        origin |= {key: value for key, value in known.items() if value}
    return Pretrained(network, variables, preprocessing, None, model, origin, fresh)


def save(path: str | os.PathLike, pretrained: Pretrained) -> None:
    """Writes a safetensors file that `load(path)` needs nothing else for. `pretrained.name` is the registry's.

    WeightsError: the variables are not the model's, or one of its options cannot be written.
    """
    from safetensors.numpy import save_file

    path, network = Path(path), pretrained.model
    default = create_model(pretrained.name, num_classes=network.num_classes)
    fields = [field.name for field in dataclasses.fields(network) if field.name not in HOW]
    options = {name: getattr(network, name) for name in fields if getattr(network, name) != getattr(default, name)}
    if type(network) is not type(default):
        raise WeightsError(f"a {type(network).__name__} is not the registry's {pretrained.name}")
    if pretrained.class_names is not None and len(pretrained.class_names) != network.num_classes:
        raise WeightsError(f"{len(pretrained.class_names)} class names do not fit {network.num_classes} classes")
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
        raise WeightsError(f"an option of {pretrained.name} cannot be written: {options}") from error
    tensors = {path: np.ascontiguousarray(x, np.float32) for path, x in leaves(pretrained.variables)}
    _assemble(
        network, pretrained.name, tensors, OURS, Map((), ""), 0, False, f"these variables do not fit {pretrained.name}"
    )
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"cnnjax": text})  # one key: the library writes several in any order
    os.replace(partial, path)


def _load_ours(path: Path, model: str | None, num_classes: int | None, options: dict[str, Any]) -> Pretrained:
    format, tensors = read(path)
    text = safetensors_metadata(path).get("cnnjax") if format == "safetensors" else None
    if text is None:
        raise WeightsError(f"{path} is a {format} file, but not one of cnnjax: source=… says whose it is")
    content = json.loads(text)
    if content["version"] > VERSION:
        raise WeightsError(
            f"{path} was written by a newer cnnjax (format {content['version']}, this one reads {VERSION})"
        )
    name = content["model"]
    if model not in (None, name):
        raise WeightsError(f"{path} holds {name}, not {model}")
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in content["options"].items()}
    network = create_model(name, num_classes=num_classes or content["num_classes"], **stored | options)
    other = num_classes not in (None, content["num_classes"])
    variables, fresh = _assemble(network, name, tensors, OURS, Map((), ""), 0, other, f"{path} does not fit {name}")
    names = tuple(content["class_names"]) if content["class_names"] and not other else None
    preprocessing = Preprocessing.from_dict(content["preprocessing"])
    return Pretrained(network, variables, preprocessing, names, name, content["origin"], fresh)


def _assemble(network: nn.Module, name: str, tensors: Tensors, source: Source, map: Map, drop: int, other_classes: bool,
              what: str) -> tuple[dict[str, Any], tuple[str, ...]]:  # fmt: skip
    """The variables of `network`, and the modules among them that had to be initialised."""
    size = get_spec(name).input_size
    shapes = {path: leaf.shape for path, leaf in leaves(abstract_variables(network, size, train=True))}
    ours = {path: path if source is OURS else path.partition("/")[2] for path in shapes}

    def module(path: str) -> str:
        return ours[path].rpartition("/")[0]

    fresh: set[str] = set()
    top = [path for path in shapes if module(path).split("/")[0] in map.top]
    if source is not OURS and not any(rename(ours[path], map.rules) in tensors for path in top):
        fresh = set(top)
    if other_classes:
        heads = {path for path in shapes if module(path).split("/")[-1] == "head"}
        tensors = {key: x for key, x in tensors.items() if key not in {rename(ours[path], map.rules) for path in heads}}
        fresh |= heads
    wanted = {ours[path]: shape for path, shape in shapes.items() if path not in fresh}
    flat = fill(tensors, wanted, source, map, drop, what)
    values = {path: flat[ours[path]] for path in shapes if path not in fresh} | _initialise(network, size, fresh)
    modules = {path.partition("/")[2].rpartition("/")[0] for path in fresh}
    return nest({path: values[path] for path in shapes}), tuple(sorted(modules))


def _initialise(network: nn.Module, size: tuple[int, int, int], paths: set[str]) -> Tensors:
    """Some of the model's initial values; only these are computed."""
    if not paths:
        return {}

    @jax.jit
    def initial(key):
        tree: Any = network.init({"params": key, "dropout": key}, np.zeros((1, *size), np.float32), train=True)
        return {path: x for path, x in leaves(tree) if path in paths}

    return {path: np.asarray(x) for path, x in initial(jax.random.key(0)).items()}


def _models(source: str) -> list[str]:
    return list(dict.fromkeys(model for s in SOURCES[source] for model in s.maps))


def _default(source: str, model: str) -> Preprocessing:
    return next(record.preprocessing for record in RECORDS if (record.source, record.model) == (source, model))


def _record(path: Path, source: str, model: str, tag: str) -> tuple[Record | None, str]:
    """The record of a file, by its name, its hash or its tag, and what is to be said about the match."""
    rows = [record for record in RECORDS if (record.source, record.model) == (source, model)]
    tags = list(dict.fromkeys(row.tag for row in rows if row.tag))
    if tag and tag not in tags:
        raise ValueError(f"{source} has no {model}.{tag}; " + (nearest(tag, tags) if tags else f"{model} has no tags"))
    digests = {
        kind: digest(path, kind) for kind in {row.hash.partition(":")[0] for row in rows if row.hash} if path.is_file()
    }

    def matches(row: Record) -> bool:
        kind, _, prefix = (row.hash or "").partition(":")
        return bool(prefix) and digests.get(kind, "").startswith(prefix)

    by_hash = [row for row in rows if matches(row)]
    by_name = [row for row in rows if row.file == path.name.removesuffix(".index")]
    # timm's files all have one name; the folder that its hub puts them in has the tag.
    by_tag = [row for row in rows if row.tag and (row.tag == tag or f"{model}.{row.tag}" in str(path.absolute()))]
    if by_hash:
        return by_hash[0], ""
    if len(by_name) == 1 and by_name[0].hash:
        kind, _, prefix = by_name[0].hash.partition(":")
        return by_name[0], (f"{path} is not the published file: its {kind} is {digests[kind]}, that of the record {prefix}"
                            + ("…" if kind == "sha256" else ""))  # fmt: skip
    if by_tag or len(by_name) == 1:
        return (by_tag or by_name)[0], ""
    like = f"{model}.{tags[0]}" if tags else rows[0].file
    choice = f" (model='{model}.TAG' chooses among {', '.join(tags)})" if len(tags) > 1 else ""
    return None, f"no record of {path.name}: assuming the preprocessing of {source}'s {like}{choice}"
