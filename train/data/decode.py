"""Image files to pixels: with Pillow, and JPEG in training with TensorFlow, which is faster."""

import io

import numpy as np
from PIL import Image, ImageOps

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
    except BadImage:
        raise
    except Exception as error:  # damaged files raise OSError, SyntaxError, struct.error, …
        raise BadImage(str(error) or type(error).__name__) from None


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


def decode_as_training(data: bytes, channels: int, *, exif: bool, max_pixels: int) -> np.ndarray:
    """As `decode`, but grey and RGB JPEG with TensorFlow unless `exif`: how training reads files.

    The two decoders differ in which damaged JPEG files they accept.

    Raises:
        BadImage: the file cannot be read.
    """
    if exif or data[:3] != b"\xff\xd8\xff":
        return decode(data, channels, exif=exif, max_pixels=max_pixels)
    from train.data.tf import tf

    if check_size(data, max_pixels).mode == "CMYK":
        return decode(data, channels, max_pixels=max_pixels)
    try:
        return tf.io.decode_jpeg(data, channels=channels).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise BadImage(error.message.split(" [Op:")[0]) from None
