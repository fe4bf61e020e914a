"""The table of models: how to build each, its paper, reference implementation and input size."""

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
from cnnjax.spelling import choice, nearest


@dataclasses.dataclass(frozen=True)
class Spec:
    """One row of the registry.

    The counts are computed from the module, by one abstract trace, when they are first read.
    counts.json holds a copy of them for the table of `python -m cnnjax`; a test compares the two.

    Attributes:
        build: builds the model, from `num_classes`, `dtype` and the model's other fields.
        paper: authors and year.
        reference: the implementation to compare this variant's numbers and weights with.
        input_size: (H, W, C) of the images.
        num_classes: that of the paper's data set.
    """

    build: Callable[..., nn.Module]
    paper: str
    reference: str
    input_size: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000

    @cached_property
    def _total(self):
        from cnnjax import analysis

        return analysis.summarize(self.build(num_classes=self.num_classes), self.input_size)

    @property
    def parameters(self) -> int:
        """Trainable parameters, without auxiliary heads and moving statistics."""
        return self._total.parameters

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolutions and dense layers for one image of `input_size`."""
        return self._total.multiply_adds

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square that a cell of the last convolution or pooling sees."""
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
    """The names of the models, in the order of their papers."""
    return list(MODELS)


def get_spec(name: str) -> Spec:
    """The facts about a model.

    Args:
        name: one of `list_models()`.

    Returns:
        The registry's row: paper, reference implementation, input size and counts.

    Raises:
        ValueError: there is no such model; the message names the nearest ones.

    >>> spec = cnnjax.get_spec("lenet5")
    >>> spec.input_size, spec.parameters
    ((32, 32, 1), 61706)
    """
    return MODELS[choice("model", name, MODELS)]


def create_model(name: str, *, num_classes: int | None = None, dtype=None, **options) -> nn.Module:
    """Builds a model of the registry.

    Args:
        name: one of `list_models()`.
        num_classes: the number of logits. By default that of the paper's data set.
        dtype: the compute type, float32 (the default) or bfloat16. Parameters, BatchNorm statistics
            and logits are always float32.
        **options: further fields of the model's class, such as `dropout` or `aux`.

    Returns:
        A Flax module. It maps images (N, H, W, C) to `Outputs`.

    Raises:
        ValueError: an unknown model or option; the message names the nearest known ones.

    >>> model = cnnjax.create_model("lenet5", num_classes=7)
    >>> images = jnp.zeros((2, 32, 32, 1))
    >>> variables = model.init(jax.random.key(0), images)
    >>> model.apply(variables, images).logits.shape
    (2, 7)
    """
    spec = get_spec(name)
    if num_classes is None:
        num_classes = spec.num_classes
    model = spec.build(num_classes=num_classes, dtype=dtype)
    known = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {nearest(option, sorted(known))}")
    return model.clone(**options)
