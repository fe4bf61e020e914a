"""RandAugment: a few operations, drawn from fourteen, all at one magnitude.

Cubuk, Zoph, Shlens, Le: RandAugment, 2019. The operations are those of its appendix, defined as in
Pillow; the places that a geometric operation leaves empty are grey. `draw` works in numpy; the
other functions load TensorFlow when they are called.
"""

import numpy as np

NAMES = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
OPERATIONS = (*NAMES, "invert")  # which AutoAugment has as well


def draw(numbers: np.ndarray, *, magnitude: float) -> np.ndarray:
    """(n, 2 * layers) in [0, 1) -> (n, 2 * layers) float32: operation and strength of each layer.

    The strength is magnitude / 10 with a random sign.
    """
    which, sign = np.split(numbers, 2, axis=1)
    strength = magnitude / 10 * np.where(sign < 0.5, -1, 1)
    layers = np.stack([np.floor(which * len(NAMES)), strength], axis=2)
    return layers.reshape(len(numbers), -1).astype(np.float32)


def apply(image, parameters, *, size: tuple[int, int]):
    """All layers in turn; image uint8 (H, W, 3), parameters one row of `draw`."""
    from train.data.tf import tf

    for layer in range(parameters.shape[0] // 2):
        which, strength = tf.cast(parameters[2 * layer], tf.int32), parameters[2 * layer + 1]
        branches = [
            lambda name=name, x=image, v=strength: operation(name, x, v, size)
            for name in OPERATIONS
        ]
        image = tf.ensure_shape(tf.switch_case(which, branches), (*size, 3))
    return image


def operation(name: str, image, strength, size: tuple[int, int]):
    """One operation on an image uint8 (H, W, 3), at a strength in -1..1."""
    from train.data.tf import tf

    x = tf.cast(image, tf.float32)
    blend = 1 + 0.9 * strength  # 0.1 to 1.9; 1 is the image itself
    if name == "identity":
        return image
    if name == "invert":
        return 255 - image
    if name == "autocontrast":
        low, high = tf.reduce_min(x, [0, 1]), tf.reduce_max(x, [0, 1])
        return _round(tf.where(high > low, (x - low) * 255 / tf.maximum(high - low, 1), x))
    if name == "equalize":
        return tf.stack([_equalize(image[..., k]) for k in range(3)], axis=-1)
    if name == "solarize":
        return tf.where(x < 256 * (1 - tf.abs(strength)), image, 255 - image)
    if name == "posterize":
        dropped = tf.cast(tf.round(4 * tf.abs(strength)), tf.uint8)  # bits
        return tf.bitwise.left_shift(tf.bitwise.right_shift(image, dropped), dropped)
    if name == "color":
        return _round(_blend(tf.image.rgb_to_grayscale(x), x, blend))
    if name == "contrast":
        return _round(_blend(tf.reduce_mean(tf.image.rgb_to_grayscale(x)), x, blend))
    if name == "brightness":
        return _round(blend * x)
    if name == "sharpness":
        return _sharpen(x, blend) if min(size) >= 3 else image  # else there is only border
    return _move(name, image, strength, size)


def _move(name: str, image, strength, size: tuple[int, int]):
    """The geometric operations: nearest neighbour, with grey (128) beyond the border."""
    from train.data.tf import tf

    height, width = size
    one, zero = tf.ones_like(strength), tf.zeros_like(strength)
    a, b, c, d = one, zero, zero, one
    x0 = y0 = zero
    if name == "rotate":
        angle = strength * (np.pi / 6)
        a, b, c, d = tf.cos(angle), -tf.sin(angle), tf.sin(angle), tf.cos(angle)
    elif name == "shear_x":
        b = 0.3 * strength
    elif name == "shear_y":
        c = 0.3 * strength
    elif name == "translate_x":
        x0 = 0.45 * width * strength
    else:
        y0 = 0.45 * height * strength
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x0 += middle_x - a * middle_x - b * middle_y
    y0 += middle_y - c * middle_x - d * middle_y
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None] - 128,  # the fill value 0 stands for grey; uint8 wraps around and back
        transforms=tf.stack([a, b, x0, c, d, y0, zero, zero])[None],
        output_shape=[height, width],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
    return moved + 128


def _sharpen(x, blend):
    """Blended with the image smoothed by Pillow's 3x3 kernel; the border stays."""
    from train.data.tf import tf

    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
    kernel = tf.tile(kernel[..., None, None], [1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(x[None], kernel, [1] * 4, "VALID")[0]
    inner = _blend(smooth, x[1:-1, 1:-1], blend)
    rows = tf.concat([x[1:-1, :1], inner, x[1:-1, -1:]], 1)
    return _round(tf.concat([x[:1], rows, x[-1:]], 0))


def _equalize(channel):
    """Grey levels made equally frequent, as by Pillow's ImageOps.equalize."""
    from train.data.tf import tf

    levels = tf.cast(channel, tf.int32)
    histogram = tf.math.bincount(tf.reshape(levels, [-1]), minlength=256, maxlength=256)
    last = histogram[tf.reduce_max(levels)]
    step = (tf.reduce_sum(histogram) - last) // 255
    table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
    table = tf.cast(tf.clip_by_value(table, 0, 255), tf.uint8)
    return tf.cond(step > 0, lambda: tf.gather(table, levels), lambda: channel)


def _blend(a, b, share):
    return a + share * (b - a)


def _round(x):
    from train.data.tf import tf

    return tf.saturate_cast(tf.round(x), tf.uint8)
