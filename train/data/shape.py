"""What the images of a batch look like, and whether a config fits a split."""

import numpy as np

from train.config import Data
from train.data import bad
from train.data.augment import check_crop, make_changes
from train.data.split import Arrays, Split
from train.data.transforms import make_transform
from train.errors import UserError


def image_shape(split: Split, config: Data) -> tuple[int, int, int]:
    """(H, W, C) of the images in a batch."""
    height, width, channels = split.image_shape
    if config.size < 0 or config.channels not in (0, 1, 3):
        raise UserError(
            f"data.size={config.size} must be positive and data.channels={config.channels} 0, 1 or 3"
        )
    grey_as_color = (channels, config.channels) == (1, 3)
    if not split.encoded and config.channels not in (0, channels) and not grey_as_color:
        raise UserError(
            f"data.channels={config.channels}, but the images of {config.source} have {channels}"
        )
    if config.size:
        return config.size, config.size, config.channels or channels
    if height is None or width is None:
        raise UserError(
            f"the images of {config.source} are of any size: say which one the model reads with data.size"
        )
    return height, width, config.channels or channels


def check(split: Split, config: Data) -> None:
    """UserError for what reading would stumble over later: before anything is read or written, without TensorFlow."""
    shape = image_shape(split, config)
    bad.check_policy(config)
    check_crop(config)
    make_changes(config.augment, shape)
    make_transform(config, shape[2])


def is_whole(split: Split, config: Data) -> bool:
    """Whether training reads images of one size as they are: in evaluation too these are neither scaled nor cut."""
    return (
        config.augment.crop == "center"
        and not split.encoded
        and image_shape(split, config) == split.image_shape
    )


def in_color(split: Split, config: Data) -> Split:
    """Grey images in memory three times over, where a model that reads colours is to read them."""
    if isinstance(split, Arrays) and (split.image_shape[-1], config.channels) == (1, 3):
        return Arrays(np.repeat(split.images, 3, axis=-1), split.labels, split.class_names)
    return split
