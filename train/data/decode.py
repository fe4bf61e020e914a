"""Image files of any kind to pixels, with Pillow: what is no ordinary JPEG in training, and every file in evaluation."""

import io

import numpy as np
from PIL import Image, ImageOps

# Pillow warns of large images; here `max_pixels` decides.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION = 0x0112  # the EXIF tag


class BadImage(ValueError):
    """A file that cannot be read as an image, and why."""


def check_size(data: bytes, max_pixels: int) -> Image.Image:
    """The image, of which only the header is read yet."""
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        raise BadImage("no image format that is known") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"{width}x{height} is more than data.max_pixels={max_pixels}")
    return image


def open_image(data: bytes, channels: int, *, exif: bool, max_pixels: int) -> Image.Image:
    """The first frame of an image file as an image of mode RGB or L.

    Transparency is dropped, 16 bits become the upper 8, and CMYK becomes RGB as in Pillow.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        image = check_size(data, max_pixels)
        if exif:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, in whichever container
            image = Image.fromarray(
                (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
            )
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode:  # or it would make a copy
            return image.convert(mode)
        image.load()
        return image
    except BadImage:
        raise
    except (
        Exception
    ) as error:  # damaged files raise anything: OSError, SyntaxError, struct.error, …
        raise BadImage(str(error) or type(error).__name__) from None


def decode(
    data: bytes, channels: int, *, exif: bool = False, max_pixels: int = 80_000_000
) -> np.ndarray:
    """(H, W, channels) uint8; BadImage tells what is wrong."""
    pixels = np.asarray(open_image(data, channels, exif=exif, max_pixels=max_pixels))
    return pixels if pixels.ndim == 3 else pixels[..., None]
