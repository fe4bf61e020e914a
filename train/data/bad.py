"""Unreadable images: named, counted, and replaced in a way that depends on the files alone."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cnnjax.images import BadImage
from cnnjax.spelling import choice
from train.config import Data
from train.data.decode import decode_as_training
from train.data.split import Split
from train.errors import DataError, UserError

__all__ = [
    "BadImage",
    "DataError",
    "check_policy",
    "find",
    "next_good",
    "reason",
    "replaced",
    "report",
]

Item = tuple[Any, int, str]  # (payload, label, key) of an example of a stream


def check_policy(config: Data) -> None:
    """UserError unless `data.on_bad_image` is known."""
    choice("data.on_bad_image", config.on_bad_image, ("error", "skip"), UserError)


def report(split: Split, index: int | str, why: str, *, skip: bool) -> None:
    """Records an unreadable example: one line on standard error, and an entry in `split.bad`.

    Raises:
        DataError: not `skip`; the message names the file.
    """
    if not skip:
        raise DataError(
            f"{split.name(index)} cannot be read: {why}; python -m train.data check lists all such "
            "files, data.on_bad_image=skip trains without them"
        )
    if index not in split.bad:
        split.bad[index] = why
        line = f"skipping {split.name(index)}: {why} ({len(split.bad)} so far)"
        print(line, file=sys.stderr, flush=True)


def next_good(split: Split, index: int, config: Data) -> int:
    """The example that replaces an unreadable one: the next readable one in the source's own order.

    Raises:
        DataError: the split has no readable example.
    """
    for step in range(1, len(split)):
        candidate = (int(index) + step) % len(split)
        if candidate in split.bad:
            continue
        why = reason(split, candidate, config)
        if why is None:
            return candidate
        report(split, candidate, why, skip=True)
    raise DataError(f"none of the {len(split)} images of {config.source} can be read")


def replaced(split: Split, batch: list[Item], config: Data) -> list[Item]:
    """A stream's global batch; the next readable example of the batch replaces a bad one.

    Raises:
        DataError: the batch has no readable example.
    """

    def stand_in(place: int) -> Item:
        for other in batch[place:] + batch[:place]:
            if other[2] not in split.bad and not find(split, [other], config, workers=1):
                return other
        raise DataError(f"none of {len(batch)} images in a row of {config.source} can be read")

    return [stand_in(place) if item[2] in split.bad else item for place, item in enumerate(batch)]


def find(
    split: Split, examples: list[int] | list[Item], config: Data, workers: int
) -> list[int | str]:
    """Reports those of the examples that training cannot read, and returns their indices or keys.

    Args:
        split: that they belong to.
        examples: indices; items where the split is a stream.
        config: how to read them.
        workers: how many threads read.

    Raises:
        DataError: one cannot be read, and `data.on_bad_image` is "error".
    """
    with ThreadPoolExecutor(workers) as pool:
        reasons = list(pool.map(lambda example: reason(split, example, config), examples))
    keys = [example[2] if isinstance(example, tuple) else int(example) for example in examples]
    unreadable = {key: why for key, why in zip(keys, reasons) if why is not None}
    for key, why in unreadable.items():
        report(split, key, why, skip=config.on_bad_image == "skip")
    return list(unreadable)


def reason(split: Split, example: int | Item, config: Data) -> str | None:
    """Why training cannot read an example; None if it can."""
    try:
        if isinstance(example, tuple):
            payload = example[0]
        else:
            payload = split.fetch(np.array([example]))[0][0]
        channels = config.channels or split.image_shape[2]
        decode_as_training(
            split.load(payload), channels, exif=config.exif, max_pixels=config.max_pixels
        )
    except (BadImage, OSError) as error:
        return str(error)
    return None
