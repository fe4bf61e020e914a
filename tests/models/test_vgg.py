"""VGG: the columns of Table 1, what stacked 3x3 convolutions see, and dense evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.models import vgg
from cnnjax.models.layers import ConvRelu
from cnnjax.stages import apply_with_stages
from tests.models.shapes import shapes
from tests.models.values import starting_values


def convolutions(name):
    """The kinds of the convolutions in the blocks."""
    rows = analysis.summarize(cnnjax.create_model(name), (224, 224, 3)).layers
    return [
        row.kind for row in rows if row.name.startswith("block") and row.kind.startswith("conv")
    ]


@pytest.mark.parametrize(
    ("name", "layers", "pointwise"),
    [
        ("vgg11", 11, 0),
        ("vgg11_lrn", 11, 0),
        ("vgg13", 13, 0),
        ("vgg16_c", 16, 3),
        ("vgg16", 16, 0),
        ("vgg19", 19, 0),
    ],
)
def test_a_columns_number_is_its_layers_with_weights(name, layers, pointwise):
    kernels = convolutions(name)
    assert len(kernels) + 3 == layers
    assert (
        kernels.count("conv 1x1") == pointwise
        and kernels.count("conv 3x3") == layers - 3 - pointwise
    )


@pytest.mark.parametrize("name", ["vgg11", "vgg16_c", "vgg19_bn"])
def test_maps(name):
    _, _, maps = shapes(cnnjax.create_model(name), 224)
    assert maps == {
        "block1": (112, 112, 64),
        "block2": (56, 56, 128),
        "block3": (28, 28, 256),
        "block4": (14, 14, 512),
        "block5": (7, 7, 512),
        "fc6": (1, 1, 4096),
        "fc7": (1, 1, 4096),
    }


def test_three_stacked_3x3_see_7x7_with_fewer_weights():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return vgg.Block(64, (3, 3, 3), ConvRelu, name="block")(x)

    rows = analysis.summarize(Stack(), (224, 224, 64)).layers[:3]
    assert [row.field.size for row in rows] == [(3, 3), (5, 5), (7, 7)]
    weights = np.cumsum([row.parameters - 64 for row in rows]) / 64**2
    assert weights.tolist() == [9, 18, 27]  # one kernel of 3x3, 5x5, 7x7: 9, 25, 49


def test_only_one_variant_normalises_locally():
    def normalised(name):
        return [
            row.name
            for row in analysis.summarize(cnnjax.create_model(name), (224, 224, 3)).layers
            if "lrn" in row.name
        ]

    assert normalised("vgg11_lrn") == ["block1/lrn"]
    assert normalised("vgg11") == normalised("vgg11_bn") == []


def test_batch_norm_keeps_the_bias_of_its_convolution():
    """As in torchvision, where every convolution has a bias."""
    layer = shapes(cnnjax.create_model("vgg11_bn"), 32)[0]["params"]["block1"]["conv1"]
    assert set(layer) == {"conv", "bn"} and set(layer["conv"]) == {"kernel", "bias"}


def test_dense_evaluation_has_the_same_variables():
    model = cnnjax.create_model("vgg16_bn")
    small, large = (
        analysis.abstract_variables(m, (256, 320, 3)) for m in (model, model.clone(dense=True))
    )
    assert small == large == analysis.abstract_variables(model, (224, 224, 3))


def test_dense_evaluation_needs_a_map_of_7x7():
    dense = cnnjax.create_model("vgg16", dense=True)
    with pytest.raises(
        ValueError,
        match="dense evaluation of VGG needs images of at least 224x224 pixels, got 223x300",
    ):
        analysis.abstract_variables(dense, (223, 300, 3))


def test_dense_evaluation_slides_the_classifier():
    """On 224x224 the scores are the classifier's; on larger images their mean over all windows."""
    model = cnnjax.create_model("vgg11", num_classes=10)
    dense = model.clone(dense=True)
    variables = starting_values(analysis.abstract_variables(model, (224, 224, 3)))
    image = np.random.default_rng(0).standard_normal((1, 256, 288, 3), np.float32)
    small = image[:, :224, :224]
    np.testing.assert_array_equal(
        jax.jit(dense.apply)(variables, small).logits, jax.jit(model.apply)(variables, small).logits
    )

    outputs, stages = jax.jit(lambda v, x: apply_with_stages(dense, v, x))(variables, image)
    assert stages["fc7"].shape == (1, 2, 3, 4096) and outputs.features.shape == (1, 4096)

    def classify(window):
        x = window.reshape(-1)
        for name in ("fc6", "fc7", "head"):
            kernel, bias = (variables["params"][name][leaf] for leaf in ("kernel", "bias"))
            x = x @ kernel.reshape(-1, kernel.shape[-1]) + bias
            x = x if name == "head" else np.maximum(x, 0)
        return x

    last = np.asarray(stages["block5"])[0]
    scores = [classify(last[i : i + 7, j : j + 7]) for i in range(2) for j in range(3)]
    np.testing.assert_allclose(
        outputs.logits[0], np.mean(scores, axis=0), atol=1e-5 * np.std(scores)
    )


def test_starting_values_of_torchvision():
    def init(key):
        params = cnnjax.create_model("vgg11", num_classes=2).init(key, jnp.zeros((1, 32, 32, 3)))[
            "params"
        ]
        return params["block3"]["conv1"]["conv"], params["fc7"]

    conv, dense = jax.jit(init)(jax.random.key(0))
    assert np.std(conv["kernel"]) == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)  # fan-out
    assert np.std(dense["kernel"]) == pytest.approx(0.01, rel=0.02)
    assert not np.any(conv["bias"]) and not np.any(dense["bias"])
