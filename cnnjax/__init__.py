"""The lineage of convolutional image classifiers, LeNet-5 to Inception-ResNet-v2, as pure Flax modules.

>>> model = cnnjax.create_model("lenet5", num_classes=10)
>>> variables = model.init(jax.random.key(0), images, train=False)
>>> logits, aux, features = model.apply(variables, images, train=False)
"""

from cnnjax.layers import Outputs
from cnnjax.registry import Spec, create_model, get_spec, list_models

__all__ = ["Outputs", "Spec", "create_model", "get_spec", "list_models"]
