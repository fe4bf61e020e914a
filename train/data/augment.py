"""Random changes of training images in tf.data: stateless functions of a batch and of random numbers drawn for it.

Importing this module loads TensorFlow.
"""

from collections.abc import Callable

from train.config import Augment
from train.data.tf import tf


def make_augment(config: Augment) -> Callable:
    """(images uint8 (N, H, W, C), uniform) -> images.

    `uniform(k)` gives (N, k) numbers in [-1, 1) that depend on the seed, the step and the row alone.
    """

    def augment(images, uniform):
        rotate, scale_x, scale_y, shear, shift_x, shift_y = tf.unstack(uniform(6), axis=1)
        return affine(
            images,
            angle=rotate * config.rotate * (3.141592653589793 / 180),
            scale=(1 + scale_x * config.scale, 1 + scale_y * config.scale),
            shear=shear * config.shear,
            shift=(shift_x * config.shift, shift_y * config.shift),
        )

    return augment


def affine(images, *, angle, scale, shear, shift):
    """Turns, zooms, shears and moves each image about its centre, over black; bilinear. Every argument is (N,).

    The distortions of Simard, Steinkraus, Platt: Best practices for convolutional neural networks, 2003, section 2.
    """
    height, width = images.shape[1:3]
    cos, sin = tf.cos(angle), tf.sin(angle)
    # From output to input, centred: rotation, then shear, then the inverse zoom.
    a, b = cos / scale[0], (shear * cos - sin) / scale[0]
    c, d = sin / scale[1], (shear * sin + cos) / scale[1]
    x, y = (width - 1) / 2, (height - 1) / 2
    offset_x = x - a * (x + shift[0]) - b * (y + shift[1])
    offset_y = y - c * (x + shift[0]) - d * (y + shift[1])
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, offset_x, c, d, offset_y, zero, zero], axis=1),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
