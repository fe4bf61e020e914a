"""In training every parameter has a gradient: no branch, head or scale is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from tests.models.expected import EXPECTED
from tests.models.values import starting_values

# One network for each kind of layer and block. The others take minutes together.
QUICK = ("lenet5", "lenet5_1998", "alexnet", "alexnet_owt", "vgg11_bn")
LONGER = ("vgg11_lrn", "inception_v1")
# Networks whose auxiliary head is off by default, and the images that it needs.
ON_REQUEST = {"inception_v4": 299, "inception_resnet_v1": 299, "inception_resnet_v2": 299}


def gradients(name, side, **options):
    """Gradients of the summed cross-entropy of all heads, for two random images."""
    model, shape = (
        cnnjax.create_model(name, **options),
        (side, side, cnnjax.get_spec(name).input_size[-1]),
    )
    variables = starting_values(analysis.abstract_variables(model, shape, train=True))
    images = np.random.default_rng(1).standard_normal((2, *shape), np.float32)

    def loss(params):
        trained = variables | {"params": params}
        rngs = {"dropout": jax.random.key(0)}
        (logits, aux, _), _ = model.apply(
            trained, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return -sum(
            jax.nn.log_softmax(x)[jnp.arange(2), jnp.arange(2)].mean() for x in (logits, *aux)
        )

    # Compilation takes most of the time, and a third as long without LLVM's optimisations.
    return jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": "0"})(
        variables["params"]
    )


def cancelled(name, path):
    """Whether this is a bias that the following BatchNorm subtracts again."""
    biased_conv = name.startswith("vgg") and name.endswith("_bn") and path.endswith("/conv/bias")
    return biased_conv or (name, path) == ("inception_resnet_v2", "block8_10/up/bias")


def check(name, gradients):
    for path, gradient in jax.tree.leaves_with_path(gradients):
        path, largest = "/".join(key.key for key in path), np.abs(gradient).max()
        assert np.isfinite(largest), path
        assert (largest < 1e-5) if cancelled(name, path) else (largest > 1e-4), (path, largest)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in QUICK
        else pytest.param(name, marks=pytest.mark.parity if name in LONGER else pytest.mark.slow)
        for name in cnnjax.list_models()
    ],
)
def test_every_parameter_has_a_gradient(name):
    classes = 10 if name == "lenet5_1998" else 5
    check(
        name,
        gradients(
            name, EXPECTED[name].smallest_with_aux or EXPECTED[name].smallest, num_classes=classes
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_REQUEST)
def test_heads_on_request_have_gradients(name):
    found = gradients(name, ON_REQUEST[name], num_classes=5, aux=True)
    assert "aux" in found
    check(name, found)
