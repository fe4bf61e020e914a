"""torchvision's `.pth`: a `state_dict`, named by the attributes of its modules."""

from cnnjax.models import vgg
from cnnjax.weights.layout import BOOKKEEPING, TORCH, Map, Rule, Source, from_torch


def vgg_features(column: vgg.Column, batch_norm: bool) -> tuple[Rule, ...]:
    """Rules for one long `features` sequence: convolution, BatchNorm, ReLU, …, pooling, …"""
    rules, index = [], 0
    for block, kernels in enumerate(column, 1):
        for number in range(1, len(kernels) + 1):
            rules += [
                (f"^block{block}/conv{number}/conv/", f"features/{index}/"),
                (f"^block{block}/conv{number}/bn/", f"features/{index + 1}/"),
            ]
            index += 3 if batch_norm else 2
        index += 1
    return tuple(rules)


VGG_COLUMNS = {"vgg11": vgg.A, "vgg13": vgg.B, "vgg16": vgg.D, "vgg19": vgg.E}
VGG_TOP: tuple[Rule, ...] = (
    ("^fc6", "classifier/0"),
    ("^fc7", "classifier/3"),
    ("^head", "classifier/6"),
)

ALEXNET: tuple[Rule, ...] = (
    *(
        (f"^conv{number}/conv/", f"features/{index}/")
        for number, index in enumerate((0, 3, 6, 8, 10), 1)
    ),
    ("^fc6", "classifier/1"),
    ("^fc7", "classifier/4"),
    ("^head", "classifier/6"),
)

GOOGLENET: tuple[Rule, ...] = (
    ("^conv2/", "conv3/"),
    ("^conv2_reduce/", "conv2/"),
    ("^mixed", "inception"),
    ("branch1x1/", "branch1/"),
    ("branch3x3_reduce/", "branch2/0/"),
    ("branch3x3/", "branch2/1/"),
    ("branch5x5_reduce/", "branch3/0/"),
    ("branch5x5/", "branch3/1/"),
    ("branch_pool/", "branch4/1/"),
    ("^(aux.)/fc/conv/", r"\1/fc1/"),
    ("^(aux.)/head/", r"\1/fc2/"),
    ("^head", "fc"),
)

INCEPTION_V3: tuple[Rule, ...] = (
    ("^conv(1a|2a|2b|4a)", r"Conv2d_\1_3x3"),
    ("^conv3b", "Conv2d_3b_1x1"),
    ("^mixed", "Mixed_"),
    ("^aux/head", "aux/fc"),
    ("^aux", "AuxLogits"),
    ("^head", "fc"),
)

SOURCE = Source(
    formats=("torch", "safetensors"),
    maps={
        "alexnet_owt": Map(
            rules=(*ALEXNET, *TORCH),
            classifier="classifier.6.bias",
            top=("fc6", "fc7", "head"),
            flattened={"fc6": (256, 6, 6)},
        ),
        **{
            name + suffix: Map(
                rules=(*vgg_features(column, bool(suffix)), *VGG_TOP, *TORCH),
                classifier="classifier.6.bias",
                top=("fc6", "fc7", "head"),
                kinds={"fc6": "dense"},
            )
            for name, column in VGG_COLUMNS.items()
            for suffix in ("", "_bn")
        },
        "inception_v1_bn": Map(
            rules=(*GOOGLENET, *TORCH),
            classifier="fc.bias",
            aux="aux",
            kinds={"aux1/fc/conv": "dense", "aux2/fc/conv": "dense"},
        ),
        "inception_v3": Map(
            rules=(*INCEPTION_V3, *TORCH),
            classifier="fc.bias",
            options={"count_pad": True},
            aux="AuxLogits.",
        ),
    },
    axes=from_torch,
    ignored=BOOKKEEPING,
)
