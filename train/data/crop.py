"""Random crops of image files in tf.data.

Only the window is decoded, and a large one at reduced size.
Importing this module loads TensorFlow.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cnnjax.images import decode
from train.config import Data
from train.data.augment import METHODS, check_crop
from train.data.tf import tf

TRIES = 10  # of `area_crop`, as in torchvision's RandomResizedCrop


class Crop(NamedTuple):
    """A random window.

    Attributes:
        columns: how many random numbers an image takes.
        draw: (n, columns) in [0, 1) -> (n, P) parameters, in numpy.
        window: (height, width, parameters (P,)) -> int32 (top, left, height, width), in tf.data.
    """

    columns: int
    draw: Callable[[np.ndarray], np.ndarray]
    window: Callable


NO_CROP = Crop(
    0, lambda numbers: numbers, lambda height, width, parameters: tf.stack([0, 0, height, width])
)


def area_crop(area: tuple[float, ...], aspect: tuple[float, ...]) -> Crop:
    """Inception's window: a random share of the area, a random aspect ratio, anywhere in the image.

    Szegedy et al.: Going deeper with convolutions, 2014, section 6. Each try draws a share evenly
    and a ratio evenly in its logarithm; the first window that fits is taken. If none fits, it is
    the largest centred window of an allowed ratio.

    Args:
        area: range of the share of the image's area; (0.08, 1) in the paper.
        aspect: range of width over height; (3/4, 4/3) in the paper.
    """

    def draw(numbers):
        share = area[0] + (area[1] - area[0]) * numbers[:, :TRIES]
        ratio = aspect[0] * (aspect[1] / aspect[0]) ** numbers[:, TRIES : 2 * TRIES]
        places = numbers[:, 2 * TRIES :]
        return np.concatenate([np.sqrt(share / ratio), np.sqrt(share * ratio), places], axis=1)

    def window(height, width, parameters):
        # Few operations, because each one costs time for every image.
        image = tf.cast(tf.stack([height, width]), tf.float32)
        sides = tf.reshape(parameters[: 2 * TRIES], [2, TRIES]) * tf.sqrt(image[0] * image[1])
        # After the tries, the fallback: the whole image, cut to the nearest allowed ratio.
        whole = tf.minimum(image, tf.reverse(image, [0]) * [1 / aspect[0], aspect[1]])
        sides = tf.maximum(tf.round(tf.concat([sides, whole[:, None]], 1)), 1.0)
        first = tf.argmax(tf.reduce_all(sides <= image[:, None], 0), output_type=tf.int32)
        chosen = sides[:, first]
        places = tf.where(first < TRIES, parameters[2 * TRIES :], 0.5)
        return tf.cast(tf.concat([_place(image - chosen, places), chosen], 0), tf.int32)

    return Crop(2 * TRIES + 2, draw, window)


def _place(room, numbers):
    """Uniform over 0..room once truncated; room (2,) whole pixels, numbers (2,) in [0, 1)."""
    return (room + 1) * numbers


def scale_crop(size: int, short_side: tuple[float, ...]) -> Crop:
    """A random square of `size`, after the short side is scaled to a random length.

    Lengths 256 to 256: Krizhevsky, Sutskever, Hinton: ImageNet classification with deep
    convolutional neural networks, 2012, section 4.1. Lengths 256 to 512 (scale jitter): Simonyan,
    Zisserman: Very deep convolutional networks, 2014, section 3.1.
    """
    smallest, largest = short_side

    def draw(numbers):
        length = smallest + np.floor((largest - smallest + 1) * numbers[:, :1])
        return np.concatenate([size / length, numbers[:, 1:]], axis=1)

    def window(height, width, parameters):
        image = tf.cast(tf.stack([height, width]), tf.float32)
        side = tf.maximum(tf.round(tf.reduce_min(image) * parameters[0]), 1.0)
        sides = tf.stack([side, side])
        return tf.cast(tf.concat([_place(image - sides, parameters[1:]), sides], 0), tf.int32)

    return Crop(3, draw, window)


def center_crop(size: int, short_side: int) -> Crop:
    """The centre of the image, as in evaluation."""

    def window(height, width, parameters):
        short = tf.minimum(height, width)
        side = tf.cast(tf.round(tf.cast(short * size, tf.float32) / short_side), tf.int32)
        side = tf.maximum(side, 1)
        return tf.stack([(height - side) // 2, (width - side) // 2, side, side])

    return Crop(0, lambda numbers: numbers, window)


def make_crop(config: Data) -> Crop:
    """The crop that a config names.

    Raises:
        UserError: as `check_crop`.
    """
    check_crop(config)
    augment = config.augment
    if augment.crop == "area":
        return area_crop(augment.area, augment.aspect)
    if augment.crop == "scale":
        return scale_crop(config.size, augment.short_side)
    return center_crop(config.size, config.transform.resize or round(config.size / 0.875))


def make_load(config: Data, channels: int, crop: Crop, *, encoded: bool) -> Callable:
    """Reads an image in tf.data, crops and resizes it.

    Returns:
        (bytes of a file or pixels, parameters of the crop, number in [0, 1) that picks the
        interpolation) -> uint8 (size, size, channels).
    """
    size, method = config.size, config.augment.interpolation

    def load(source, parameters, chooser):
        if not encoded:
            window = cut(source, parameters)
        elif config.exif:
            window = by_pillow(source, parameters)
        else:
            window = tf.cond(
                is_plain_jpeg(source),
                lambda: from_jpeg(source, parameters),
                lambda: by_pillow(source, parameters),
            )
        window = tf.ensure_shape(window, [None, None, channels])
        if method != "random":
            return resize(window, size, method)
        branches = [lambda name=name: resize(window, size, name) for name in METHODS]
        return tf.switch_case(tf.cast(chooser * len(METHODS), tf.int32), branches)

    def cut(pixels, parameters):
        height, width, _ = tf.unstack(tf.shape(pixels))
        top, left, height, width = tf.unstack(crop.window(height, width, parameters))
        return pixels[top : top + height, left : left + width]

    def by_pillow(source, parameters):
        return cut(decode_with_pillow(source, config, channels), parameters)

    def from_jpeg(source, parameters):
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(source))
        small = tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= config.max_pixels
        checked = tf.raw_ops.Assert(condition=small, data=["more than data.max_pixels"])
        with tf.control_dependencies([checked]):
            window = crop.window(height, width, parameters)
        # libjpeg decodes at 1/2, 1/4 or 1/8 of the size: at the smallest not below the target.
        limits = [2 * size, 4 * size, 8 * size]
        halvings = tf.reduce_sum(tf.cast(tf.reduce_min(window[2:]) >= limits, tf.int32))
        branches = [lambda ratio=2**k: decode_window(source, window, ratio) for k in range(4)]
        return tf.switch_case(halvings, branches)

    def decode_window(source, window, ratio: int):
        return tf.image.decode_and_crop_jpeg(
            source, window // ratio, channels=channels, ratio=ratio
        )

    return load


def is_plain_jpeg(source):
    """Whether a file is a grey or RGB JPEG, in tf.data; Pillow reads CMYK, as in evaluation."""
    return tf.cond(
        tf.io.is_jpeg(source),
        lambda: tf.image.extract_jpeg_shape(source)[2] < 4,
        lambda: tf.constant(False),
    )


def decode_with_pillow(source, config: Data, channels: int):
    """The pixels of a file, uint8 (H, W, channels), in tf.data."""

    def decoded(data):
        return decode(data, channels, exif=config.exif, max_pixels=config.max_pixels)

    pixels = tf.numpy_function(decoded, [source], tf.uint8)
    return tf.ensure_shape(pixels, [None, None, channels])


def resize(image, size: int, method: str):
    """uint8 (H, W, C) -> uint8 (size, size, C), without antialiasing, to save time."""
    floats = tf.cast(image, tf.float32)
    if method == "bilinear":  # the kernel of this operation is vectorised for float32 alone
        resized = tf.raw_ops.ResizeBilinear(
            images=floats[None], size=[size, size], half_pixel_centers=True
        )
        return tf.cast(resized[0] + 0.5, tf.uint8)
    return tf.saturate_cast(tf.round(tf.image.resize(floats, [size, size], method)), tf.uint8)
