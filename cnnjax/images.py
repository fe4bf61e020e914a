"""Image files to pixels, and pixels to the square that a network reads. With Pillow."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from cnnjax.resize import resize_and_crop

if TYPE_CHECKING:  # reading images needs no jax
    from cnnjax.weights.metadata import Preprocessing

Image.MAX_IMAGE_PIXELS = None  # `max_pixels` replaces Pillow's own limit
# Pillow knows more, and runs other programs for some of them: Ghostscript for PostScript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


class BadImage(ValueError):
    """A file that cannot be read as an image; the message says why."""


def check_size(data: bytes, max_pixels: int) -> Image.Image:
    """The image, with only its header read.

    Raises:
        BadImage: the format is not one of `FORMATS`, or the image has more than `max_pixels`
            pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage(f"no image format of {', '.join(FORMATS)}") from None
    except Exception as error:  # damaged headers raise ValueError, OverflowError, …
        raise BadImage(str(error) or type(error).__name__) from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"{width}x{height} is more than data.max_pixels={max_pixels}")
    return image


def open_image(data: bytes, channels: int, *, exif: bool, max_pixels: int) -> Image.Image:
    """The first frame of an image file, in mode L for one channel and RGB for three.

    Transparency is dropped and 16 bits become the upper 8. Pillow converts CMYK to RGB, and takes
    every CMYK JPEG for inverted, as Adobe writes them, whether or not it has Adobe's marker.

    Raises:
        BadImage: the file cannot be read.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        image = check_size(data, max_pixels)
        return in_mode(image, channels, exif=exif)
    except BadImage:
        raise
    except Exception as error:  # damaged files raise OSError, SyntaxError, struct.error, …
        raise BadImage(str(error) or type(error).__name__) from None


def in_mode(image: Image.Image, channels: int, *, exif: bool = False) -> Image.Image:
    """An image in mode L for one channel and RGB for three. BadImage: see `bits_of_grey`."""
    bits = bits_of_grey(image)
    if exif:
        image = ImageOps.exif_transpose(image)
    if bits > 8:
        levels = np.asarray(image).astype(np.int64) >> bits - 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        return image.convert(mode)
    image.load()  # `convert` would copy the image
    return image


def bits_of_grey(image: Image.Image) -> int:
    """Bits of a pixel of a grey image, 12 or 16; 8 for all other images.

    Raises:
        BadImage: pixels are floats or 32-bit integers, whose range no file states.
    """
    if image.mode == "F":
        raise BadImage("32-bit float images are not supported: convert to 8 bits")
    if image.mode == "I" and image.format == "TIFF":
        raise BadImage("32-bit and signed integer images are not supported: convert to 8 bits")
    if not image.mode.startswith("I"):
        return 8
    tags = getattr(image, "tag_v2", {})  # of TIFF; 258 is BitsPerSample
    return tags.get(258, (16,))[0]


def decode(
    data: bytes, channels: int, *, exif: bool = False, max_pixels: int = 80_000_000
) -> np.ndarray:
    """The pixels of an image file, (H, W, channels) uint8.

    Raises:
        BadImage: the file cannot be read.
    """
    pixels = np.asarray(open_image(data, channels, exif=exif, max_pixels=max_pixels))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def pixels(source: Any, channels: int) -> np.ndarray:
    """One image, wherever it comes from, as (H, W, channels) uint8.

    Args:
        source: a path, a PIL image, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8.
        channels: 3, or 1 for grey. Colour becomes grey as in `PIL.Image.convert`, and grey three
            equal channels.

    Raises:
        BadImage: it is no image.
        OSError: the file cannot be opened.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.exists() and not path.is_file():
            raise BadImage(f"{path} is not a regular file")
        try:
            return decode(path.read_bytes(), channels)
        except BadImage as error:
            raise BadImage(f"{path} cannot be read: {error}") from None
    if not isinstance(source, Image.Image):
        array = np.asarray(source)
        if array.dtype != np.uint8:
            raise BadImage(f"images are uint8, 0 to 255, not {array.dtype}")
        if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
            raise BadImage(f"an image is (H, W, 3), (H, W, 1) or (H, W), not {array.shape}")
        if array.shape[2:] == (channels,):
            return array
        source = Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
    try:
        array = np.asarray(in_mode(source, channels))
    except (OSError, SyntaxError) as error:  # a damaged file that Pillow has only opened so far
        raise BadImage(f"the image cannot be read: {error}") from None
    return array if array.ndim == 3 else array[..., None]


def fit(image: np.ndarray, preprocessing: "Preprocessing") -> np.ndarray:
    """The square that a network reads, by the resize and crop that its weights were trained with.

    Args:
        image: (H, W, C) uint8.
        preprocessing: of the weights.

    Returns:
        (size, size, C) uint8: what `preprocessing` is called with.
    """
    size, resize = preprocessing.size, preprocessing.resize
    height, width, channels = image.shape
    if resize and resize < size:
        raise ValueError(f"the crop of {size} does not fit into a short side of {resize}")
    if not preprocessing.antialias:
        return _without_antialias(image, preprocessing)
    kernel = Image.Resampling[preprocessing.interpolation.upper()]
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    if resize:
        square = resize_and_crop(whole, size, resize, kernel)
    else:
        box = central(width, height, preprocessing.fraction)
        square = whole.resize((size, size), kernel, box=box)
    return np.asarray(square).reshape(size, size, channels)


def scale(image: np.ndarray, height: int, width: int, preprocessing: "Preprocessing") -> np.ndarray:
    """The whole image, (height, width, C) uint8, for a network of images that are not square."""
    channels = image.shape[-1]
    if image.shape[:2] == (height, width):
        return image
    if not preprocessing.antialias:
        return (_bilinear(image, height, width) + np.float32(0.5)).astype(np.uint8)
    kernel = Image.Resampling[preprocessing.interpolation.upper()]
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(whole.resize((width, height), kernel)).reshape(height, width, channels)


def central(width: int, height: int, fraction: float) -> tuple[int, int, int, int]:
    """The central fraction of both sides, as (left, top, right, bottom)."""
    left, top = int((width - width * fraction) / 2), int((height - height * fraction) / 2)
    return left, top, width - left, height - top


def _without_antialias(image: np.ndarray, preprocessing: "Preprocessing") -> np.ndarray:
    """As `fit`, with the kernel of TensorFlow 1, which the TF-slim weights were trained with."""
    size, (height, width) = preprocessing.size, image.shape[:2]
    if preprocessing.resize:
        scale = np.float32(preprocessing.resize) / np.float32(min(height, width))
        image = _bilinear(image, int(np.float32(height) * scale), int(np.float32(width) * scale))
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        image = image[top : top + size, left : left + size]
    else:
        left, top, right, bottom = central(width, height, preprocessing.fraction)
        image = _bilinear(image[top:bottom, left:right], size, size)
    return (image + np.float32(0.5)).astype(np.uint8)


def _bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resized without antialiasing; corners, not centres, of pixels are aligned. float32."""
    rows, columns = (
        np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
        for new, old in ((height, image.shape[0]), (width, image.shape[1]))
    )
    (top, left), (y, x) = (
        [places.astype(int) for places in (rows, columns)],
        ((rows % 1)[:, None, None], (columns % 1)[None, :, None]),
    )
    bottom = np.minimum(top + 1, image.shape[0] - 1)
    right = np.minimum(left + 1, image.shape[1] - 1)
    image = image.astype(np.float32)
    upper = image[top][:, left] + (image[top][:, right] - image[top][:, left]) * x
    lower = image[bottom][:, left] + (image[bottom][:, right] - image[bottom][:, left]) * x
    return upper + (lower - upper) * y
