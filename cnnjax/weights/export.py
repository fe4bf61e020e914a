"""Trained networks as the files of publishers, which their own code loads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.registry import create_model
from cnnjax.spelling import choice
from cnnjax.trees import flatten
from cnnjax.weights.assemble import HOW, TRAINING
from cnnjax.weights.keras import count_from_zero
from cnnjax.weights.layout import Map, Tensors, WeightsError, unfill
from cnnjax.weights.network import Pretrained
from cnnjax.weights.own import write_safetensors
from cnnjax.weights.publishers import SOURCES
from cnnjax.weights.read import library

TORCH_FILES = (".pt", ".pth", ".safetensors")


def export(path: str | os.PathLike, pretrained: Pretrained, format: str) -> None:
    """Writes a network so that a publisher's own code loads it, every tensor of it.

    The preprocessing and the names of the classes have no place in such a file. Auxiliary heads are
    left out where the publisher's network has none.

    Args:
        path: the file. torchvision and timm: ".safetensors", or else torch's own format. keras:
            ".weights.h5", ".h5" or ".keras". slim: the checkpoint's prefix. facenet: ".pt" or
            ".safetensors" for the PyTorch port, or else the checkpoint's prefix.
        pretrained: the network.
        format: "torchvision", "timm", "keras", "slim" or "facenet".

    Returns:
        None.

    Raises:
        WeightsError: the publisher has no such network, or a library is missing.
        ValueError: an unknown format.

    >>> import tempfile
    >>> model = cnnjax.create_model("vgg11", num_classes=3)
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    >>> preprocessing = cnnjax.weights.Preprocessing(224)
    >>> pretrained = cnnjax.weights.Pretrained(model, variables, preprocessing, name="vgg11")
    >>> path = tempfile.mkdtemp() + "/vgg11.safetensors"
    >>> cnnjax.weights.export(path, pretrained, "torchvision")
    """
    path = Path(path)
    publishers = SOURCES[choice("format", format, WRITERS)]
    known = [s for s in publishers if pretrained.name in s.maps]
    if not known:
        models = ", ".join(dict.fromkeys(model for s in publishers for model in s.maps))
        raise WeightsError(f"{format} has no {pretrained.name}; it has {models}")
    in_torch = path.suffix in TORCH_FILES  # of facenet's two formats one is torch's
    publisher = next((s for s in known if ("torch" in s.formats) == in_torch), known[0])
    map = publisher.maps[pretrained.name]
    _require_same_network(pretrained, map, format)
    leaves = {
        path.partition("/")[2]: np.asarray(x)
        for path, x in flatten(pretrained.variables).items()
        if map.aux is not None or not path.partition("/")[2].startswith("aux")
    }
    WRITERS[format](path, unfill(leaves, publisher, map), pretrained)


def _require_same_network(pretrained: Pretrained, map: Map, format: str) -> None:
    """Raises WeightsError if the publisher's network computes something else."""
    ours = pretrained.model
    needed: dict[str, Any] = dict(map.options)
    theirs = create_model(pretrained.name, num_classes=ours.num_classes, **needed)
    free = {"aux", *HOW, *TRAINING}
    differing = [
        f"{field}={getattr(theirs, field)!r}, not {getattr(ours, field)!r}"
        for field in sorted(set(vars(theirs)) - free)
        if not field.startswith("_") and getattr(ours, field) != getattr(theirs, field)
    ]
    if differing:
        raise WeightsError(f"{format}'s {pretrained.name} has {'; '.join(differing)}")
    if pretrained.preprocessing.channels == "L":
        raise WeightsError(f"{format}'s {pretrained.name} reads three colours, not grey images")


def _torch(path: Path, tensors: Tensors, pretrained: Pretrained) -> None:
    """A `state_dict`, with the counters that torch's BatchNorm has."""
    counters = {
        name.removesuffix("running_mean") + "num_batches_tracked": np.zeros((), np.int64)
        for name in tensors
        if name.endswith("running_mean")
    }
    tensors = tensors | counters
    if path.suffix == ".safetensors":
        library("safetensors", path, "to be a safetensors file", "writing")
        write_safetensors(path, tensors)
        return
    torch = library("torch", path, "to be a torch file (one of .safetensors needs none)", "writing")
    torch.save({name: torch.from_numpy(x.copy()) for name, x in tensors.items()}, path)


def _keras(path: Path, tensors: Tensors, pretrained: Pretrained) -> None:
    """Keras' own network, filled and saved by Keras."""
    keras = library("keras", path, "to be Keras' file", "writing")
    builders: dict[str, Callable] = {
        "vgg16": keras.applications.VGG16,
        "vgg19": keras.applications.VGG19,
        "inception_v3": keras.applications.InceptionV3,
        "inception_resnet_v2": keras.applications.InceptionResNetV2,
    }
    network = builders[pretrained.name](
        weights=None, input_shape=pretrained.input_shape, classes=pretrained.model.num_classes
    )
    # Keras' counters go on over all networks of a process.
    layers = {f"{layer.name}/": layer for layer in network.layers if layer.weights}
    names = count_from_zero({name: np.zeros(0) for name in layers})
    for layer, name in zip(layers.values(), names):
        layer.set_weights([tensors[f"{name}{weight.name}"] for weight in layer.weights])
    if path.name.endswith(".weights.h5"):
        network.save_weights(path)
    else:
        network.save(path)


def _tensorflow(path: Path, tensors: Tensors, pretrained: Pretrained) -> None:
    """A checkpoint of version 2."""
    tf = library("tensorflow", path, "to be a TensorFlow checkpoint", "writing")
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def _facenet(path: Path, tensors: Tensors, pretrained: Pretrained) -> None:
    """The PyTorch port's file or the TensorFlow checkpoint."""
    (_torch if path.suffix in TORCH_FILES else _tensorflow)(path, tensors, pretrained)


WRITERS: dict[str, Callable[[Path, Tensors, Pretrained], None]] = {
    "torchvision": _torch,
    "timm": _torch,
    "keras": _keras,
    "slim": _tensorflow,
    "facenet": _facenet,
}
