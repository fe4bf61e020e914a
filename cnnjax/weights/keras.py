"""Keras' `.h5`, `.weights.h5` and `.keras`.

In the Inceptions Keras names the convolutions by a counter (`conv2d_17`), in the order of creation
and over all models of a process. So this file lists our layers in the order in which Keras creates
them, and counts Keras' layers from 0.
"""

import re

from cnnjax.weights.layout import KERAS, Map, Rule, Source, Tensors, from_tensorflow

STEM = ("conv1a", "conv2a", "conv2b", "conv3b", "conv4a")
POOL = ("branch_pool",)
ONE = ("branch1x1",)
TWO_3X3, TWO_5X5 = ("branch3x3_1", "branch3x3_2"), ("branch5x5_1", "branch5x5_2")
THREE_3X3, THREE_7X7 = (tuple(f"branch{name}_{i}" for i in (1, 2, 3)) for name in ("3x3dbl", "7x7"))
FIVE_7X7 = tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))
FORKS = (
    *(f"branch3x3_{end}" for end in ("1", "2a", "2b")),
    *(f"branch3x3dbl_{end}" for end in ("1", "2", "3a", "3b")),
)
A = (*ONE, *TWO_5X5, *THREE_3X3, *POOL)


def inside(modules: tuple[str, ...], layers: tuple[str, ...]) -> list[str]:
    """The paths of the same layers in each of several modules."""
    return [f"{module}/{layer}" for module in modules for layer in layers]


V3_ORDER = (
    *STEM,
    *inside(("mixed5b", "mixed5c", "mixed5d"), A),
    *inside(("mixed6a",), ("branch3x3", *THREE_3X3)),
    *inside(("mixed6b", "mixed6c", "mixed6d", "mixed6e"), (*ONE, *THREE_7X7, *FIVE_7X7, *POOL)),
    *inside(("mixed7a",), (*TWO_3X3, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))),
    *inside(("mixed7b", "mixed7c"), (*ONE, *FORKS, *POOL)),
)

RESNET_V2_ORDER = (
    *STEM,
    *inside(("mixed5b",), A),
    *inside(tuple(f"block35_{i}" for i in range(1, 11)), (*ONE, *TWO_3X3, *THREE_3X3)),
    *inside(("mixed6a",), ("branch3x3", *THREE_3X3)),
    *inside(tuple(f"block17_{i}" for i in range(1, 21)), (*ONE, *THREE_7X7)),
    *inside(
        ("mixed7a",), ("branch3x3a_1", "branch3x3a_2", "branch3x3b_1", "branch3x3b_2", *THREE_3X3)
    ),
    *inside(tuple(f"block8_{i}" for i in range(1, 11)), (*ONE, *TWO_3X3, "branch3x3_3")),
)

ANONYMOUS = {"conv": "conv2d", "bn": "batch_normalization"}


def created(order: tuple[str, ...]) -> Rule:
    """The rule for layers that Keras names by a counter."""
    number = {path: index for index, path in enumerate(order)}

    def name(match: re.Match) -> str:
        path, kind = match.groups()
        return f"{ANONYMOUS[kind]}_{number[path]}/" if path in number else match[0]

    return "^(.+)/(conv|bn)/", name


def count_from_zero(tensors: Tensors) -> Tensors:
    """Renames `conv2d`, `conv2d_1`, … or `conv2d_95`, … to `conv2d_0`, `conv2d_1`, …"""
    renamed: dict[str, str] = {}
    for kind in ANONYMOUS.values():
        layers = {name.partition("/")[0] for name in tensors if re.match(rf"{kind}(_\d+)?/", name)}
        in_order = sorted(layers, key=lambda layer: int(layer.removeprefix(kind)[1:] or 0))
        renamed |= {layer: f"{kind}_{index}" for index, layer in enumerate(in_order)}
    return {
        re.sub("^[^/]+", lambda m: renamed.get(m[0], m[0]), name): x for name, x in tensors.items()
    }


DENSE = ("fc1", "fc2", "predictions")  # the names of dense layers in Keras' own networks


def prepare(tensors: Tensors) -> Tensors:
    """Keras' own names: convolutions counted from 0, and the classifier called `predictions`.

    The classifier of a network that somebody has put together has any name. It is the only dense
    layer that is not one of Keras' own.
    """
    tensors = count_from_zero(tensors)
    dense = {name.partition("/")[0] for name, x in tensors.items() if x.ndim == 2}
    own = dense.difference(DENSE)
    if "predictions" in dense or len(own) != 1:
        return tensors
    (classifier,) = own
    return {re.sub(f"^{re.escape(classifier)}/", "predictions/", n): x for n, x in tensors.items()}


VGG: tuple[Rule, ...] = (
    (r"^block(\d)/conv(\d)/conv/", r"block\1_conv\2/"),
    ("^fc6", "fc1"),
    ("^fc7", "fc2"),
)
INCEPTION_RESNET_V2: tuple[Rule, ...] = (
    ("^conv7b/conv/", "conv_7b/"),
    ("^conv7b/bn/", "conv_7b_bn/"),
    (r"^(block\d+_\d+)/up/", r"\1_conv/"),
)
HEAD: Rule = ("^head", "predictions")

SOURCE = Source(
    formats=("hdf5",),
    maps={
        **{
            name: Map(
                rules=(*VGG, HEAD),
                classifier="predictions/bias",
                top=("fc6", "fc7", "head"),
                kinds={"fc6": "dense"},
            )
            for name in ("vgg16", "vgg19")
        },
        "inception_v3": Map(
            rules=(*KERAS, created(V3_ORDER), HEAD),
            classifier="predictions/bias",
            options={"aux": False, "bn_scale": False},
        ),
        "inception_resnet_v2": Map(
            rules=(*KERAS, *INCEPTION_RESNET_V2, created(RESNET_V2_ORDER), HEAD),
            classifier="predictions/bias",
            options={"aux": False, "bn_scale": False},
        ),
    },
    axes=from_tensorflow,
    prepare=prepare,
)
