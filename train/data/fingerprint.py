"""A short description of a split's content, to notice that data has changed."""

import hashlib
from typing import Any

import numpy as np

from train.data.sources.folder import Files
from train.data.split import Split, Stream

SAMPLES = 16  # examples whose content is read


def fingerprint(split: Split) -> dict[str, Any]:
    """Digests of class names, labels and file names where they are at hand, and of some contents.

    >>> from train import data
    >>> fingerprint(data.load("synthetic:28x28x1/10", "train"))["examples"]
    2048
    """
    found: dict[str, Any] = {
        "examples": len(split),
        "classes": digest("\n".join(split.class_names).encode("utf-8", "surrogateescape")),
    }
    if split.labels_at_hand:
        found["labels"] = digest(np.ascontiguousarray(split.labels, np.int32).tobytes())
    if isinstance(split, Files):
        found["files"] = digest("\n".join(split.paths).encode("utf-8", "surrogateescape"))
    if isinstance(split, Stream):  # only its start is quickly read
        places = np.arange(min(SAMPLES, len(split)))
    else:
        places = np.unique(np.linspace(0, len(split) - 1, SAMPLES).astype(int))
    payloads, labels = split.fetch(places)
    content = hashlib.sha256(np.ascontiguousarray(labels, np.int32).tobytes())
    for payload in payloads:
        try:
            loaded = split.load(payload)
        except OSError as error:
            loaded = type(error).__name__.encode()
        content.update(loaded if isinstance(loaded, bytes) else np.asarray(loaded).tobytes())
    found["content"] = content.hexdigest()[:16]
    return found


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
