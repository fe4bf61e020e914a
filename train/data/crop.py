"""Random windows of encoded images in tf.data: only the window is decoded, and large ones at a fraction of their size.

Importing this module loads TensorFlow.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from train.config import Data
from train.data.augment import METHODS, check_crop
from train.data.decode import decode
from train.data.tf import tf

TRIES = 10


class Crop(NamedTuple):
    """A random window: `draw` turns numbers in [0, 1), `columns` for each image, into parameters in numpy; `window` turns
    an image's height, width and parameters into (top, left, height, width), integers, in tf.data."""

    columns: int
    draw: Callable[[np.ndarray], np.ndarray]
    window: Callable


NO_CROP = Crop(
    0, lambda numbers: numbers, lambda height, width, parameters: tf.stack([0, 0, height, width])
)


def area_crop(area: tuple[float, ...], aspect: tuple[float, ...]) -> Crop:
    """Inception's window: of a random share of the area and a random aspect ratio, anywhere in the image.

    Szegedy et al.: Going deeper with convolutions, 2014, section 6 (8 to 100 % of the area, 3/4 to 4/3). Each try draws
    both, the ratio evenly in its logarithm; the first that fits counts, and if none does, the largest centred window.
    """

    def draw(numbers):
        share = area[0] + (area[1] - area[0]) * numbers[:, :TRIES]
        ratio = (
            aspect[0] * (aspect[1] / aspect[0]) ** numbers[:, TRIES : 2 * TRIES]
        )  # width over height
        return np.concatenate(
            [np.sqrt(share / ratio), np.sqrt(share * ratio), numbers[:, 2 * TRIES :]], axis=1
        )

    def window(height, width, parameters):
        # Each operation costs some microseconds for each image, so there are few.
        image = tf.cast(tf.stack([height, width]), tf.float32)
        sides = tf.reshape(parameters[: 2 * TRIES], [2, TRIES]) * tf.sqrt(image[0] * image[1])
        # Behind the tries: the whole image, cut to the closest ratio that is allowed.
        whole = tf.minimum(image, tf.reverse(image, [0]) * [1 / aspect[0], aspect[1]])
        sides = tf.maximum(tf.round(tf.concat([sides, whole[:, None]], 1)), 1.0)
        first = tf.argmax(tf.reduce_all(sides <= image[:, None], 0), output_type=tf.int32)
        chosen = sides[:, first]
        places = tf.where(first < TRIES, parameters[2 * TRIES :], 0.5)
        return tf.cast(tf.concat([_place(image - chosen, places), chosen], 0), tf.int32)

    return Crop(2 * TRIES + 2, draw, window)


def _place(room, numbers):
    """Cut to an integer, 0 to room, each as likely: room (2,) float32 of whole pixels, numbers (2,) in [0, 1)."""
    return (room + 1) * numbers


def scale_crop(size: int, short_side: tuple[float, ...]) -> Crop:
    """A square of `size` from anywhere in the image, whose short side is scaled to a length from a range first.

    256 to 256: Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, 2012,
    section 4.1. 256 to 512, scale jitter: Simonyan, Zisserman: Very deep convolutional networks, 2014, section 3.1.
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
        side = tf.maximum(
            tf.cast(tf.round(tf.cast(short * size, tf.float32) / short_side), tf.int32), 1
        )
        return tf.stack([(height - side) // 2, (width - side) // 2, side, side])

    return Crop(0, lambda numbers: numbers, window)


def make_crop(config: Data) -> Crop:
    """What a config names; UserError where `check_crop` has one."""
    check_crop(config)
    chosen = config.augment
    if chosen.crop == "area":
        return area_crop(chosen.area, chosen.aspect)
    if chosen.crop == "scale":
        return scale_crop(config.size, chosen.short_side)
    return center_crop(config.size, config.transform.resize or round(config.size / 0.875))


def make_load(config: Data, channels: int, crop: Crop, *, encoded: bool) -> Callable:
    """(file's bytes or pixels, parameters of the crop, a number that picks the interpolation) -> uint8 (size, size, C)."""
    size, method = config.size, config.augment.interpolation

    def load(source, parameters, chooser):
        if not encoded:
            window = cut(source, parameters)
        elif config.exif:
            window = by_pillow(source, parameters)
        else:
            window = tf.cond(
                tf.io.is_jpeg(source),
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
        def pixels(data):
            return decode(data, channels, exif=config.exif, max_pixels=config.max_pixels)

        return cut(
            tf.ensure_shape(tf.numpy_function(pixels, [source], tf.uint8), [None, None, channels]),
            parameters,
        )

    def from_jpeg(source, parameters):
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(source))
        small = tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= config.max_pixels
        with tf.control_dependencies(
            [tf.raw_ops.Assert(condition=small, data=["more than data.max_pixels"])]
        ):
            window = crop.window(height, width, parameters)
        # libjpeg scales well while it decodes, and for less than nothing: to the smallest that is not below the target.
        halvings = tf.reduce_sum(
            tf.cast(tf.reduce_min(window[2:]) >= [2 * size, 4 * size, 8 * size], tf.int32)
        )
        ratios = [
            lambda ratio=2**k: _decode_window(source, window // ratio, channels, ratio)
            for k in range(4)
        ]
        return tf.switch_case(halvings, ratios)

    return load


def _decode_window(source, window, channels: int, ratio: int):
    return tf.image.decode_and_crop_jpeg(source, window, channels=channels, ratio=ratio)


def resize(image, size: int, method: str):
    """uint8 (H, W, C) -> uint8 (size, size, C), without antialiasing: that would take longer than decoding."""
    if method == "bilinear":
        floats = tf.cast(image, tf.float32)[
            None
        ]  # for these the kernel is vectorised, for bytes it is not
        resized = tf.raw_ops.ResizeBilinear(
            images=floats, size=[size, size], half_pixel_centers=True
        )[0]
        return tf.cast(resized + 0.5, tf.uint8)
    return tf.saturate_cast(
        tf.round(tf.image.resize(tf.cast(image, tf.float32), [size, size], method)), tf.uint8
    )
