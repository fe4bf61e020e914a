"""Networks by name: `cnnjax.pretrained("inception_v3")`."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from cnnjax.registry import MODELS, create_model
from cnnjax.spelling import choice, nearest
from cnnjax.trees import flatten
from cnnjax.weights import SOURCES, load, metadata
from cnnjax.weights.assemble import assemble
from cnnjax.weights.fetch import fetch, fetchable
from cnnjax.weights.layout import WeightsError
from cnnjax.weights.metadata import Record
from cnnjax.weights.network import Pretrained

SUFFIXES = (".bin", ".ckpt", ".h5", ".hdf5", ".keras", ".pt", ".pth", ".safetensors", ".tar")


def pretrained(
    name: str | os.PathLike, *, num_classes: int | None = None, dtype: Any = None, **options: Any
) -> Pretrained:
    """A network with trained weights, in one line.

    Published weights are fetched once, verified, and kept (see `cnnjax.weights.fetch`).

    Args:
        name: a model ("inception_v3": the published weights of the best accuracy), a publisher and
            a model ("keras/inception_v3", "timm/inception_v3.gluon_in1k"), a file of weights, or a
            run folder.
        num_classes: replaces the classifier by a random one, for fine-tuning.
        dtype: compute type; float32 by default.
        **options: further fields of the model, such as `dropout`.

    Returns:
        The network: call it on images, or see the methods of `cnnjax.weights.Pretrained`.

    Raises:
        WeightsError: the weights cannot be fetched or read.
        ValueError: an unknown name or option; the message names the nearest.

    >>> cnnjax.pretrained("inception_v5")
    Traceback (most recent call last):
    ValueError: weights 'inception_v5' are unknown; did you mean inception_v4 or inception_v3?
    """
    if dtype is not None:
        options["dtype"] = dtype
    text, path = os.fspath(name), Path(name).expanduser()
    if not is_published(text) and path.exists():
        if (path / "config.json").exists():
            return _of_run(path, num_classes, options)
        return load(path, None, None, num_classes=num_classes, **options)
    record = find_record(text)
    tag = f".{record.tag}" if record.tag else ""
    return load(
        fetch(record), record.model + tag, record.source, num_classes=num_classes, **options
    )


def is_published(name: str) -> bool:
    """Whether a name is that of published weights. Write "./name" for a file of that name."""
    try:
        find_record(name)
    except ValueError:
        return False
    return True


def find_record(name: str) -> Record:
    """The published file of a name, "model", "source/model" or "source/model.tag".

    Of several, the one of the best published accuracy. Files without an address and files without
    a classifier come last.

    Raises:
        ValueError: there is none.
    """
    source, _, model = name.rpartition("/")
    if Path(name).suffix in SUFFIXES or name.startswith((".", "/", "~")):
        raise WeightsError(f"there is no file {name}")
    if source:
        choice("source", source, SOURCES)
    of_source = [record for record in metadata.RECORDS if source in ("", record.source)]
    found = [record for record in of_source if model in (record.model, _tagged(record))]
    if not found:
        publishers = sorted({r.source for r in metadata.RECORDS if model in (r.model, _tagged(r))})
        if publishers:
            known = ", ".join(f"{publisher}/{model}" for publisher in publishers)
            raise ValueError(f"{source} publishes no {model}; there are {known}")
        if model in MODELS:
            models = ", ".join(dict.fromkeys(record.model for record in of_source))
            raise ValueError(f"no weights of {model} are published; there are some of {models}")
        words = dict.fromkeys(x for r in of_source for x in (r.model, _tagged(r)))
        raise ValueError(f"weights {name!r} are unknown; {nearest(model, words)}")
    return max(found, key=lambda record: (fetchable(record), record.top1 or 0))


def _tagged(record: Record) -> str:
    return f"{record.model}.{record.tag}" if record.tag else record.model


def _of_run(folder: Path, num_classes: int | None, options: dict[str, Any]) -> Pretrained:
    """The network of a run folder's best checkpoint."""
    # The one place where the networks need the trainer: only it can read a run folder.
    try:
        from train.classifier import from_run, to_pretrained
        from train.errors import UserError
        from train.run import Run
    except ImportError as error:
        raise WeightsError(
            f"{folder} is a run folder, and reading it needs pip install 'cnnjax[train,data]'"
        ) from error
    try:
        run = Run(str(folder))
        trained = to_pretrained(from_run(run, run.best_or_latest(), source="-"))
    except UserError as error:
        raise WeightsError(str(error)) from error
    other = num_classes not in (None, trained.model.num_classes)
    if not other and not options:
        return trained
    create_model(trained.name, **options)  # raises for an unknown option
    network = trained.model.clone(num_classes=num_classes or trained.model.num_classes, **options)
    shape: Any = trained.image_shape
    tensors = flatten(trained.variables)
    what = f"{folder} does not fit {trained.name}"
    assembled = assemble(network, shape, tensors, what, new_heads=other)
    return dataclasses.replace(
        trained,
        model=network,
        variables=assembled.variables,
        fresh=assembled.fresh,
        class_names=None if other else trained.class_names,
    )
