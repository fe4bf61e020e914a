"""Convolutional image classifiers in Flax, from LeNet-5 to Inception-ResNet-v2.

>>> model = cnnjax.create_model("lenet5", num_classes=10)
>>> images = jnp.zeros((1, 32, 32, 1))
>>> variables = model.init(jax.random.key(0), images, train=False)
>>> logits, aux, features = model.apply(variables, images, train=False)

Names are imported on first use, so `import cnnjax` does not load jax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnjax import analysis, ops, weights
    from cnnjax.models.layers import Outputs
    from cnnjax.registry import Spec, create_model, get_spec, list_models
    from cnnjax.stages import apply_with_stages
    from cnnjax.weights.named import pretrained

# The module that defines each name.
_PLACES = {
    "Outputs": "cnnjax.models.layers",
    "Spec": "cnnjax.registry",
    "create_model": "cnnjax.registry",
    "get_spec": "cnnjax.registry",
    "list_models": "cnnjax.registry",
    "apply_with_stages": "cnnjax.stages",
    "pretrained": "cnnjax.weights.named",
}
_MODULES = ("analysis", "ops", "weights")

__all__ = [
    "Outputs",
    "Spec",
    "analysis",
    "apply_with_stages",
    "create_model",
    "get_spec",
    "list_models",
    "ops",
    "pretrained",
    "weights",
]


def __getattr__(name: str):
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"cnnjax.{name}")
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            return metadata.version("cnnjax")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            return "0+unknown"
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
