"""The table of models: name -> how to build it, where it comes from, what it takes."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial

import flax.linen as nn

from cnnjax.models import (
    alexnet,
    inception_resnet,
    inception_v1,
    inception_v2,
    inception_v3,
    inception_v4,
    lenet,
    vgg,
)
from cnnjax.spelling import nearest


@dataclasses.dataclass(frozen=True)
class Spec:
    """One row of the registry. Counts are computed from the module (one abstract trace), never stored."""

    build: Callable[..., nn.Module]
    paper: str
    reference: str  # the implementation whose numbers and weights this variant can be compared with
    input_size: tuple[int, int, int] = (224, 224, 3)  # H, W, C
    num_classes: int = 1000

    @cached_property
    def _total(self):
        from cnnjax import analysis

        return analysis.summarize(self.build(num_classes=self.num_classes), self.input_size)

    @property
    def parameters(self) -> int:
        """Trainable values of the inference network: auxiliary heads and moving statistics are not counted."""
        return self._total.parameters

    @property
    def multiply_adds(self) -> int:
        """Multiply-accumulates of convolutions and dense layers for one image of `input_size`."""
        return self._total.multiply_adds

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the input square that one cell of the last convolution or pooling sees."""
        return self._total.receptive_field


digits = partial(Spec, input_size=(32, 32, 1), num_classes=10)

MODELS: dict[str, Spec] = {
    "lenet5": digits(lenet.LeNet5, "LeCun et al. 1998", "as taught: dense C3, average pooling"),
    "lenet5_1998": digits(
        lenet.LeNet5Of1998, "LeCun et al. 1998", "the paper: Table I, trainable S, RBF output"
    ),
    "alexnet": Spec(
        alexnet.AlexNet, "Krizhevsky et al. 2012", "the paper; Caffe bvlc_alexnet", (227, 227, 3)
    ),
    "alexnet_owt": Spec(
        partial(alexnet.AlexNet, plan=alexnet.ONE_WEIRD_TRICK), "Krizhevsky 2014", "torchvision"
    ),
    "vgg11": Spec(
        partial(vgg.VGG, column=vgg.A), "Simonyan, Zisserman 2014", "column A; torchvision"
    ),
    "vgg11_lrn": Spec(
        partial(vgg.VGG, column=vgg.A, lrn=True), "Simonyan, Zisserman 2014", "column A-LRN"
    ),
    "vgg13": Spec(
        partial(vgg.VGG, column=vgg.B), "Simonyan, Zisserman 2014", "column B; torchvision"
    ),
    "vgg16_c": Spec(partial(vgg.VGG, column=vgg.C), "Simonyan, Zisserman 2014", "column C"),
    "vgg16": Spec(
        partial(vgg.VGG, column=vgg.D),
        "Simonyan, Zisserman 2014",
        "column D; torchvision, Keras, TF-slim",
    ),
    "vgg19": Spec(
        partial(vgg.VGG, column=vgg.E),
        "Simonyan, Zisserman 2014",
        "column E; torchvision, Keras, TF-slim",
    ),
    "vgg11_bn": Spec(
        partial(vgg.VGG, column=vgg.A, batch_norm=True), "Simonyan, Zisserman 2014", "torchvision"
    ),
    "vgg13_bn": Spec(
        partial(vgg.VGG, column=vgg.B, batch_norm=True), "Simonyan, Zisserman 2014", "torchvision"
    ),
    "vgg16_bn": Spec(
        partial(vgg.VGG, column=vgg.D, batch_norm=True), "Simonyan, Zisserman 2014", "torchvision"
    ),
    "vgg19_bn": Spec(
        partial(vgg.VGG, column=vgg.E, batch_norm=True), "Simonyan, Zisserman 2014", "torchvision"
    ),
    "inception_v1": Spec(
        inception_v1.InceptionV1, "Szegedy et al. 2014", "the paper; Caffe bvlc_googlenet"
    ),
    "inception_v1_naive": Spec(inception_v1.InceptionV1Naive, "Szegedy et al. 2014", "Figure 2a"),
    "inception_v1_bn": Spec(
        inception_v1.InceptionV1BN, "Szegedy et al. 2014", "torchvision googlenet; TF-slim"
    ),
    "inception_v2": Spec(
        inception_v2.InceptionV2, "Ioffe, Szegedy 2015", "the paper; Caffe bn_inception"
    ),
    "inception_v2_slim": Spec(inception_v2.InceptionV2Slim, "Ioffe, Szegedy 2015", "TF-slim"),
    "inception_v3": Spec(
        inception_v3.InceptionV3,
        "Szegedy et al. 2015",
        "torchvision, timm; Keras, TF-slim",
        (299, 299, 3),
    ),
    "inception_v4": Spec(
        inception_v4.InceptionV4, "Szegedy et al. 2016", "timm; TF-slim", (299, 299, 3)
    ),
    "inception_resnet_v1": Spec(
        partial(inception_resnet.InceptionResNet, plan=inception_resnet.V1),
        "Szegedy et al. 2016",
        "the paper",
        (299, 299, 3),
    ),
    "inception_resnet_v1_facenet": Spec(
        partial(inception_resnet.InceptionResNet, plan=inception_resnet.V1_FACENET),
        "Szegedy et al. 2016",
        "facenet",
        (160, 160, 3),
        num_classes=8631,  # the identities of VGGFace2
    ),
    "inception_resnet_v2": Spec(
        partial(inception_resnet.InceptionResNet, plan=inception_resnet.V2),
        "Szegedy et al. 2016",
        "as released: timm; Keras, TF-slim",
        (299, 299, 3),
    ),
    "inception_resnet_v2_paper": Spec(
        partial(inception_resnet.InceptionResNet, plan=inception_resnet.V2_PAPER),
        "Szegedy et al. 2016",
        "the paper",
        (299, 299, 3),
    ),
}


def list_models() -> list[str]:
    """The names that `create_model` takes, in the order of the papers."""
    return list(MODELS)


def get_spec(name: str) -> Spec:
    """The registry's row for a name; ValueError names the nearest known ones."""
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def create_model(name: str, *, num_classes: int | None = None, dtype=None, **options) -> nn.Module:
    """Builds a model of the registry.

    `num_classes` defaults to that of the paper's data set; `dtype` is the compute type (float32 or bfloat16), parameters
    and logits stay float32; further options are the fields of the model's class. ValueError names what is unknown.
    """
    spec = get_spec(name)
    model = spec.build(
        num_classes=spec.num_classes if num_classes is None else num_classes, dtype=dtype
    )
    known = [
        field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name")
    ]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return model.clone(**options)
