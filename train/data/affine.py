"""Where small random distortions of an image read it: drawn here, in numpy; `train.mix.warp` reads on the device.

The distortions of Simard, Steinkraus, Platt: Best practices for convolutional neural networks applied to visual document
analysis, 2003, section 2. Reading 128 digits takes 0.3 ms on a device that is a CPU, and took 1.9 ms of the host in numpy.
"""

import dataclasses

import numpy as np

from train.config import Augment
from train.data.plan import uniform


def wanted(config: Augment) -> bool:
    """Whether images are distorted: whether batches carry transforms."""
    return bool(config.rotate or config.scale or config.shear or config.shift)


def only_on_device(config: Augment) -> bool:
    """Whether nothing of it is left to the host, which then reads images as evaluation does."""
    left = ("rotate", "scale", "shear", "shift", "noise", "mixup", "cutmix")
    return config == dataclasses.replace(Augment(), **{name: getattr(config, name) for name in left})


def draw(config: Augment, seed: int, positions: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, 6) float32 transforms, as `matrix` has them, of the examples at these positions of the plan."""
    angle, scale_x, scale_y, shear, shift_x, shift_y = (2 * uniform(seed, "affine", positions, 6) - 1).T
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
