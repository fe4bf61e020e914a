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
    grey_as_color = (channels, config.channels) == (1, 3)
    if not split.encoded and config.channels not in (0, channels) and not grey_as_color:
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


def in_color(split: Split, config: Data) -> Split:
    """The split; grey images in memory get three channels where the model reads colour."""
    if isinstance(split, Arrays) and (split.image_shape[-1], config.channels) == (1, 3):
        return Arrays(np.repeat(split.images, 3, axis=-1), split.labels, split.class_names)
    return split
