"""Small files of weights for tests."""

import functools

import numpy as np

from cnnjax import create_model, get_spec
from cnnjax.analysis import abstract_variables
from cnnjax.trees import flatten
from cnnjax.weights import SOURCES
from cnnjax.weights.layout import rename


@functools.cache
def shapes(model, **options):
    """The leaves of a model's variables by path."""
    tree = abstract_variables(
        create_model(model, **options), get_spec(model).input_size, train=True
    )
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def variables(model, **options):
    """Random values for a model's variables, by path."""
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in shapes(model, **options).items()
    }


def torchvision_tensors(model, values):
    """The values as torchvision's `state_dict`. tests/parity checks these names and axes."""
    rules = SOURCES["torchvision"][0].maps[model].rules
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    named = {
        rename(path.partition("/")[2], rules): x.transpose(axes[x.ndim])
        for path, x in values.items()
    }
    return {name: np.ascontiguousarray(x) for name, x in named.items()}


def write(path, tensors, metadata=None):
    """Writes a safetensors file and returns its path."""
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata)
    return path
