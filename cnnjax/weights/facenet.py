"""facenet's Inception-ResNet-v1 for faces: its TensorFlow checkpoint, or the PyTorch port."""

from cnnjax.weights import slim, timm
from cnnjax.weights.layout import (
    BOOKKEEPING,
    SLIM,
    TORCH,
    Map,
    Rule,
    Source,
    chain,
    from_tensorflow,
    from_torch,
)

CHECKPOINT: tuple[Rule, ...] = (
    ("^block8_6/", "Block8/"),
    *slim.INCEPTION_RESNET,
    ("^bottleneck/", "Bottleneck/"),
    ("^bottleneck_bn/", "Bottleneck/bn/"),
    *SLIM,
    ("^(?!head)", "InceptionResnetV1/"),
    ("^head", "Logits"),  # the classifier lies outside the network's scope
)
PORT: tuple[Rule, ...] = (
    *timm.INCEPTION_RESNET,
    ("^block8_6/", "block8/"),
    *chain("^block35_", "repeat_1/", *map(str, range(5))),
    *chain("^block17_", "repeat_2/", *map(str, range(10))),
    *chain("^block8_", "repeat_3/", *map(str, range(5))),
    ("^bottleneck/", "last_linear/"),
    ("^bottleneck_bn/", "last_bn/"),
    ("^head", "logits"),
    *TORCH,
)

MODEL = "inception_resnet_v1_facenet"

SOURCE_CHECKPOINT = Source(
    formats=("tensorflow",),
    maps={MODEL: Map(rules=CHECKPOINT, classifier="Logits/biases", options={"bn_scale": False})},
    axes=from_tensorflow,
    ignored=slim.TRAINING,
)
SOURCE_PORT = Source(
    formats=("torch", "safetensors"),
    maps={MODEL: Map(rules=PORT, classifier="logits.bias")},
    axes=from_torch,
    ignored=BOOKKEEPING,
)
