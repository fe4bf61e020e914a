"""Random changes of training images on the host: parameters drawn in numpy, images changed in tf.data, or in numpy alone.

Nothing here holds state or draws numbers of its own, so an image depends on (seed, position) only. Importing this module
does not load TensorFlow; the functions on images do, except for those of `in_numpy`.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.spelling import nearest
from train.config import Augment, Data
from train.data import affine, randaugment
from train.errors import UserError

CROPS = ("center", "scale", "area")
METHODS = ("bilinear", "bicubic", "area", "nearest")  # of interpolation
CUSTOM_COLUMNS = 16  # as many numbers as a function of the user gets for each image

# Eigenvalues and eigenvectors of the covariance of ImageNet's pixels in [0, 1], as PyTorch's and others' recipes have them.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


class Change(NamedTuple):
    """One augmentation: `draw` turns numbers (n, columns) in [0, 1) into parameters (n, …) float32 in numpy;
    `apply` turns an image (H, W, C) and its parameters into an image, in tf.data.

    `name` keys the numbers, so that one augmentation more leaves those of the others as they are. Images are uint8, or
    float32 in 0..255 behind a change of colours, of which only the last rounds.
    """

    name: str
    columns: int
    draw: Callable[[np.ndarray], np.ndarray]
    apply: Callable


def check_crop(config: Data) -> None:
    """UserError for a crop or an interpolation that is unknown, and for ranges that make no sense."""
    chosen = config.augment
    for name, known in (("crop", CROPS), ("interpolation", (*METHODS, "random"))):
        value = getattr(chosen, name)
        if value not in known:
            raise UserError(f"data.augment.{name}={value!r} is unknown; {nearest(value, known)}")
    for name in ("short_side", "area", "aspect"):
        values = getattr(chosen, name)
        if len(values) != 2 or not 0 < values[0] <= values[1]:
            raise UserError(
                f"data.augment.{name} is a range such as {getattr(Augment(), name)}, got {values}"
            )
    if chosen.crop == "area" and chosen.area[1] > 1:
        raise UserError(f"data.augment.area={chosen.area} is a share of the image, at most 1")
    if chosen.crop == "scale" and chosen.short_side[0] < config.size:
        raise UserError(
            f"data.augment.short_side={chosen.short_side} is smaller than data.size={config.size}"
        )


def make_changes(config: Augment, shape: tuple[int, ...]) -> list[Change]:
    """What a config asks for on images of this shape, in the order in which it happens; UserError for what cannot be."""
    height, width, channels = shape
    found = []
    if config.flip:
        found.append(Change("flip", 1, lambda numbers: numbers, flip))
    if config.randaugment:
        layers = partial(randaugment.apply, size=(height, width))
        draw = partial(randaugment.draw, magnitude=config.magnitude)
        found.append(Change("randaugment", 2 * config.randaugment, draw, layers))
    if config.color not in ("none", "slim", "slim_fast"):
        known = ("none", "slim", "slim_fast")
        raise UserError(
            f"data.augment.color={config.color!r} is unknown; {nearest(config.color, known)}"
        )
    if config.color != "none":
        found.append(
            Change("color", 5, draw_color, partial(distort_color, fast=config.color == "slim_fast"))
        )
    if config.lighting:
        found.append(
            Change("lighting", 6, partial(draw_lighting, deviation=config.lighting), shift_color)
        )
    if config.permute_channels:
        found.append(
            Change("permute_channels", 3, lambda numbers: numbers.argsort(axis=1), permute_channels)
        )
    if config.erase:
        draw = partial(draw_erase, probability=config.erase, height=height, width=width)
        found.append(Change("erase", 6, draw, erase))
    if config.cutout:
        found.append(
            Change(
                "cutout",
                2,
                partial(draw_cutout, side=config.cutout, height=height, width=width),
                cutout,
            )
        )
    if config.custom:
        found.append(
            Change("custom", CUSTOM_COLUMNS, lambda numbers: numbers, custom(config.custom))
        )
    if affine.wanted(config, "host"):  # last, as on the device
        draw = partial(affine.transforms, config=config, height=height, width=width)
        found.append(Change(*affine.NUMBERS, draw, affine.distort))
    for change in found:
        if channels != 3 and change.name in (
            "randaugment",
            "color",
            "lighting",
            "permute_channels",
        ):
            raise UserError(
                f"data.augment.{change.name} is for images in colour; these have {channels} channel(s)"
            )
    return found


def in_numpy(changes: list[Change]) -> bool:
    """Whether `apply_in_numpy` knows them all."""
    return all(change.name in ("flip", "cutout") for change in changes)


def apply_in_numpy(
    changes: list[Change], images: np.ndarray, parameters: list[np.ndarray]
) -> np.ndarray:
    """The changes of a batch uint8 (N, H, W, C)."""
    for change, values in zip(changes, parameters):
        if change.name == "flip":
            images = np.where((values < 0.5)[:, :, None, None], images[:, :, ::-1], images)
        else:
            y, x = np.arange(images.shape[1])[:, None], np.arange(images.shape[2])
            top, left, bottom, right = values.T[:, :, None, None]
            images = images * ~((y >= top) & (y < bottom) & (x >= left) & (x < right))[..., None]
    return images


def apply_all(changes: list[Change]) -> Callable:
    """(image uint8, parameters of all changes in one row) -> image uint8, in tf.data."""
    from train.data.tf import tf

    def apply(image, parameters):
        shape, start = image.shape, 0
        for change in changes:
            width = change.draw(np.zeros((1, change.columns), np.float32)).shape[1]
            image = change.apply(image, parameters[start : start + width])
            start += width
        if image.dtype != tf.uint8:
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return tf.ensure_shape(image, shape)

    return apply


def flip(image, parameters):
    """Mirrored left to right, half of the time. Krizhevsky et al. 2012, section 4.1."""
    from train.data.tf import tf

    return tf.cond(parameters[0] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def draw_color(numbers: np.ndarray) -> np.ndarray:
    """Brightness, saturation, hue, contrast and which of the four orders."""
    brightness, saturation, hue, contrast, order = numbers.T
    return np.stack(
        [
            64 * brightness - 32,
            0.5 + saturation,
            0.4 * hue - 0.2,
            0.5 + contrast,
            np.floor(4 * order),
        ],
        axis=1,
    )


def distort_color(image, parameters, *, fast: bool):
    """Brightness, saturation, hue and contrast in one of four orders, as TF-slim's inception_preprocessing has them.

    `fast` leaves out hue and contrast, and has two orders. The photometric distortions of Howard: Some improvements on
    deep convolutional neural network based image classification, 2013, to which GoogLeNet (section 6) refers.
    """
    from train.data.tf import tf

    steps = {
        "b": lambda x: x + parameters[0],
        "s": lambda x: tf.image.adjust_saturation(x, parameters[1]),
        "h": lambda x: tf.image.adjust_hue(x, parameters[2]),
        "c": lambda x: tf.image.adjust_contrast(x, parameters[3]),
    }

    def in_order(letters):
        x = tf.cast(image, tf.float32)
        for letter in letters:
            x = steps[letter](x)
        return x

    orders = ("bs", "sb", "sb", "sb") if fast else ("bshc", "sbch", "chbs", "hscb")
    branches = [lambda letters=letters: in_order(letters) for letters in orders]
    return tf.clip_by_value(tf.switch_case(tf.cast(parameters[4], tf.int32), branches), 0.0, 255.0)


def draw_lighting(numbers: np.ndarray, *, deviation: float) -> np.ndarray:
    """What is added to red, green and blue: along each principal component a normal number times its eigenvalue.

    Krizhevsky et al. 2012, section 4.1, with a deviation of 0.1. VGG (section 3.1) calls it random RGB colour shift.
    """
    normal = np.sqrt(-2 * np.log1p(-numbers[:, :3])) * np.cos(
        2 * np.pi * numbers[:, 3:]
    )  # Box and Muller
    return (255 * deviation * (normal * PCA_VALUES) @ PCA_VECTORS.T).astype(np.float32)


def shift_color(image, parameters):
    """The same for every pixel; what leaves 0..255 is cut off."""
    from train.data.tf import tf

    return tf.clip_by_value(tf.cast(image, tf.float32) + parameters, 0.0, 255.0)


def permute_channels(image, parameters):
    """Red, green and blue in one of their six orders: no network can rely on what colour a thing has."""
    from train.data.tf import tf

    return tf.gather(image, tf.cast(parameters, tf.int32), axis=-1)


def draw_erase(numbers: np.ndarray, *, probability: float, height: int, width: int) -> np.ndarray:
    """(top, left, bottom, right, seed) of a rectangle of 2 to 40 % of the area with an aspect of 0.3 to 3.3."""
    share, ratio = 0.02 + 0.38 * numbers[:, 1], 0.3 * 11 ** numbers[:, 2]
    high = np.minimum(height - 1, np.round(np.sqrt(share * height * width * ratio)))
    wide = np.minimum(width - 1, np.round(np.sqrt(share * height * width / ratio)))
    high = np.where(numbers[:, 0] < probability, high, 0)
    top, left = (
        np.floor(numbers[:, 3] * (height - high + 1)),
        np.floor(numbers[:, 4] * (width - wide + 1)),
    )
    return np.stack(
        [top, left, top + high, left + wide, np.floor(numbers[:, 5] * 2**24)], axis=1
    ).astype(np.float32)


def erase(image, parameters):
    """A random rectangle of random pixels. Zhong et al.: Random erasing data augmentation, 2017, section 3.2."""
    from train.data.tf import tf

    def noise():
        seed = tf.stack([0, tf.cast(parameters[4], tf.int32)])
        random = tf.cast(
            tf.random.stateless_uniform(image.shape, seed, 0, 256, tf.int32), image.dtype
        )
        return tf.where(_inside(image, parameters), random, image)

    return tf.cond(parameters[2] > parameters[0], noise, lambda: image)


def draw_cutout(numbers: np.ndarray, *, side: int, height: int, width: int) -> np.ndarray:
    """(top, left, bottom, right) of a square around a pixel anywhere: it may reach beyond the border."""
    top, left = (
        np.floor(numbers[:, 0] * height) - side // 2,
        np.floor(numbers[:, 1] * width) - side // 2,
    )
    return np.stack([top, left, top + side, left + side], axis=1).astype(np.float32)


def cutout(image, parameters):
    """A black square. DeVries, Taylor: Improved regularization of convolutional neural networks with cutout, 2017."""
    from train.data.tf import tf

    return tf.where(_inside(image, parameters), tf.zeros_like(image), image)


def _inside(image, box):
    """(H, W, 1) bool: the pixels of the rectangle (top, left, bottom, right)."""
    from train.data.tf import tf

    y, x = (
        tf.range(image.shape[0], dtype=tf.float32)[:, None],
        tf.range(image.shape[1], dtype=tf.float32),
    )
    return ((y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3]))[..., None]


def custom(reference: str) -> Callable:
    """A function of the user's: (image uint8 (H, W, C), 16 numbers in [0, 1)) -> image uint8, as tf tensors."""
    place, colon, name = reference.rpartition(":")
    if not colon:
        raise UserError(
            f"data.augment.custom={reference!r} must read package.module:function or path/file.py:function"
        )
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, name)
    except Exception as error:
        raise UserError(
            f"data.augment.custom={reference!r} cannot be had: {type(error).__name__}: {error}"
        ) from None
