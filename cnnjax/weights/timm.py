"""timm's `.safetensors`, `.pth` and `.bin`: a `state_dict`.

Ports from TF-slim that are older than the hub still have 1001 classes.
"""

from cnnjax.weights.layout import BOOKKEEPING, TORCH, Map, Rule, Source, chain, from_torch
from cnnjax.weights.torchvision import INCEPTION_V3, VGG_COLUMNS, vgg_features

VGG_TOP: tuple[Rule, ...] = (
    ("^fc6", "pre_logits/fc1"),
    ("^fc7", "pre_logits/fc2"),
    ("^head", "head/fc"),
)

# timm numbers a module's branches and the layers of a branch.
BRANCHES: tuple[Rule, ...] = (
    ("^mixed6a/branch3x3/", "mixed6a/branch0/"),
    *chain("^mixed6a/branch3x3dbl_", "mixed6a/branch1/", *"012"),
    ("branch1x1/", "branch0/"),
    *chain("branch3x3_", "branch1/", *"012"),
    *chain("branch5x5_", "branch1/", *"01"),
    *chain("branch7x7_", "branch1/", *"012"),
    *chain("branch3x3dbl_", "branch2/", *"012"),
    *chain("branch7x7dbl_", "branch2/", *"01234"),
    ("branch_pool/", "branch3/1/"),
)

# fmt: off
V4_STAGES = (
    "conv1a", "conv2a", "conv2b", "mixed3a", "mixed4a", "mixed5a",
    "mixed5b", "mixed5c", "mixed5d", "mixed5e", "mixed6a",
    "mixed6b", "mixed6c", "mixed6d", "mixed6e", "mixed6f", "mixed6g", "mixed6h", "mixed7a",
    "mixed7b", "mixed7c", "mixed7d",
)
# fmt: on

INCEPTION_V4: tuple[Rule, ...] = (
    ("^mixed([35])a/branch3x3/", r"mixed\1a/conv/"),
    *chain("^mixed([47])a/branch3x3_", r"mixed\1a/branch0/", *"01"),
    *chain("branch7x7x3_", "branch1/", *"0123"),
    # The last modules' branches fork, so their layers have names of their own.
    ("^mixed7([bcd])/branch3x3_1/", r"mixed7\1/branch1_0/"),
    ("^mixed7([bcd])/branch3x3_2(a|b)/", r"mixed7\1/branch1_1\2/"),
    *chain("^mixed7([bcd])/branch3x3dbl_", r"mixed7\1/branch2_", *"012"),
    ("branch3x3dbl_4(a|b)/", r"branch2_3\1/"),
    *BRANCHES,
    *((f"^{stage}/", f"features/{number}/") for number, stage in enumerate(V4_STAGES)),
    ("^head", "last_linear"),
)

INCEPTION_RESNET: tuple[Rule, ...] = (
    ("^conv(?=\\d)", "conv2d_"),
    *chain("branch3x3a_", "branch0/", *"01"),
    *chain("branch3x3b_", "branch1/", *"01"),
    *BRANCHES,
    ("^mixed", "mixed_"),
    ("/up/", "/conv2d/"),
)

INCEPTION_RESNET_V2: tuple[Rule, ...] = (
    *INCEPTION_RESNET,
    ("^block8_10/", "block8/"),
    *chain("^block35_", "repeat/", *map(str, range(10))),
    *chain("^block17_", "repeat_1/", *map(str, range(20))),
    *chain("^block8_", "repeat_2/", *map(str, range(9))),
    ("^head", "classif"),
)

SOURCE = Source(
    formats=("torch", "safetensors"),
    maps={
        **{
            name + suffix: Map(
                rules=(*vgg_features(column, bool(suffix)), *VGG_TOP, *TORCH),
                classifier="head.fc.bias",
                top=("fc6", "fc7", "head"),
                kinds={"fc7": "1x1"},
            )
            for name, column in VGG_COLUMNS.items()
            for suffix in ("", "_bn")
        },
        "inception_v3": Map(
            rules=(*INCEPTION_V3, *TORCH),
            classifier="fc.bias",
            options={"count_pad": True},
            aux="AuxLogits.",
            background=True,
        ),
        "inception_v4": Map(
            rules=(*INCEPTION_V4, *TORCH), classifier="last_linear.bias", background=True
        ),
        "inception_resnet_v2": Map(
            rules=(*INCEPTION_RESNET_V2, *TORCH), classifier="classif.bias", background=True
        ),
    },
    axes=from_torch,
    ignored=BOOKKEEPING,
)
