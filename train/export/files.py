"""Writes a network's values: in our own format, and in those of publishers."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax import weights
from cnnjax.trees import flatten
from train.classifier import Classifier, to_pretrained
from train.errors import CheckpointError
from train.export.programs import CLOSE, PARTIAL, function, random_images


def write_safetensors(path: str, classifier: Classifier) -> dict[str, Any]:
    """Writes a network in our own format, from which `cnnjax.weights.load` builds it again.

    Args:
        path: the file.
        classifier: the network.

    Returns:
        `file`, `format`, `bytes`, and `difference`, the largest of the probabilities.

    Raises:
        CheckpointError: the file cannot be written, or differs from the network.
        UserError: the format has no place for the preprocessing.
    """
    pretrained = to_pretrained(classifier)
    part = Path(path + PARTIAL)
    try:
        weights.save(part, pretrained)
        loaded = weights.load(part)
        images = jnp.asarray(random_images(classifier, True))
        outputs = loaded.model.apply(loaded.variables, loaded.preprocessing(images))
        answers = classifier.probabilities(outputs.logits)
        difference = float(np.abs(answers - function(classifier)(images)).max())
        if not difference <= CLOSE:
            raise CheckpointError(f"the file differs from the network by {difference:.1e}")
        size = part.stat().st_size
        part.replace(path)
    except (weights.WeightsError, ValueError) as error:
        raise CheckpointError(f"--out={path}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return {"file": path, "format": "safetensors", "bytes": size, "difference": difference}


def write_published(path: str, format: str, classifier: Classifier) -> dict[str, Any]:
    """Writes a network so that a publisher's own code loads it, and reads it back.

    Args:
        path: the file; for slim and facenet the checkpoint's prefix.
        format: "torchvision", "timm", "keras", "slim" or "facenet".
        classifier: the network.

    Returns:
        `file`, `format` and `bytes`.

    Raises:
        CheckpointError: the publisher has no such network, or the file cannot be written.
    """
    pretrained, target = to_pretrained(classifier), Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=target.resolve().parent) as folder:
            part = Path(folder) / target.name
            weights.export(part, pretrained, format)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", weights.WeightsWarning)
                read = weights.load(part, classifier.name, format, keep_background=True)
            ours = flatten(pretrained.variables)
            for name, values in flatten(read.variables).items():
                if not np.array_equal(values, ours[name]):
                    raise CheckpointError(f"--out={path}: {name} reads back differently")
            size = 0
            for file in Path(folder).iterdir():
                size += file.stat().st_size
                os.replace(file, target.with_name(file.name))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"--out={path}: {error}") from None
    return {"file": path, "format": format, "bytes": size}
