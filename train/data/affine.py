"""Small random affine distortions: drawn in numpy, applied on the device or in tf.data.

Simard, Steinkraus, Platt: Best practices for convolutional neural networks applied to visual
document analysis, 2003, section 2.
"""

import numpy as np

from cnnjax.spelling import choice
from train.config import Augment
from train.data.plan import uniform
from train.errors import UserError

NUMBERS = "affine", 6  # the name of the random numbers, and how many an image takes
PLACES = ("device", "host")


def wanted(config: Augment, place: str = "device") -> bool:
    """Whether images are distorted at this place. For the device, batches carry the transforms."""
    choice("data.augment.distort", config.distort, PLACES, UserError)
    distorted = bool(config.rotate or config.scale or config.shear or config.shift)
    return distorted and config.distort == place


def draw(config: Augment, seed: int, positions: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, 6) float32, as of `matrix`: the transforms of the examples at these positions."""
    numbers = uniform(seed, NUMBERS[0], positions, NUMBERS[1])
    return transforms(numbers, config=config, height=height, width=width)


def transforms(numbers: np.ndarray, *, config: Augment, height: int, width: int) -> np.ndarray:
    """(n, 6) numbers in [0, 1) -> (n, 6) float32, as of `matrix`, for images of this size."""
    angle, scale_x, scale_y, shear, shift_x, shift_y = (2 * numbers - 1).T
    return matrix(
        angle * np.float32(np.deg2rad(config.rotate)),
        1 + scale_x * config.scale,
        1 + scale_y * config.scale,
        shear * config.shear,
        shift_x * config.shift,
        shift_y * config.shift,
        height,
        width,
    )


def distort(image, transform):
    """`train.mix.warp` of one image in tf.data: bilinear, black beyond the border.

    Args:
        image: (H, W, C) of any type.
        transform: (6,) float32, as of `matrix`.

    Returns:
        (H, W, C) float32 in the range of the image.
    """
    from train.data.tf import tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.concat([transform, [0.0, 0.0]], 0)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
    )[0]


def matrix(angle, scale_x, scale_y, shear, shift_x, shift_y, height: int, width: int) -> np.ndarray:
    """Transforms about the centre: rotation, then horizontal shear, then the inverse of the zoom.

    Args:
        angle: (n,) radians.
        scale_x, scale_y: (n,) zoom.
        shear: (n,) horizontal shear.
        shift_x, shift_y: (n,) pixels.
        height, width: of the images, in pixels.

    Returns:
        (n, 6) float32 a, b, x0, c, d, y0: output pixel (x, y) is input pixel
        (a x + b y + x0, c x + d y + y0).
    """
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = cos / scale_x, (shear * cos - sin) / scale_x
    c, d = sin / scale_y, (shear * sin + cos) / scale_y
    x, y = (width - 1) / 2, (height - 1) / 2
    x0 = x - a * (x + shift_x) - b * (y + shift_y)
    y0 = y - c * (x + shift_x) - d * (y + shift_y)
    return np.stack([a, b, x0, c, d, y0], axis=1).astype(np.float32)
