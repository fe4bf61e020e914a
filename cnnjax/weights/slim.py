"""TF-slim's checkpoints. The Inceptions have 1001 classes, and class 0 is not one of ImageNet's."""

import math
from typing import Any

import numpy as np

from cnnjax.weights.layout import SLIM, Map, Rule, Source, chain

VGG: tuple[Rule, ...] = ((r"^block(\d)/conv(\d)/", r"conv\1/conv\1_\2/"), ("^head", "fc8"))

# A module's own rules come before these general ones. `0a` to `0e` count the layers of a branch.
BRANCHES: tuple[Rule, ...] = (
    ("branch1x1/", "Branch_0/Conv2d_0a_1x1/"),
    *chain("branch5x5_", "Branch_1/Conv2d_", "0a_1x1", "0b_5x5"),
    *chain("branch3x3_", "Branch_1/Conv2d_", "0a_1x1", "0b_3x3"),
    *chain("branch7x7_", "Branch_1/Conv2d_", "0a_1x1", "0b_1x7", "0c_7x1"),
    *chain("branch3x3dbl_", "Branch_2/Conv2d_", "0a_1x1", "0b_3x3", "0c_3x3"),
    *chain("branch7x7dbl_", "Branch_2/Conv2d_", "0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7"),
    *chain("branch7x7x3_", "Branch_1/Conv2d_", "0a_1x1", "0b_1x7", "0c_7x1", "1a_3x3"),
    ("branch_pool/", "Branch_3/Conv2d_0b_1x1/"),
)
REDUCTION: tuple[Rule, ...] = (
    ("^mixed6a/branch3x3/", "mixed6a/Branch_0/Conv2d_1a_3x3/"),
    *chain("^mixed6a/branch3x3dbl_", "mixed6a/Branch_1/Conv2d_", "0a_1x1", "0b_3x3", "1a_3x3"),
    *chain("^mixed7a/branch3x3_", "mixed7a/Branch_0/Conv2d_", "0a_1x1", "1a_3x3"),
)
STAGES: tuple[Rule, ...] = (
    ("^conv(1a|2a|2b|4a|4b)/", r"Conv2d_\1_3x3/"),
    ("^conv(3b|7b)/", r"Conv2d_\1_1x1/"),
    ("^mixed", "Mixed_"),
    ("^aux/conv0/", "AuxLogits/Conv2d_1b_1x1/"),
)

# TF-slim letters modules from b, the papers from a: Mixed_3b is the paper's 3a.
NEXT_LETTER: Rule = ("^mixed(.)(.)", lambda match: f"Mixed_{match[1]}{chr(ord(match[2]) + 1)}")
STEM_7X7: tuple[Rule, ...] = (
    ("^conv1/", "Conv2d_1a_7x7/"),
    ("^conv2_reduce/", "Conv2d_2b_1x1/"),
    ("^conv2/", "Conv2d_2c_3x3/"),
)
INCEPTION_V1: tuple[Rule, ...] = (
    ("branch1x1/", "Branch_0/Conv2d_0a_1x1/"),
    ("branch3x3_reduce/", "Branch_1/Conv2d_0a_1x1/"),
    ("branch3x3/", "Branch_1/Conv2d_0b_3x3/"),
    ("branch5x5_reduce/", "Branch_2/Conv2d_0a_1x1/"),
    ("^mixed5a/branch5x5/", "mixed5a/Branch_2/Conv2d_0a_3x3/"),
    ("branch5x5/", "Branch_2/Conv2d_0b_3x3/"),
    ("branch_pool/", "Branch_3/Conv2d_0b_1x1/"),
    NEXT_LETTER,
    *STEM_7X7,
    ("^head/", "Logits/Conv2d_0c_1x1/"),
)
INCEPTION_V2: tuple[Rule, ...] = (
    ("^conv1/depthwise/kernel", "Conv2d_1a_7x7/depthwise_weights"),
    ("^conv1/pointwise/kernel", "Conv2d_1a_7x7/pointwise_weights"),
    ("^conv1/pointwise/bias", "Conv2d_1a_7x7/biases"),
    ("^mixed(3c|4e)/branch3x3_reduce/", r"mixed\1/Branch_0/Conv2d_0a_1x1/"),
    ("^mixed(3c|4e)/branch3x3/", r"mixed\1/Branch_0/Conv2d_1a_3x3/"),
    ("^mixed(3c|4e)/branch3x3dbl_reduce/", r"mixed\1/Branch_1/Conv2d_0a_1x1/"),
    *chain("^mixed(3c|4e)/branch3x3dbl_", r"mixed\1/Branch_1/Conv2d_", "0b_3x3", "1a_3x3"),
    ("branch1x1/", "Branch_0/Conv2d_0a_1x1/"),
    ("branch3x3_reduce/", "Branch_1/Conv2d_0a_1x1/"),
    ("branch3x3/", "Branch_1/Conv2d_0b_3x3/"),
    ("branch3x3dbl_reduce/", "Branch_2/Conv2d_0a_1x1/"),
    *chain("branch3x3dbl_", "Branch_2/Conv2d_", "0b_3x3", "0c_3x3"),
    ("branch_pool/", "Branch_3/Conv2d_0b_1x1/"),
    # In TF-slim a module that halves the map is the first of the next stage.
    ("^mixed3c/", "Mixed_4a/"),
    ("^mixed4e/", "Mixed_5a/"),
    NEXT_LETTER,
    *STEM_7X7,
    ("^head/", "Logits/Conv2d_1c_1x1/"),
)
INCEPTION_V3: tuple[Rule, ...] = (
    # TF-slim's own slips: both 1a_1x1 are 3x3, and two layers have irregular names.
    ("^mixed6a/branch3x3/", "mixed6a/Branch_0/Conv2d_1a_1x1/"),
    ("^mixed6a/branch3x3dbl_3/", "mixed6a/Branch_1/Conv2d_1a_1x1/"),
    ("^mixed5c/branch5x5_1/", "mixed5c/Branch_1/Conv2d_0b_1x1/"),
    ("^mixed5c/branch5x5_2/", "mixed5c/Branch_1/Conv_1_0c_5x5/"),
    ("branch3x3_2a/", "Branch_1/Conv2d_0b_1x3/"),
    ("^mixed7b/branch3x3_2b/", "mixed7b/Branch_1/Conv2d_0b_3x1/"),
    ("^mixed7c/branch3x3_2b/", "mixed7c/Branch_1/Conv2d_0c_3x1/"),
    ("branch3x3dbl_3a/", "Branch_2/Conv2d_0c_1x3/"),
    ("branch3x3dbl_3b/", "Branch_2/Conv2d_0d_3x1/"),
    *REDUCTION,
    *BRANCHES,
    *STAGES,
    ("^aux/conv1/", "AuxLogits/Conv2d_2a_5x5/"),
    ("^aux/head/", "AuxLogits/Conv2d_2b_1x1/"),
    ("^head/", "Logits/Conv2d_1c_1x1/"),
)
INCEPTION_V4: tuple[Rule, ...] = (
    ("^mixed3a/branch3x3/", "mixed3a/Branch_1/Conv2d_0a_3x3/"),
    ("^mixed5a/branch3x3/", "mixed5a/Branch_0/Conv2d_1a_3x3/"),
    *chain("^mixed4a/branch3x3_", "mixed4a/Branch_0/Conv2d_", "0a_1x1", "1a_3x3"),
    ("branch3x3_2a/", "Branch_1/Conv2d_0b_1x3/"),
    ("branch3x3_2b/", "Branch_1/Conv2d_0c_3x1/"),
    ("^mixed7([bcd])/branch3x3dbl_2/", r"mixed7\1/Branch_2/Conv2d_0b_3x1/"),
    ("^mixed7([bcd])/branch3x3dbl_3/", r"mixed7\1/Branch_2/Conv2d_0c_1x3/"),
    ("branch3x3dbl_4a/", "Branch_2/Conv2d_0d_1x3/"),
    ("branch3x3dbl_4b/", "Branch_2/Conv2d_0e_3x1/"),
    *REDUCTION,
    *BRANCHES,
    *STAGES,
    ("^aux/conv1/", "AuxLogits/Conv2d_2a/"),
    ("^aux/head/", "AuxLogits/Aux_logits/"),
    ("^head/", "Logits/Logits/"),
)
INCEPTION_RESNET: tuple[Rule, ...] = (
    (r"^(mixed5b|[Bb]lock\d.*)/branch1x1/", r"\1/Branch_0/Conv2d_1x1/"),
    ("/up/", "/Conv2d_1x1/"),
    ("^([Bb]lock8.*)/branch3x3_2/", r"\1/Branch_1/Conv2d_0b_1x3/"),
    ("^([Bb]lock8.*)/branch3x3_3/", r"\1/Branch_1/Conv2d_0c_3x1/"),
    *chain("^mixed7a/branch3x3a_", "mixed7a/Branch_0/Conv2d_", "0a_1x1", "1a_3x3"),
    *chain("^mixed7a/branch3x3b_", "mixed7a/Branch_1/Conv2d_", "0a_1x1", "1a_3x3"),
    ("^mixed7a/branch3x3dbl_3/", "mixed7a/Branch_2/Conv2d_1a_3x3/"),
    *REDUCTION,
    *BRANCHES,
    *STAGES,
    ("^block35", "Repeat/block35"),
    ("^block17", "Repeat_1/block17"),
    ("^block8", "Repeat_2/block8"),
)
INCEPTION_RESNET_V2: tuple[Rule, ...] = (
    ("^block8_10/", "Block8/"),
    *INCEPTION_RESNET,
    ("^aux/conv1/", "AuxLogits/Conv2d_2a_5x5/"),
    ("^aux/head/", "AuxLogits/Logits/"),
    ("^head/", "Logits/Logits/"),
)


def from_slim(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """TensorFlow's order of axes is ours, except for depthwise kernels.

    A depthwise kernel (h, w, in, multiplier) is that of a grouped convolution here.
    """
    grouped = x.ndim == len(shape) == 4 and shape[2] == 1
    depthwise = grouped and x.shape[:2] == shape[:2] and x.size == math.prod(shape)
    return x.reshape(shape) if depthwise else x


def scope(name: str) -> Rule:
    """The rule that puts all names under the network's."""
    return "^", f"{name}/"


INCEPTION: dict[str, Any] = dict(options={"bn_scale": False}, background=True)
# What training adds to a checkpoint: the step, moving averages, the optimiser's state.
TRAINING = (
    r"(^|/)global_step$|^beta[12]_power(_\d+)?$"
    r"|/(ExponentialMovingAverage|Momentum|(RMSProp|Ada(m|grad|delta)|Ftrl)(_\d+)?)$"
)

SOURCE = Source(
    formats=("tensorflow",),
    maps={
        **{
            f"vgg{depth}": Map(
                rules=(*VGG, *SLIM, scope(f"vgg_{depth}")),
                classifier=f"vgg_{depth}/fc8/biases",
                top=("fc6", "fc7", "head"),
                kinds={"fc7": "1x1", "head": "1x1"},
            )
            for depth in (16, 19)
        },
        "inception_v1_bn": Map(
            rules=(*INCEPTION_V1, *SLIM, scope("InceptionV1")),
            classifier="InceptionV1/Logits/Conv2d_0c_1x1/biases",
            options={"bn_scale": False, "padding": "same", "aux": False},
            background=True,
            kinds={"head": "1x1"},
        ),
        "inception_v2_slim": Map(
            rules=(*INCEPTION_V2, *SLIM, scope("InceptionV2")),
            classifier="InceptionV2/Logits/Conv2d_1c_1x1/biases",
            options={"bn_scale": False, "aux": False},
            background=True,
            kinds={"head": "1x1", "conv1/depthwise": "depthwise"},
        ),
        "inception_v3": Map(
            rules=(*INCEPTION_V3, *SLIM, scope("InceptionV3")),
            classifier="InceptionV3/Logits/Conv2d_1c_1x1/biases",
            aux="InceptionV3/AuxLogits/",
            kinds={"head": "1x1", "aux/head": "1x1"},
            **INCEPTION,
        ),
        "inception_v4": Map(
            rules=(*INCEPTION_V4, *SLIM, scope("InceptionV4")),
            classifier="InceptionV4/Logits/Logits/biases",
            aux="InceptionV4/AuxLogits/",
            **INCEPTION,
        ),
        "inception_resnet_v2": Map(
            rules=(*INCEPTION_RESNET_V2, *SLIM, scope("InceptionResnetV2")),
            classifier="InceptionResnetV2/Logits/Logits/biases",
            aux="InceptionResnetV2/AuxLogits/",
            **INCEPTION,
        ),
    },
    axes=from_slim,
    ignored=TRAINING,
)
