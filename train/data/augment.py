"""Random changes of training images on the host: drawn in numpy, applied in tf.data or numpy.

Nothing here holds state or draws random numbers itself, so an image depends on (seed, position)
alone. Importing this module does not load TensorFlow; the functions on single images do.

One file: a change is a pair of draw and apply, and `make_changes` is the list of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cnnjax.spelling import choice
from train.config import Augment, Data
from train.data import affine, policies, randaugment
from train.errors import UserError

CROPS = ("center", "scale", "area")
METHODS = ("bilinear", "bicubic", "area", "nearest")  # of interpolation
COLORS = ("none", "slim", "slim_fast")
NEED_COLOR = ("randaugment", "policy", "grey", "color", "lighting", "permute_channels")
CUSTOM_COLUMNS = 16  # random numbers that a user's function gets for each image

# Of the covariance of ImageNet's pixels in [0, 1], as in PyTorch's recipes.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


class Change(NamedTuple):
    """One augmentation.

    Attributes:
        name: keys the random numbers, so that one more augmentation does not change the others.
        columns: how many random numbers an image takes.
        draw: (n, columns) in [0, 1) -> (n, P) float32 parameters, in numpy.
        apply: (image (H, W, C), parameters (P,)) -> image, in tf.data. Images are uint8, or float32
            in 0..255 after a change of colours; `apply_all` rounds once, at the end.
    """

    name: str
    columns: int
    draw: Callable[[np.ndarray], np.ndarray]
    apply: Callable


def check_crop(config: Data) -> None:
    """Checks the options of the random crop.

    Raises:
        UserError: an unknown crop or interpolation, or an impossible range.
    """
    augment = config.augment
    choice("data.augment.crop", augment.crop, CROPS, UserError)
    methods = (*METHODS, "random")
    choice("data.augment.interpolation", augment.interpolation, methods, UserError)
    for name in ("short_side", "area", "aspect"):
        values = getattr(augment, name)
        if len(values) != 2 or not 0 < values[0] <= values[1]:
            raise UserError(
                f"data.augment.{name} is a range such as {getattr(Augment(), name)}, got {values}"
            )
    if augment.crop == "area" and augment.area[1] > 1:
        raise UserError(f"data.augment.area={augment.area} is a share of the image, at most 1")
    if augment.crop == "scale" and augment.short_side[0] < config.size:
        raise UserError(
            f"data.augment.short_side={augment.short_side} is smaller than data.size={config.size}"
        )


def make_changes(config: Augment, shape: tuple[int, ...]) -> list[Change]:
    """The changes that a config names, in the order of their application.

    Args:
        config: the augmentation.
        shape: (H, W, C) of the images.

    Raises:
        UserError: an option is unknown, or needs images in colour.
    """
    height, width, channels = shape
    choice("data.augment.color", config.color, COLORS, UserError)
    size: dict[str, Any] = dict(height=height, width=width)
    changes = []
    if config.flip:
        changes.append(Change("flip", 1, _as_drawn, partial(flip, axis=1)))
    if config.flip_vertical:
        changes.append(Change("flip_vertical", 1, _as_drawn, partial(flip, axis=0)))
    if config.randaugment:
        draw = partial(randaugment.draw, magnitude=config.magnitude)
        apply = partial(randaugment.apply, size=(height, width))
        changes.append(Change("randaugment", 2 * config.randaugment, draw, apply))
    if config.policy != "none":
        choice("data.augment.policy", config.policy, policies.POLICIES, UserError)
        draw = partial(policies.draw, policy=config.policy, size=(height, width))
        apply = partial(randaugment.apply, size=(height, width))
        changes.append(Change("policy", 5, draw, apply))
    if any(config.jitter):
        draw = partial(draw_jitter, most=np.array(config.jitter, np.float32))
        apply = partial(jitter, hue=config.jitter[3] > 0)
        changes.append(Change("jitter", 4, draw, apply))
    if config.grey:
        changes.append(Change("grey", 1, _as_drawn, partial(grey, probability=config.grey)))
    if config.blur:
        apply = partial(blur, most=config.blur)
        changes.append(Change("blur", 1, partial(draw_blur, most=config.blur), apply))
    if config.color != "none":
        apply = partial(distort_color, fast=config.color == "slim_fast")
        changes.append(Change("color", 5, draw_color, apply))
    if config.lighting:
        draw = partial(draw_lighting, deviation=config.lighting)
        changes.append(Change("lighting", 6, draw, shift_color))
    if config.permute_channels:
        changes.append(Change("permute_channels", 3, partial(np.argsort, axis=1), permute_channels))
    if config.erase:
        draw = partial(draw_erase, probability=config.erase, **size)
        changes.append(Change("erase", 6, draw, erase))
    if config.cutout:
        draw = partial(draw_cutout, side=config.cutout, **size)
        changes.append(Change("cutout", 2, draw, cutout))
    if config.custom:
        changes.append(Change("custom", CUSTOM_COLUMNS, _as_drawn, custom(config.custom)))
    if affine.wanted(config, "host"):  # after the other changes, as on the device
        draw = partial(affine.transforms, config=config, **size)
        changes.append(Change(*affine.NUMBERS, draw, affine.distort))
    colors = (*NEED_COLOR, "jitter") if any(config.jitter[2:]) else NEED_COLOR
    for change in changes:
        if channels != 3 and change.name in colors:
            raise UserError(
                f"data.augment.{change.name} is for images in colour; "
                f"these have {channels} channel(s)"
            )
    return changes


def _as_drawn(numbers: np.ndarray) -> np.ndarray:
    return numbers


def in_numpy(changes: list[Change]) -> bool:
    """Whether `apply_in_numpy` knows all of these changes."""
    return all(change.name in ("flip", "flip_vertical", "cutout") for change in changes)


def apply_in_numpy(
    changes: list[Change], images: np.ndarray, parameters: list[np.ndarray]
) -> np.ndarray:
    """The changes of a batch uint8 (N, H, W, C), with one array (N, P) of parameters for each."""
    for change, values in zip(changes, parameters):
        if change.name == "flip":
            images = np.where((values < 0.5)[:, :, None, None], images[:, :, ::-1], images)
        elif change.name == "flip_vertical":
            images = np.where((values < 0.5)[:, :, None, None], images[:, ::-1], images)
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


def flip(image, parameters, *, axis: int):
    """Mirrored along an axis with probability 1/2. Krizhevsky et al. 2012, section 4.1."""
    from train.data.tf import tf

    return tf.cond(parameters[0] < 0.5, lambda: tf.reverse(image, [axis]), lambda: image)


def draw_jitter(numbers: np.ndarray, *, most: np.ndarray) -> np.ndarray:
    """(n, 4): factors of brightness, contrast and saturation, and the turn of the hue."""
    centred = (2 * numbers - 1) * most
    return np.concatenate([np.maximum(0, 1 + centred[:, :3]), centred[:, 3:]], axis=1)


def jitter(image, parameters, *, hue: bool):
    """Brightness, contrast, saturation, hue, in this order; as torchvision's ColorJitter."""
    from train.data.tf import tf

    def within(x):
        return tf.clip_by_value(x, 0.0, 255.0)

    def in_grey(x):
        return tf.image.rgb_to_grayscale(x) if x.shape[-1] == 3 else x

    x = within(parameters[0] * tf.cast(image, tf.float32))
    mean = tf.reduce_mean(in_grey(x))
    x = within(mean + parameters[1] * (x - mean))
    levels = in_grey(x)
    x = within(levels + parameters[2] * (x - levels))
    return within(tf.image.adjust_hue(x, parameters[3])) if hue else x


def grey(image, parameters, *, probability: float):
    """Three equal channels, with a probability."""
    from train.data.tf import tf

    def without():
        levels = tf.image.rgb_to_grayscale(image)
        return tf.broadcast_to(levels, image.shape)

    return tf.cond(parameters[0] < probability, without, lambda: image)


def draw_blur(numbers: np.ndarray, *, most: float) -> np.ndarray:
    """(n, 1): the deviation in pixels, from a tenth (nothing to see) to `most`."""
    return 0.1 + numbers * max(0.0, most - 0.1)


def blur(image, parameters, *, most: float):
    """A Gaussian blur; beyond the border the image is mirrored."""
    from train.data.tf import tf

    x = tf.cast(image, tf.float32)[None]
    channels, (height, width) = image.shape[-1], image.shape[:2]
    radius = min(max(1, round(3 * most)), height - 1, width - 1)
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-(places**2) / (2 * parameters[0] ** 2))
    x = tf.pad(x, [(0, 0), (radius, radius), (radius, radius), (0, 0)], "REFLECT")
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        kernel = tf.tile(tf.reshape(weights, shape), (1, 1, channels, 1))
        x = tf.nn.depthwise_conv2d(x, kernel, [1] * 4, "VALID")
    return tf.ensure_shape(x[0], image.shape)


def draw_color(numbers: np.ndarray) -> np.ndarray:
    """(n, 5): brightness, saturation, hue, contrast, and which of the four orders."""
    brightness, saturation, hue, contrast, order = numbers.T
    hue, order = 0.4 * hue - 0.2, np.floor(4 * order)
    return np.stack([64 * brightness - 32, 0.5 + saturation, hue, 0.5 + contrast, order], axis=1)


def distort_color(image, parameters, *, fast: bool):
    """Brightness, saturation, hue and contrast, in one of four orders.

    As in TF-slim's inception_preprocessing.
    GoogLeNet (2014), section 6, takes these photometric distortions from Howard: Some improvements
    on deep convolutional neural network based image classification, 2013.

    Args:
        image: (H, W, 3).
        parameters: (5,), a row of `draw_color`.
        fast: leave out hue and contrast.
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
    """(n, 3): what is added to red, green and blue, a normal number times each principal component.

    Krizhevsky et al. 2012, section 4.1, with a deviation of 0.1; the "random RGB colour shift" of
    VGG (2014), section 3.1.
    """
    # Box-Muller
    radius, angle = np.sqrt(-2 * np.log1p(-numbers[:, :3])), 2 * np.pi * numbers[:, 3:]
    normal = radius * np.cos(angle)
    return (255 * deviation * (normal * PCA_VALUES) @ PCA_VECTORS.T).astype(np.float32)


def shift_color(image, parameters):
    """The same three numbers added to every pixel, clipped to 0..255."""
    from train.data.tf import tf

    return tf.clip_by_value(tf.cast(image, tf.float32) + parameters, 0.0, 255.0)


def permute_channels(image, parameters):
    """Red, green and blue in one of their six orders, so that a network cannot rely on colour."""
    from train.data.tf import tf

    return tf.gather(image, tf.cast(parameters, tf.int32), axis=-1)


def draw_erase(numbers: np.ndarray, *, probability: float, height: int, width: int) -> np.ndarray:
    """(n, 5) top, left, bottom, right, seed: 2 to 40 % of the area, at an aspect of 0.3 to 3.3."""
    share, ratio = 0.02 + 0.38 * numbers[:, 1], 0.3 * 11 ** numbers[:, 2]
    high = np.minimum(height - 1, np.round(np.sqrt(share * height * width * ratio)))
    wide = np.minimum(width - 1, np.round(np.sqrt(share * height * width / ratio)))
    high = np.where(numbers[:, 0] < probability, high, 0)
    top = np.floor(numbers[:, 3] * (height - high + 1))
    left = np.floor(numbers[:, 4] * (width - wide + 1))
    seed = np.floor(numbers[:, 5] * 2**24)
    return np.stack([top, left, top + high, left + wide, seed], axis=1).astype(np.float32)


def erase(image, parameters):
    """A random rectangle of random pixels.

    Zhong et al.: Random erasing data augmentation, 2017, section 3.2.
    """
    from train.data.tf import tf

    def noise():
        seed = tf.stack([0, tf.cast(parameters[4], tf.int32)])
        random = tf.random.stateless_uniform(image.shape, seed, 0, 256, tf.int32)
        return tf.where(_inside(image, parameters), tf.cast(random, image.dtype), image)

    return tf.cond(parameters[2] > parameters[0], noise, lambda: image)


def draw_cutout(numbers: np.ndarray, *, side: int, height: int, width: int) -> np.ndarray:
    """(n, 4) top, left, bottom, right of a square centred on any pixel; it may cross the border."""
    top = np.floor(numbers[:, 0] * height) - side // 2
    left = np.floor(numbers[:, 1] * width) - side // 2
    return np.stack([top, left, top + side, left + side], axis=1).astype(np.float32)


def cutout(image, parameters):
    """A black square.

    DeVries, Taylor: Improved regularization of convolutional neural networks with cutout, 2017.
    """
    from train.data.tf import tf

    return tf.where(_inside(image, parameters), tf.zeros_like(image), image)


def _inside(image, box):
    """(H, W, 1) bool: the pixels of the rectangle (top, left, bottom, right, …)."""
    from train.data.tf import tf

    y = tf.range(image.shape[0], dtype=tf.float32)[:, None]
    x = tf.range(image.shape[1], dtype=tf.float32)
    return ((y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3]))[..., None]


def custom(reference: str) -> Callable:
    """A user's function on tensors: (image uint8 (H, W, C), 16 numbers in [0, 1)) -> image uint8.

    Args:
        reference: package.module:function or path/file.py:function.

    Raises:
        UserError: the reference is malformed, or the function cannot be imported.
    """
    from train.own import load  # needs jax, which the import of pipelines need not wait for

    return load(reference, "data.augment.custom")


def check_custom(reference: str, changes: list[Change], shape: tuple[int, int, int]) -> None:
    """Builds the user's function, if there is one, for images (H, W, C), without running it.

    Raises:
        UserError: it is no TensorFlow code, or makes images of another shape.
    """
    from train.data.tf import tf

    specs = tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((CUSTOM_COLUMNS,), tf.float32)
    for change in changes:
        if change.name != "custom":
            continue
        try:
            made = tf.function(change.apply).get_concrete_function(*specs).structured_outputs
            made = tf.TensorSpec(made.shape, made.dtype)
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            raise UserError(
                f"data.augment.custom={reference!r} failed: {reason} "
                f"It is given TensorFlow tensors, an image uint8 (H, W, C) and {CUSTOM_COLUMNS} "
                "numbers uniform in [0, 1), and has to be written with tf, not numpy: "
                "tf.where(numbers[0] < 0.5, 255 - image, image)"
            ) from None
        if not made.shape.is_compatible_with(shape):
            raise UserError(
                f"data.augment.custom={reference!r} makes images of {tuple(made.shape)}; "
                f"they have to stay {shape}"
            )
