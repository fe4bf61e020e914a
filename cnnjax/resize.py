"""Pillow's resize with a centre crop, without computing most of the pixels that the crop discards.

Pillow resizes along one axis, rounds, and resizes along the other. `resize_and_crop` does the same
in the same order, each time on a window around the centre. The result is Pillow's, except that a
few pixels round to a neighbouring grey level.
"""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

UNIT = 2.0**-22  # Pillow stores a kernel's weights as integer multiples of this


class Window(NamedTuple):
    """The part of an axis that is resized.

    Attributes:
        skipped: how many new pixels are left out at either end.
        start, stop: the rest, on the old axis.
        exact: single precision, which Pillow stores them in, holds `start` and `stop` exactly.
    """

    skipped: int
    start: float
    stop: float
    exact: bool


def resize_and_crop(image: Image.Image, size: int, short_side: int, kernel: Any) -> Image.Image:
    """The central square of `size` pixels, after the short side is resized to `short_side`.

    Args:
        image: to resize.
        size: side of the result.
        short_side: at least `size`.
        kernel: Image.Resampling.BILINEAR or BICUBIC.
    """
    short = min(image.size)
    new = [short_side if side == short else int(short_side * side / short) for side in image.size]
    corner = [round((side - size) / 2) for side in new]
    less_wide, less_high = (before - after for before, after in zip(image.size, new))
    first, second = (1, 0) if less_high > max(0, 2 * less_wide) else (0, 1)

    # At most one axis may be inexact, and not the first one under the bicubic kernel's negative
    # weights: a pixel could otherwise be two levels off. The long axis, which saves more, chooses.
    windows: dict[int, Window] = {}
    for axis in (0, 1) if new[0] >= new[1] else (1, 0):
        exact = any(not window.exact for window in windows.values()) or (
            axis == first and kernel != Image.Resampling.BILINEAR
        )
        windows[axis] = make_window(image.size[axis], new[axis], corner[axis], size, exact)

    across, along = windows[first], windows[second]
    margin = 2 * max(1, image.size[second] / new[second]) + 1  # the reach of the bicubic kernel
    low, high = max(0, int(along.start - margin)), min(image.size[second], int(along.stop + margin))
    lines = _cut(image, second, low, high)
    for axis, window, offset in ((first, across, 0), (second, along, low)):
        length, left = new[axis] - 2 * window.skipped, corner[axis] - window.skipped
        lines = _resize(lines, axis, length, kernel, window.start - offset, window.stop - offset)
        lines = _cut(lines, axis, left, left + size)
    return lines


def make_window(before: int, after: int, corner: int, size: int, exact: bool) -> Window:
    """The smallest suitable window of one axis.

    Pillow stores the ends of a window in single precision, which rounds most of them by enough to
    change one pixel in a thousand. So the window grows, equally at both ends, until its ends are
    exact in single precision, or rounded by too little to change a weight. (The latter only where
    the image shrinks: enlarged, many pixels lie halfway between two levels.) If there is no such
    window, it is the whole axis, or the rounded one where the axis is very long.

    Args:
        before, after: pixels of the axis before and after it is resized.
        corner: the first new pixel of the crop.
        size: new pixels of the crop.
        exact: accept no rounding.
    """
    edge = min(corner, after - corner - size)
    for skipped in range(edge, max(0, edge - size), -1):
        stop = before - skipped * before / after
        rounded = float(np.float32(stop))
        off = abs(rounded - stop) * after / before
        if off == 0 or (off < UNIT and before > after and not exact):
            return Window(skipped, before - rounded, rounded, off == 0)
    if exact or edge <= 8 * size:
        return Window(0, 0.0, before, True)
    return Window(edge, edge * before / after, before - edge * before / after, False)


def _cut(image: Image.Image, axis: int, start: int, stop: int) -> Image.Image:
    """From start to stop along one axis; 0 counts columns, 1 rows."""
    box = (start, 0, stop, image.height) if axis == 0 else (0, start, image.width, stop)
    return image.crop(box)


def _resize(
    image: Image.Image, axis: int, length: int, kernel: Any, start: float, stop: float
) -> Image.Image:
    """From start to stop along one axis, resized to `length` pixels; the other axis stays."""
    width, height = image.size
    if axis == 0:
        return image.resize((length, height), kernel, box=(start, 0, stop, height))
    return image.resize((width, length), kernel, box=(0, start, width, stop))
