"""Evaluation transforms: from an image file, or pixels, to the uint8 square that a network reads.

Each equals its original, because it is built from the same parts. torchvision and timm resize with
Pillow, with antialiasing. TF-slim and Keras resize with TensorFlow's bilinear kernel, without
antialiasing; TF-slim uses its older form, which does not align pixel centres.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnjax.images import BadImage, central, decode, open_image
from cnnjax.resize import resize_and_crop
from cnnjax.spelling import choice
from train.config import Data, Transform
from train.data.decode import decode_as_training
from train.errors import UserError

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Style(NamedTuple):
    """How a publisher transforms images for evaluation.

    Attributes:
        interpolation: bilinear or bicubic.
        round_short_side: rounds size / 0.875 to the length of the short side.
        fraction: the central share of both sides that is resized to the square; 0: the short side
            is resized, then the centre is cropped.
        half_pixels: whether TensorFlow's bilinear kernel aligns pixel centres; None: Pillow.
    """

    interpolation: str = "bilinear"
    round_short_side: Callable[[float], int] = round
    fraction: float = 0.0
    half_pixels: bool | None = None


STYLES = {
    "torchvision": Style(),  # Resize(256), CenterCrop(224); 342 and 299 for Inception-v3
    "timm": Style("bicubic", math.floor),  # crop_pct 0.875: 341 for 299
    "slim": Style(fraction=0.875, half_pixels=False),  # inception_preprocessing
    "slim_vgg": Style(half_pixels=False),  # vgg_preprocessing
    "keras": Style(fraction=1.0, half_pixels=True),  # image_dataset_from_directory
}


def make_transform(config: Data, channels: int) -> Callable[[Any], np.ndarray]:
    """The evaluation transform of a config.

    Returns:
        (bytes of a file, or pixels uint8 (H, W, channels)) -> uint8 (size, size, channels). Without
        `data.size` it decodes files and returns pixels unchanged. It raises BadImage.

    Raises:
        UserError: an option of `data.transform` is unknown, or does not fit its style.
    """
    reading: dict[str, Any] = dict(
        channels=channels, exif=config.exif, max_pixels=config.max_pixels
    )
    if not config.size:
        return partial(_as_is, **reading)
    options, size = config.transform, config.size
    style = STYLES[choice("data.transform.style", options.style, STYLES, UserError)]
    interpolation = options.interpolation or style.interpolation
    kernels = PILLOW if style.half_pixels is None else {"bilinear": None}
    if interpolation not in kernels:
        raise UserError(
            f"data.transform.interpolation of {options.style} is {' or '.join(kernels)}, "
            f"got {interpolation!r}"
        )
    fraction = options.fraction or (0.0 if options.resize else style.fraction)
    short_side = options.resize or style.round_short_side(size / 0.875)
    if not fraction and short_side < size:
        raise UserError(f"data.transform.resize={short_side} is smaller than data.size={size}")
    where: dict[str, Any] = dict(size=size, fraction=fraction, short_side=short_side)
    if style.half_pixels is None:
        return partial(_pillow, kernel=PILLOW[interpolation], **where, **reading)
    return partial(_tensorflow, half_pixels=style.half_pixels, **where, **reading)


def from_preprocessing(preprocessing: Any) -> tuple[int, Transform]:
    """(data.size, data.transform) of a `cnnjax.weights.Preprocessing`."""
    resize = preprocessing.resize
    style = "torchvision" if preprocessing.antialias else "slim_vgg" if resize else "slim"
    fraction = 0.0 if resize else preprocessing.fraction
    return preprocessing.size, Transform(style, resize or 0, fraction, preprocessing.interpolation)


def _as_is(source: Any, *, channels: int, exif: bool, max_pixels: int) -> np.ndarray:
    if not isinstance(source, bytes):
        return source
    return decode(source, channels, exif=exif, max_pixels=max_pixels)


def _pillow(
    source: Any,
    *,
    size: int,
    fraction: float,
    short_side: int,
    kernel: Any,
    channels: int,
    exif: bool,
    max_pixels: int,
) -> np.ndarray:
    """Resized with Pillow, by a fraction of both sides or by the short side."""
    if isinstance(source, bytes):
        image = open_image(source, channels, exif=exif, max_pixels=max_pixels)
    else:
        image = Image.fromarray(source[..., 0] if source.shape[-1] == 1 else source)
    try:
        if fraction:
            image = image.resize((size, size), kernel, box=central(*image.size, fraction))
        else:
            image = resize_and_crop(image, size, short_side, kernel)
    except ValueError as error:
        raise BadImage(str(error)) from None
    return np.asarray(image).reshape(size, size, channels)


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
    """Resized with TensorFlow's bilinear kernel, otherwise as `_pillow`."""
    from train.data.tf import tf

    image = source
    if isinstance(source, bytes):
        image = decode_as_training(source, channels, exif=exif, max_pixels=max_pixels)
    height, width = image.shape[:2]
    if fraction:
        left, top, right, bottom = central(width, height, fraction)
        image, shape = image[top:bottom, left:right], [size, size]
    else:
        scale = np.float32(short_side) / np.float32(min(height, width))
        shape = [int(np.float32(height) * scale), int(np.float32(width) * scale)]
    image = tf.raw_ops.ResizeBilinear(
        images=image[None], size=shape, half_pixel_centers=half_pixels
    )[0].numpy()
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return (image[top : top + size, left : left + size] + 0.5).astype(np.uint8)
