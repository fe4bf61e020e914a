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

from cnnjax.spelling import nearest
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
        raise UserError(
            f"data.transform.style={wanted.style!r} is unknown; {nearest(wanted.style, STYLES)}"
        )
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
    reading: dict[str, Any] = dict(
        channels=channels, exif=config.exif, max_pixels=config.max_pixels
    )
    where: dict[str, Any] = dict(size=size, fraction=fraction, short_side=short_side)
    if style.half_pixels is None:
        return partial(_pillow, kernel=PILLOW[interpolation], **where, **reading)
    return partial(_tensorflow, half_pixels=style.half_pixels, **where, **reading)


def from_preprocessing(preprocessing: Any) -> tuple[int, Transform]:
    """(data.size, data.transform) of a `cnnjax.weights.Preprocessing`."""
    style = (
        "torchvision" if preprocessing.antialias else "slim_vgg" if preprocessing.resize else "slim"
    )
    fraction = 0.0 if preprocessing.resize else preprocessing.fraction
    return preprocessing.size, Transform(
        style, preprocessing.resize or 0, fraction, preprocessing.interpolation
    )


def _as_is(source: Any, *, channels: int, exif: bool, max_pixels: int) -> np.ndarray:
    return (
        decode(source, channels, exif=exif, max_pixels=max_pixels)
        if isinstance(source, bytes)
        else source
    )


def _part(width: int, height: int, fraction: float) -> tuple[int, int, int, int]:
    """The central fraction of both sides, as (left, top, right, bottom)."""
    left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
    return left, top, width - left, height - top


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
    if isinstance(source, bytes):
        image = open_image(source, channels, exif=exif, max_pixels=max_pixels)
    else:
        image = Image.fromarray(source[..., 0] if source.shape[-1] == 1 else source)
    try:
        if fraction:
            image = image.resize((size, size), kernel, box=_part(*image.size, fraction))
        else:
            image = resize_and_cut(image, size, short_side, kernel)
    except ValueError as error:
        raise BadImage(str(error)) from None
    return np.asarray(image).reshape(size, size, channels)


UNIT = 2.0**-22  # of the integers that Pillow makes of a kernel's weights


class Window(NamedTuple):
    """What suffices of an axis that is resized: so many new pixels are left out at each end, the others stretch from
    `start` to `stop` on the old axis."""

    skipped: int
    start: float
    stop: float
    exact: bool


def resize_and_cut(image: Image.Image, size: int, short_side: int, kernel: Any) -> Image.Image:
    """Resizes to a short side and cuts out the centre, without working out all that is then cut off.

    Pillow goes along one axis, rounds, and goes along the other: so does this, in the same order, and each time as near
    to the centre as the pixels stay the same, but for a few, which round to the next grey level: in photographs usually
    less than one in ten thousand, in strips many times as long as wide up to four in a thousand.
    """
    short = min(image.size)
    new = [short_side if side == short else int(short_side * side / short) for side in image.size]
    corner = [round((side - size) / 2) for side in new]
    less_wide, less_high = (before - after for before, after in zip(image.size, new))
    first, second = (1, 0) if less_high > max(0, 2 * less_wide) else (0, 1)

    # A level off along both axes could be two, and so it could behind bicubic weights, of which some are negative.
    windows: dict[int, Window] = {}
    for axis in (
        (0, 1) if new[0] >= new[1] else (1, 0)
    ):  # the long one, of which more can be left out, has the choice
        exact = any(not window.exact for window in windows.values()) or (
            axis == first and kernel != PILLOW["bilinear"]
        )
        windows[axis] = _window(image.size[axis], new[axis], corner[axis], size, exact)
    across, along = windows[first], windows[second]
    margin = 2 * max(1, image.size[second] / new[second]) + 1  # what the bicubic kernel covers
    low, high = max(0, int(along.start - margin)), min(image.size[second], int(along.stop + margin))
    lines = _cut(image, second, low, high)
    for axis, window, offset in ((first, across, 0), (second, along, low)):
        length, left = new[axis] - 2 * window.skipped, corner[axis] - window.skipped
        lines = _resize(lines, axis, length, kernel, window.start - offset, window.stop - offset)
        lines = _cut(lines, axis, left, left + size)
    return lines


def _window(before: int, after: int, corner: int, size: int, exact: bool) -> Window:
    """Of an axis resized from `before` to `after` pixels, where `size` from `corner` on are wanted.

    Pillow takes a window's ends in single precision. That moves most of them by enough to round one pixel in a thousand
    to another grey level. So the window is widened, as much at either end, until single precision has these numbers; or
    some so close by that they change no weight by a unit, unless the image is enlarged, when many pixels lie halfway
    between two levels and any change rounds them otherwise. Where there is none, it is all of the axis, or of one much
    longer than what is wanted, the window as single precision has it.
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
    return Window(
        edge, edge * before / after, before - edge * before / after, False
    )  # too long to be worked out whole


def _cut(image: Image.Image, axis: int, start: int, stop: int) -> Image.Image:
    """From start to stop along one axis: 0 is that of columns, 1 of rows."""
    left, top, right, bottom = (
        (start, 0, stop, image.height) if axis == 0 else (0, start, image.width, stop)
    )
    return image.crop((left, top, right, bottom))


def _resize(
    image: Image.Image, axis: int, length: int, kernel: Any, start: float, stop: float
) -> Image.Image:
    """From start to stop along one axis to so many pixels; the other axis stays."""
    width, height = image.size
    if axis == 0:
        return image.resize((length, height), kernel, box=(start, 0, stop, height))
    return image.resize((width, length), kernel, box=(0, start, width, stop))


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
        left, top, right, bottom = _part(width, height, fraction)
        image, shape = image[top:bottom, left:right], [size, size]
    else:
        scale = np.float32(short_side) / np.float32(min(height, width))
        shape = [int(np.float32(height) * scale), int(np.float32(width) * scale)]
    image = tf.raw_ops.ResizeBilinear(
        images=image[None], size=shape, half_pixel_centers=half_pixels
    )[0].numpy()
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return (image[top : top + size, left : left + size] + 0.5).astype(np.uint8)
