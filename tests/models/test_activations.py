"""The option `activation`: of the convolutions, and of the dense layers before the last."""

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.models.layers import ACTIVATIONS

SIDES = {"lenet5": (28, 28, 1), "alexnet": (67, 67, 3), "alexnet_owt": (63, 63, 3)}
DEFAULTS = {"lenet5": "tanh", "alexnet": "relu", "alexnet_owt": "relu"}
ALL = {"lenet5": (3, 1), "alexnet": (5, 2), "alexnet_owt": (5, 2)}  # convolutions, dense layers


def program(model, size):
    variables = analysis.abstract_variables(model, size)
    image = jax.ShapeDtypeStruct((1, *size), np.float32)
    with cnnjax.ops.plain():
        return variables, str(jax.make_jaxpr(model.apply)(variables, image))


@pytest.mark.parametrize("name", SIDES)
def test_each_layer_has_its_activation(name):
    convs, dense = ALL[name]
    trees, tanhs, relus = {}, {}, {}
    for activation in ACTIVATIONS:
        model = cnnjax.create_model(name, activation=activation)
        trees[activation], text = program(model, SIDES[name])
        tanhs[activation], relus[activation] = text.count(" = tanh "), "name=relu" in text
    assert tanhs == {"tanh": convs + dense, "relu": 0, "course": convs}
    assert relus == {"tanh": False, "relu": True, "course": True}
    assert trees["tanh"] == trees["relu"] == trees["course"]  # the same parameters


@pytest.mark.parametrize("name", SIDES)
def test_the_default_is_the_papers(name):
    default = cnnjax.create_model(name)
    assert default == cnnjax.create_model(name, activation=DEFAULTS[name])


def test_relu_before_the_pooling_is_relu_after_it():
    """Maxima and ReLU may be swapped, so the plain order gives what the fused layer does."""
    from cnnjax.models.alexnet import ONE_WEIRD_TRICK, Layer

    row, images = ONE_WEIRD_TRICK.convs[1], np.random.default_rng(0).normal(size=(2, 9, 9, 4))
    inits = ONE_WEIRD_TRICK.inits("conv2", 100)
    fused = Layer(row, inits)
    plain = Layer(row, inits, activation=lambda x: jax.nn.relu(x))
    variables = fused.init(jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(
        np.shape, plain.init(jax.random.key(0), images)
    )
    np.testing.assert_allclose(
        fused.apply(variables, images), plain.apply(variables, images), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", SIDES)
def test_an_unknown_one_is_answered_with_the_nearest(name):
    with pytest.raises(ValueError, match=f"{name}'s activation.*'rellu'.*relu"):
        program(cnnjax.create_model(name, activation="rellu"), SIDES[name])
