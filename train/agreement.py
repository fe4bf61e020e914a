"""Several processes of one run must have the same config, code and data."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train import config as configs
from train.config import Config
from train.errors import UserError
from train.runtime import programs

# What each process may have for itself.
OWN = ("parallel.compile_cache", "data.workers")


def agree(config: Config, about: dict[str, Any]) -> None:
    """Compares this process with the first one; nothing happens in a single process.

    Args:
        config: of the run.
        about: JSON; what the data is like.

    Raises:
        UserError: on all processes alike. The sentence names the process, and what differs.
    """
    if jax.process_count() == 1:
        return
    values = configs.flatten(configs.to_dict(config) | about)
    values = {key: value for key, value in values.items() if key not in OWN}
    values["the code"] = programs.source("")
    values["versions"] = programs.versions()
    everyone = gather(json.dumps(values, sort_keys=True).encode())
    first = json.loads(everyone[0])
    for number, text in enumerate(everyone):
        other = json.loads(text)
        names = [key for key in sorted({*first, *other}) if first.get(key) != other.get(key)]
        if names:
            shown = [f"{key} ({first.get(key)} and {other.get(key)})" for key in names[:3]]
            raise UserError(
                f"processes 0 and {number} of this run differ in {'; '.join(shown)}: "
                "all need the same recipe, code and data"
            )


def gather(content: bytes) -> list[bytes]:
    """The content of each process, on all of them."""
    lengths = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].astype(np.uint8).tobytes() for row, length in zip(rows, lengths)]
