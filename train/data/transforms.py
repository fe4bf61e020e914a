"""Evaluation transforms: from an image file, or pixels, to the uint8 square that a network reads.

Each equals its original, by being made of the same parts: torchvision and timm resize with Pillow, antialiased;
TF-slim and Keras with TensorFlow's bilinear kernel, not antialiased, of which TF-slim has the older one that does not
look at pixels' centres.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnjax.registry import nearest
from train.config import Data, Transform
from train.data.decode import BadImage, check_size, decode, open_image
from train.errors import UserError

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Style(NamedTuple):
    interpolation: str = "bilinear"
    round_short_side: Callable[[float], int] = round  # of size / 0.875
    fraction: float = 0.0  # of both sides; 0: the short side is scaled, then the centre cut out
    half_pixels: bool | None = None  # TensorFlow's bilinear kernel, new or old; None: Pillow


STYLES = {
    "torchvision": Style(),  # Resize(256), CenterCrop(224); 342 and 299 for Inception-v3
    "timm": Style("bicubic", math.floor),  # crop_pct 0.875: 341 for 299
    "slim": Style(fraction=0.875, half_pixels=False),  # inception_preprocessing
    "slim_vgg": Style(half_pixels=False),  # vgg_preprocessing
    "keras": Style(fraction=1.0, half_pixels=True),  # image_dataset_from_directory
}


def make_transform(config: Data, channels: int) -> Callable[[Any], np.ndarray]:
    """(bytes of a file or pixels) -> uint8 (size, size, channels); identity on pixels without a size."""
    if not config.size:
        return partial(_as_is, channels=channels, exif=config.exif, max_pixels=config.max_pixels)
    wanted = config.transform
    if wanted.style not in STYLES:
        raise UserError(f"data.transform.style={wanted.style!r} is unknown; {nearest(wanted.style, STYLES)}")
    style, size = STYLES[wanted.style], config.size
    interpolation = wanted.interpolation or style.interpolation
    kernels = PILLOW if style.half_pixels is None else {"bilinear": None}
    if interpolation not in kernels:
        raise UserError(
            f"data.transform.interpolation of {wanted.style} is {' or '.join(kernels)}, got {interpolation!r}"
        )
    fraction = wanted.fraction or (0.0 if wanted.resize else style.fraction)
    short_side = wanted.resize or style.round_short_side(size / 0.875)
    if not fraction and short_side < size:
        raise UserError(f"data.transform.resize={short_side} is smaller than data.size={size}")
    reading: dict[str, Any] = dict(channels=channels, exif=config.exif, max_pixels=config.max_pixels)
    place = (
        partial(_part, size=size, fraction=fraction) if fraction else partial(_centre, size=size, short_side=short_side)
    )
    if style.half_pixels is None:
        return partial(_pillow, place=place, size=size, kernel=PILLOW[interpolation], **reading)
    return partial(
        _tensorflow, size=size, fraction=fraction, short_side=short_side, half_pixels=style.half_pixels, **reading
    )


def from_preprocessing(preprocessing: Any) -> tuple[int, Transform]:
    """(data.size, data.transform) of a `cnnjax.weights.Preprocessing`."""
    style = "torchvision" if preprocessing.antialias else "slim_vgg" if preprocessing.resize else "slim"
    fraction = 0.0 if preprocessing.resize else preprocessing.fraction
    return preprocessing.size, Transform(style, preprocessing.resize or 0, fraction, preprocessing.interpolation)


def _as_is(source: Any, *, channels: int, exif: bool, max_pixels: int) -> np.ndarray:
    return decode(source, channels, exif=exif, max_pixels=max_pixels) if isinstance(source, bytes) else source


def _centre(width: int, height: int, *, size: int, short_side: int) -> tuple[float, float, float, float]:
    """The part of the original that the centre of the resized image comes from, as (left, top, right, bottom)."""
    new_width = short_side if width <= height else int(short_side * width / height)
    new_height = short_side if height <= width else int(short_side * height / width)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    x, y = width / new_width, height / new_height
    return left * x, top * y, (left + size) * x, (top + size) * y


def _part(width: int, height: int, *, size: int, fraction: float) -> tuple[float, float, float, float]:
    """The central fraction of both sides."""
    left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
    return left, top, width - left, height - top


def _pillow(
    source: Any, *, place: Callable, size: int, kernel: Any, channels: int, exif: bool, max_pixels: int
) -> np.ndarray:
    """Only the pixels that are kept are resized: half the work of resizing first and cutting then."""
    if isinstance(source, bytes):
        image = open_image(source, channels, exif=exif, max_pixels=max_pixels)
    else:
        image = Image.fromarray(source[..., 0] if source.shape[-1] == 1 else source)
    return np.asarray(resize_part(image, place(*image.size), size, kernel)).reshape(size, size, channels)


def resize_part(image: Image.Image, part: tuple[float, float, float, float], size: int, kernel: Any) -> Image.Image:
    """The part (left, top, right, bottom) as a square of `size`: what resizing the whole and then cutting gives.

    Pillow resizes along one axis, rounds, and resizes along the other, so the order shows. It is chosen here from the
    size of the whole, as Pillow does; given the part, it would choose from that.
    """
    left, top, right, bottom = part
    less_wide = image.width - round(image.width * size / (right - left))
    less_high = image.height - round(image.height * size / (bottom - top))
    spans = {0: (left, right), 1: (top, bottom)}
    for axis in (1, 0) if less_high > max(0, 2 * less_wide) else (0, 1):
        start, stop = spans.pop(axis)
        if spans:  # the first pass leaves out what the second will not look at
            ((other, (low, high)),) = spans.items()
            margin = 3 + 2 * (high - low) / size  # the radius of the bicubic kernel, and more
            first, last = max(0, int(low - margin)), min(image.size[other], int(high + margin))
            image = image.crop((first, 0, last, image.height) if other == 0 else (0, first, image.width, last))
            spans[other] = (low - first, high - first)
        if axis == 0:
            image = image.resize((size, image.height), kernel, box=(start, 0, stop, image.height))
        else:
            image = image.resize((image.width, size), kernel, box=(0, start, image.width, stop))
    return image


def _tensorflow(
    source: Any,
    *,
    size: int,
    fraction: float,
    short_side: int,
    half_pixels: bool,
    channels: int,
    exif: bool,
    max_pixels: int,
) -> np.ndarray:
    from train.data.tf import tf

    if not isinstance(source, bytes):
        image = source
    elif exif or source[:3] != b"\xff\xd8\xff":
        image = decode(source, channels, exif=exif, max_pixels=max_pixels)
    else:
        check_size(source, max_pixels)
        try:
            image = tf.io.decode_jpeg(source, channels=channels).numpy()
        except tf.errors.InvalidArgumentError as error:
            raise BadImage(error.message.split(" [Op:")[0]) from None
    height, width = image.shape[:2]
    if fraction:
        left, top, right, bottom = map(int, _part(width, height, size=size, fraction=fraction))
        image, shape = image[top:bottom, left:right], [size, size]
    else:
        scale = np.float32(short_side) / np.float32(min(height, width))
        shape = [int(np.float32(height) * scale), int(np.float32(width) * scale)]
    image = tf.raw_ops.ResizeBilinear(images=image[None], size=shape, half_pixel_centers=half_pixels)[0].numpy()
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return (image[top : top + size, left : left + size] + 0.5).astype(np.uint8)
