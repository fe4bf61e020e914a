"""Turning, zooming, shearing and moving small images in numpy: several times cheaper than the general warp of tf.data."""

import numpy as np


def matrix(angle, scale_x, scale_y, shear, shift_x, shift_y, height: int, width: int) -> np.ndarray:
    """(6, n) float32 a, b, x0, c, d, y0: output pixel (x, y) is read at (a x + b y + x0, c x + d y + y0) of the input.

    About the centre: rotation, then horizontal shear, then the inverse of the zoom. All arguments are (n,) arrays.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = cos / scale_x, (shear * cos - sin) / scale_x
    c, d = sin / scale_y, (shear * sin + cos) / scale_y
    x, y = (width - 1) / 2, (height - 1) / 2
    x0 = x - a * (x + shift_x) - b * (y + shift_y)
    y0 = y - c * (x + shift_x) - d * (y + shift_y)
    return np.stack([a, b, x0, c, d, y0]).astype(np.float32)


def warp(images: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Images uint8 (n, H, W, C) read at the places that `matrix` tells, bilinear, black beyond the border.

    Everything is in fixed point, and two rows ride in one word: a pixel above and the one below it, 16 bits each, are
    interpolated from left to right at once, then from top to bottom. Within 2 grey levels of the exact values.
    """
    n, height, width, channels = images.shape
    if max(height, width) > 60 or height * (width + 3) > 2**15 - 1:  # 9 bits of a 16-bit coordinate are the fraction
        raise ValueError(f"warp is for images of at most 60x60, got {height}x{width}")
    framed = np.zeros((n, height + 3, width + 3, channels), np.uint32)
    framed[:, 1 : 1 + height, 1 : 1 + width] = images
    columns = (framed[:, :-1] | framed[:, 1:] << 16).reshape(-1, channels)

    a, b, x0, c, d, y0 = transform
    x = _coordinates(a, b, x0, height, width, limit=width + 1)
    y = _coordinates(c, d, y0, height, width, limit=height + 1)
    place = (y >> 9) * np.int16(width + 3) + (x >> 9)
    place = place + (np.arange(n) * ((height + 2) * (width + 3)))[:, None, None]
    right = ((x & 511) >> 1).astype(np.uint32)[..., None]
    below = ((y & 511) >> 1).astype(np.uint32)[..., None]

    left_pair = np.take(columns, place, axis=0, mode="clip")
    place += 1
    pair = np.take(columns, place, axis=0, mode="clip")
    pair -= left_pair
    pair *= right
    left_pair <<= 8
    pair += left_pair  # 256 times the interpolated upper and lower pixel; neither overflows its half
    upper = pair & 0xFFFF
    pair >>= 16
    pair -= upper
    pair *= below
    upper <<= 8
    pair += upper
    pair += 1 << 15
    pair >>= 16
    return pair.astype(np.uint8)


def _coordinates(along, down, start, height: int, width: int, limit: int) -> np.ndarray:
    """(n, H, W) int16 in 1/512 pixels of the framed image, kept within the frame."""
    row = np.rint(512 * (along[:, None] * np.arange(width, dtype=np.float32) + (start + 1)[:, None])).astype(np.int32)
    column = np.rint(512 * (down[:, None] * np.arange(height, dtype=np.float32))).astype(np.int32)
    return np.clip(row[:, None, :] + column[:, :, None], 0, limit * 512 - 1).astype(np.int16)
