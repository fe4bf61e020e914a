"""Where small random distortions of an image read it: drawn here, in numpy; carried out on the device, or in tf.data.

The distortions of Simard, Steinkraus, Platt: Best practices for convolutional neural networks applied to visual document
analysis, 2003, section 2. `train.mix.warp` reads 128 digits in 0.3 ms on a device that is a CPU; `distort` takes 2.2 ms of two
cores of the host, and suits devices that read at scattered places slowly.
"""

import numpy as np

from cnnjax.spelling import nearest
from train.config import Augment
from train.data.plan import uniform
from train.errors import UserError

NUMBERS = "affine", 6  # the name of the random numbers, and how many an image takes
PLACES = ("device", "host")


def wanted(config: Augment, place: str = "device") -> bool:
    """Whether images are distorted, and there; on the device: whether batches carry transforms."""
    if config.distort not in PLACES:
        raise UserError(
            f"data.augment.distort={config.distort!r} is unknown; {nearest(config.distort, PLACES)}"
        )
    return (
        bool(config.rotate or config.scale or config.shear or config.shift)
        and config.distort == place
    )


def draw(config: Augment, seed: int, positions: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, 6) float32 transforms, as `matrix` has them, of the examples at these positions of the plan."""
    return transforms(
        uniform(seed, NUMBERS[0], positions, NUMBERS[1]), config=config, height=height, width=width
    )


def transforms(numbers: np.ndarray, *, config: Augment, height: int, width: int) -> np.ndarray:
    """(n, 6) numbers in [0, 1) -> (n, 6) float32 for images of this size in pixels, as `matrix` has them."""
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
    """(H, W, C) of any type, (6,) float32 -> (H, W, C) float32 in the same range, in tf.data: as `train.mix.warp` reads it."""
    from train.data.tf import tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.concat([transform, [0.0, 0.0]], 0)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
    )[0]


def matrix(angle, scale_x, scale_y, shear, shift_x, shift_y, height: int, width: int) -> np.ndarray:
    """(n, 6) float32 a, b, x0, c, d, y0: output pixel (x, y) is read at (a x + b y + x0, c x + d y + y0) of the input.

    About the centre: rotation in radians, then horizontal shear, then the inverse of the zoom; shifts in pixels. All
    arguments but the size are (n,) arrays.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = cos / scale_x, (shear * cos - sin) / scale_x
    c, d = sin / scale_y, (shear * sin + cos) / scale_y
    x, y = (width - 1) / 2, (height - 1) / 2
    x0 = x - a * (x + shift_x) - b * (y + shift_y)
    y0 = y - c * (x + shift_x) - d * (y + shift_y)
    return np.stack([a, b, x0, c, d, y0], axis=1).astype(np.float32)
