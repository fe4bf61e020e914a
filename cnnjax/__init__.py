"""The lineage of convolutional image classifiers, LeNet-5 to Inception-ResNet-v2, as pure Flax modules.

>>> model = cnnjax.create_model("lenet5", num_classes=10)
>>> variables = model.init(jax.random.key(0), images, train=False)
>>> logits, aux, features = model.apply(variables, images, train=False)

The names load on first use: `import cnnjax` costs nothing, and brings neither Flax nor the absl that Flax imports.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnjax.layers import Outputs
    from cnnjax.registry import Spec, create_model, get_spec, list_models

__all__ = ["Outputs", "Spec", "create_model", "get_spec", "list_models"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(importlib.import_module("cnnjax.layers" if name == "Outputs" else "cnnjax.registry"), name)
    if name in ("analysis", "weights"):
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "analysis", "weights"]
