"""Images that cannot be read: named, counted, and replaced in a way that depends on the files alone."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cnnjax.spelling import nearest
from train.config import Data
from train.data.decode import BadImage, check_size, decode
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

Item = tuple[Any, int, str]  # payload, label and key of an example of a stream


def check_policy(config: Data) -> None:
    if config.on_bad_image not in ("error", "skip"):
        hint = nearest(config.on_bad_image, ("error", "skip"))
        raise UserError(f"data.on_bad_image={config.on_bad_image!r} is unknown; {hint}")


def report(split: Split, index: int | str, why: str, *, skip: bool) -> None:
    """DataError with the file's name, or one line on standard error and one more in the count."""
    if not skip:
        raise DataError(f"{split.name(index)} cannot be read: {why}; python -m train.data check lists all such files, "
                        "data.on_bad_image=skip goes on without them")  # fmt: skip
    if index not in split.bad:
        split.bad[index] = why
        print(
            f"skipping {split.name(index)}: {why} ({len(split.bad)} so far)",
            file=sys.stderr,
            flush=True,
        )


def next_good(split: Split, index: int, config: Data) -> int:
    """The example that stands in for an unreadable one: the next readable one of the source, whatever the order."""
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
    """A global batch of a stream, in which the next readable example of the batch stands in for an unreadable one."""

    def stand_in(place: int) -> Item:
        for other in batch[place:] + batch[:place]:
            if other[2] not in split.bad and not find(split, [other], config, workers=1):
                return other
        raise DataError(f"none of {len(batch)} images in a row of {config.source} can be read")

    return [stand_in(place) if item[2] in split.bad else item for place, item in enumerate(batch)]


def find(
    split: Split, examples: list[int] | list[Item], config: Data, workers: int
) -> list[int | str]:
    """Reports those of some examples that tf.data cannot read, and returns them. Of a stream the examples are items."""
    with ThreadPoolExecutor(workers) as pool:
        reasons = list(pool.map(lambda example: reason(split, example, config), examples))
    keys = [example[2] if isinstance(example, tuple) else int(example) for example in examples]
    found = {key: why for key, why in zip(keys, reasons) if why is not None}
    for key, why in found.items():
        report(split, key, why, skip=config.on_bad_image == "skip")
    return list(found)


def reason(split: Split, example: int | Item, config: Data) -> str | None:
    """Why an example cannot be read; None if it can."""
    try:
        payload = (
            example[0] if isinstance(example, tuple) else split.fetch(np.array([example]))[0][0]
        )
        unreadable(split.load(payload), config.channels or split.image_shape[2], config)
    except (BadImage, OSError) as error:
        return str(error)
    return None


def unreadable(data: bytes, channels: int, config: Data) -> None:
    """BadImage for what tf.data would fail on: its decoder and Pillow do not draw the same line in damaged JPEG."""
    from train.data.tf import tf

    if data[:3] != b"\xff\xd8\xff" or config.exif:
        decode(data, channels, exif=config.exif, max_pixels=config.max_pixels)
        return
    check_size(data, config.max_pixels)
    try:
        tf.io.decode_jpeg(data, channels=channels)
    except tf.errors.InvalidArgumentError as error:
        raise BadImage(error.message.split(" [Op:")[0]) from None
