"""The crops that a network is tested with, as each paper has them.

A crop function cuts a decoded image, uint8 (H, W, C), into groups of equal crops, (V, h, w, C)
each. The answer for the image is the mean over all crops, and over their mirror images where the
protocol says so.

    center      the evaluation transform of the run, or of the published weights: one crop
    flip        the same crop and its mirror image
    ten_crop    AlexNet: corners and centre of the central square of the short side, mirrored
    multi_crop  GoogLeNet: four scales, three squares of each, six crops of each, mirrored: 144
    grid        VGG: a regular grid of 5x5 crops at each of three scales, mirrored: 150
    dense       VGG: the whole image at each scale, mirrored, the classifier sliding over it

The papers' scales are for crops of 224; for other crops they grow in proportion.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnjax.spelling import choice
from train.config import Transform
from train.data.transforms import PILLOW, STYLES
from train.errors import UserError

Resize = Callable[[np.ndarray, int, int], np.ndarray]  # (image, height, width) -> image
Crop = Callable[[np.ndarray], list[np.ndarray]]  # image -> groups of crops


class Protocol(NamedTuple):
    crop: Callable[..., list[np.ndarray]] | None  # None: the evaluation transform
    mirror: bool
    scales: tuple[int, ...] = ()  # lengths of the short side, for crops of 224


# Parts of crop functions


def scaled(image: np.ndarray, short_side: int, resize: Resize) -> np.ndarray:
    """The whole image, resized to this length of the short side."""
    height, width = image.shape[:2]
    if min(height, width) == short_side:
        return image
    return resize(
        image,
        short_side if height <= width else int(short_side * height / width),
        short_side if width <= height else int(short_side * width / height),
    )


def cut(image: np.ndarray, size: int, places: list[tuple[int, int]]) -> np.ndarray:
    """(V, size, size, C): the squares with their upper left corners at `places`."""
    return np.stack([image[top : top + size, left : left + size] for top, left in places])


def middle(length: int, size: int) -> int:
    """Where a part of this size starts so that it is in the middle."""
    return round((length - size) / 2)


def corners_and_centre(image: np.ndarray, size: int) -> np.ndarray:
    """(5, size, size, C): upper left, upper right, lower left, lower right, centre."""
    height, width = image.shape[:2]
    bottom, right = height - size, width - size
    centre = (middle(height, size), middle(width, size))
    return cut(image, size, [(0, 0), (0, right), (bottom, 0), (bottom, right), centre])


def three_squares(image: np.ndarray) -> np.ndarray:
    """(3, S, S, C): left, centre, right of a wide image; top, centre, bottom of a high one."""
    height, width = image.shape[:2]
    side = min(height, width)
    ends = (0, middle(max(height, width), side), max(height, width) - side)
    return cut(image, side, [(0, end) if width >= height else (end, 0) for end in ends])


# Crop functions: (image, size, scales, resize) -> groups of crops


def ten_crop(
    image: np.ndarray, size: int, scales: tuple[int, ...], resize: Resize
) -> list[np.ndarray]:
    """Krizhevsky et al. 2012, section 4.1."""
    groups = []
    for scale in scales:
        whole = scaled(image, scale, resize)
        height, width = whole.shape[:2]
        (square,) = cut(whole, scale, [(middle(height, scale), middle(width, scale))])
        groups.append(corners_and_centre(square, size))
    return groups


def multi_crop(
    image: np.ndarray, size: int, scales: tuple[int, ...], resize: Resize
) -> list[np.ndarray]:
    """Szegedy et al. 2014, section 7: six crops of a square: five and the square, resized."""
    groups = []
    for scale in scales:
        for square in three_squares(scaled(image, scale, resize)):
            groups += [corners_and_centre(square, size), resize(square, size, size)[None]]
    return groups


def grid(image: np.ndarray, size: int, scales: tuple[int, ...], resize: Resize) -> list[np.ndarray]:
    """Simonyan, Zisserman 2014, section 4.3: 5x5 places, evenly spread from edge to edge."""
    groups = []
    for scale in scales:
        whole = scaled(image, scale, resize)
        rows, columns = (
            np.linspace(0, length - size, 5).round().astype(int) for length in whole.shape[:2]
        )
        groups.append(cut(whole, size, [(top, left) for top in rows for left in columns]))
    return groups


def dense(
    image: np.ndarray, size: int, scales: tuple[int, ...], resize: Resize
) -> list[np.ndarray]:
    """Simonyan, Zisserman 2014, section 3.2: whole images, over which the network slides."""
    return [scaled(image, scale, resize)[None] for scale in scales]


PROTOCOLS = {
    "center": Protocol(None, False),
    "flip": Protocol(None, True),
    "ten_crop": Protocol(ten_crop, True, (256,)),
    "multi_crop": Protocol(multi_crop, True, (256, 288, 320, 352)),
    "grid": Protocol(grid, True, (256, 384, 512)),
    "dense": Protocol(dense, True, (256, 384, 512)),
}


def find(name: str) -> Protocol:
    """The protocol of a name; UserError for an unknown one."""
    return PROTOCOLS[choice("--protocol", name, PROTOCOLS, UserError)]


def bind(
    protocol: Protocol, size: int, scales: tuple[int, ...], transform: Transform
) -> Crop | None:
    """A protocol's crop function for crops of `size`.

    Args:
        protocol: the protocol.
        size: the side of the crops.
        scales: lengths of the short side; the protocol's own where empty.
        transform: the evaluation transform, whose resizing kernel is taken.

    Returns:
        image -> groups of crops; None for a protocol that takes the evaluation transform.

    Raises:
        UserError: the scales do not fit the protocol or the size.
    """
    if protocol.crop is None:
        if scales:
            raise UserError("--scales is for protocols with several crops, not for center and flip")
        return None
    scales = scales or tuple(round(scale * size / 224) for scale in protocol.scales)
    if min(scales) < size:
        raise UserError(f"--scales={min(scales)} is smaller than the crops of {size}")
    return partial(protocol.crop, size=size, scales=scales, resize=resizer(transform))


def squeeze(height: int, width: int, transform: Transform) -> Callable[[np.ndarray], np.ndarray]:
    """Scales whole images to one size, whatever their aspect ratio."""
    resize = resizer(transform)
    return lambda image: (
        image if image.shape[:2] == (height, width) else resize(image, height, width)
    )


def resizer(transform: Transform) -> Resize:
    """The resizing kernel of an evaluation transform, for whole images."""
    style = STYLES[transform.style]
    if style.half_pixels is None:
        return partial(_pillow, kernel=PILLOW[transform.interpolation or style.interpolation])
    return partial(_tensorflow, half_pixels=style.half_pixels)


def _pillow(image: np.ndarray, height: int, width: int, *, kernel: Image.Resampling) -> np.ndarray:
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((width, height), kernel)).reshape(height, width, channels)


def _tensorflow(image: np.ndarray, height: int, width: int, *, half_pixels: bool) -> np.ndarray:
    from train.data.tf import tf

    resized = tf.raw_ops.ResizeBilinear(
        images=image[None], size=[height, width], half_pixel_centers=half_pixels
    )
    return (resized[0].numpy() + 0.5).astype(np.uint8)
