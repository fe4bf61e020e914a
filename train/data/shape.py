"""The shape of a batch's images, and whether a config fits a split."""

import numpy as np

from train.config import Data
from train.data import bad
from train.data.augment import check_crop, make_changes
from train.data.split import Arrays, Split
from train.data.transforms import make_transform
from train.errors import UserError


def image_shape(split: Split, config: Data) -> tuple[int, int, int]:
    """(H, W, C) of the images in a batch.

    Raises:
        UserError: `data.size` is missing, or `data.size` or `data.channels` is impossible.
    """
    height, width, channels = split.image_shape
    if config.size < 0 or config.channels not in (0, 1, 3):
        raise UserError(
            f"data.size={config.size} must be positive "
            f"and data.channels={config.channels} 0, 1 or 3"
        )
    convertible = {channels, config.channels} == {1, 3}
    if not split.encoded and config.channels not in (0, channels) and not convertible:
        raise UserError(
            f"data.channels={config.channels}, but the images of {config.source} have {channels}"
        )
    scaled = config.size and not split.encoded and (height, width) != (config.size, config.size)
    if scaled and channels > 4:
        raise UserError(
            f"images of {channels} channels cannot be scaled to data.size={config.size}: those of "
            f"{config.source} are {height}x{width}x{channels}"
        )
    if config.size:
        return config.size, config.size, config.channels or channels
    if height is None or width is None:
        raise UserError(
            f"the images of {config.source} vary in size: "
            "set data.size to the side that the model reads"
        )
    return height, width, config.channels or channels


def check(split: Split, config: Data) -> None:
    """Checks a config against a split, without reading an image and without TensorFlow.

    Raises:
        UserError: an option is unknown, impossible, or does not fit the images.
    """
    shape = image_shape(split, config)
    bad.check_policy(config)
    check_crop(config)
    make_changes(config.augment, shape)
    make_transform(config, shape[2])


def is_whole(split: Split, config: Data) -> bool:
    """Whether training reads the images as they are, neither scaled nor cropped."""
    return (
        config.augment.crop == "center"
        and not split.encoded
        and image_shape(split, config) == split.image_shape
    )


def in_channels(split: Split, config: Data) -> Split:
    """The split; images in memory get the channels that the model reads, as files do.

    Grey becomes three equal channels; colours become grey by the weights of ITU-R 601, as in
    Pillow.
    """
    if not isinstance(split, Arrays) or {split.image_shape[-1], config.channels} != {1, 3}:
        return split
    images = split.images
    if config.channels == 3:
        images = np.repeat(images, 3, axis=-1)
    else:
        levels = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        images = ((levels + 0x8000) >> 16).astype(np.uint8)[..., None]
    return Arrays(images, split.labels, split.class_names)
