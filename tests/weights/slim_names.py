"""TF-slim's layers in the order in which its graphs create them, and checkpoints of them.

Written out from its checkpoints, and independent of the rules in `cnnjax.weights`: a list here, a
substitution there.
"""

import numpy as np


def under(module, layers):
    """The paths of a module's layers."""
    return [f"{module}/{layer}" for layer in layers.split()]


V3_A = (
    "Branch_0/Conv2d_0a_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_5x5 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_3x3 Branch_2/Conv2d_0c_3x3 Branch_3/Conv2d_0b_1x1"
)
V3_B = (
    "Branch_0/Conv2d_0a_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x7 Branch_1/Conv2d_0c_7x1 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_7x1 Branch_2/Conv2d_0c_1x7 Branch_2/Conv2d_0d_7x1 "
    "Branch_2/Conv2d_0e_1x7 Branch_3/Conv2d_0b_1x1"
)
V3_C = (
    "Branch_0/Conv2d_0a_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x3 Branch_1/Conv2d_0c_3x1 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_3x3 Branch_2/Conv2d_0c_1x3 Branch_2/Conv2d_0d_3x1 "
    "Branch_3/Conv2d_0b_1x1"
)
V4_A = V3_A.replace("5x5", "3x3")
V4_C = (
    "Branch_0/Conv2d_0a_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x3 Branch_1/Conv2d_0c_3x1 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_3x1 Branch_2/Conv2d_0c_1x3 Branch_2/Conv2d_0d_1x3 "
    "Branch_2/Conv2d_0e_3x1 Branch_3/Conv2d_0b_1x1"
)
REDUCTION_A = (
    "Branch_0/Conv2d_1a_3x3 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_3x3 Branch_1/Conv2d_1a_3x3"
)
REDUCTION_B = (
    "Branch_0/Conv2d_0a_1x1 Branch_0/Conv2d_1a_3x3 "
    "Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x7 Branch_1/Conv2d_0c_7x1 Branch_1/Conv2d_1a_3x3"
)
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]

INCEPTION_V3 = [
    *STEM,
    *under("Mixed_5b", V3_A),
    *under(
        "Mixed_5c",
        V3_A.replace("1/Conv2d_0a_1x1", "1/Conv2d_0b_1x1").replace(
            "Conv2d_0b_5x5", "Conv_1_0c_5x5"
        ),
    ),
    *under("Mixed_5d", V3_A),
    *under("Mixed_6a", REDUCTION_A.replace("1a_3x3", "1a_1x1")),
    *[name for letter in "bcde" for name in under(f"Mixed_6{letter}", V3_B)],
    *under("Mixed_7a", REDUCTION_B),
    *under("Mixed_7b", V3_C.replace("0c_3x1", "0b_3x1")),
    *under("Mixed_7c", V3_C),
]
INCEPTION_V4 = [
    *STEM[:3],
    *under("Mixed_3a", "Branch_1/Conv2d_0a_3x3"),
    *under("Mixed_4a", REDUCTION_B),
    *under("Mixed_5a", "Branch_0/Conv2d_1a_3x3"),
    *[name for letter in "bcde" for name in under(f"Mixed_5{letter}", V4_A)],
    *under("Mixed_6a", REDUCTION_A),
    *[name for letter in "bcdefgh" for name in under(f"Mixed_6{letter}", V3_B)],
    *under("Mixed_7a", REDUCTION_B),
    *[name for letter in "bcd" for name in under(f"Mixed_7{letter}", V4_C)],
]

# The last layer of a block is its up-projection, which has a bias and no BatchNorm.
BLOCK35 = (
    "Branch_0/Conv2d_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_3x3 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_3x3 Branch_2/Conv2d_0c_3x3 Conv2d_1x1"
)
BLOCK17 = (
    "Branch_0/Conv2d_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x7 Branch_1/Conv2d_0c_7x1 "
    "Conv2d_1x1"
)
BLOCK8 = (
    "Branch_0/Conv2d_1x1 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_0b_1x3 Branch_1/Conv2d_0c_3x1 "
    "Conv2d_1x1"
)
RESNET_REDUCTION_B = (
    "Branch_0/Conv2d_0a_1x1 Branch_0/Conv2d_1a_3x3 Branch_1/Conv2d_0a_1x1 Branch_1/Conv2d_1a_3x3 "
    "Branch_2/Conv2d_0a_1x1 Branch_2/Conv2d_0b_3x3 Branch_2/Conv2d_1a_3x3"
)


def resnet(blocks35, blocks17, blocks8):
    return [
        *[name for i in range(1, blocks35 + 1) for name in under(f"Repeat/block35_{i}", BLOCK35)],
        *under("Mixed_6a", REDUCTION_A),
        *[name for i in range(1, blocks17 + 1) for name in under(f"Repeat_1/block17_{i}", BLOCK17)],
        *under("Mixed_7a", RESNET_REDUCTION_B),
        *[name for i in range(1, blocks8 + 1) for name in under(f"Repeat_2/block8_{i}", BLOCK8)],
        *under("Block8", BLOCK8),
    ]


INCEPTION_RESNET_V2 = [
    *STEM,
    *under("Mixed_5b", V3_A.replace("0/Conv2d_0a_1x1", "0/Conv2d_1x1")),
    *resnet(10, 20, 9),
    "Conv2d_7b_1x1",
]
FACENET = [*STEM, "Conv2d_4b_3x3", *resnet(5, 10, 5)]


def normalised(prefix, kernel, beta, mean, variance):
    """The variables of a convolution or dense layer with BatchNorm."""
    batch_norm = {"beta": beta, "moving_mean": mean, "moving_variance": variance}
    return {f"{prefix}/weights": kernel} | {
        f"{prefix}/BatchNorm/{name}": value for name, value in batch_norm.items()
    }


def biased(prefix, kernel, bias):
    """The variables of a convolution or dense layer with a bias."""
    return {f"{prefix}/weights": kernel, f"{prefix}/biases": bias}


def write_checkpoint(path, tensors, version=2):
    """Writes a TensorFlow checkpoint. Version 1, that of the published ones, is a single file."""
    import tensorflow as tf

    names, values = list(tensors), [np.ascontiguousarray(value) for value in tensors.values()]
    if version == 1:
        tf.raw_ops.Save(filename=str(path), tensor_names=names, data=values)
    else:
        tf.raw_ops.SaveV2(
            prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
        )
    return path
