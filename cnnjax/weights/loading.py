"""Loads a file of weights: a publisher's, or one of our own."""

import os
import warnings
from pathlib import Path
from typing import Any

from cnnjax.registry import create_model, get_spec
from cnnjax.spelling import choice
from cnnjax.weights import imagenet
from cnnjax.weights.assemble import assemble
from cnnjax.weights.layout import Source, Tensors, WeightsError, WeightsWarning
from cnnjax.weights.metadata import find, records_of
from cnnjax.weights.network import Pretrained
from cnnjax.weights.own import load_own
from cnnjax.weights.publishers import SOURCES
from cnnjax.weights.read import read, safetensors_metadata
from cnnjax.weights.recognise import fits, recognise


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
        return load_own(path, metadata["cnnjax"], tensors, model, num_classes, trunk, options)
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


def _models(source: str) -> list[str]:
    """The models that a source publishes weights of."""
    return list(dict.fromkeys(model for s in SOURCES[source] for model in s.maps))
