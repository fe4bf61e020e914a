"""Builds the variables of one of our models from a file's tensors."""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax.analysis import abstract_variables
from cnnjax.stages import CLASSIFIERS
from cnnjax.trees import flatten, nest
from cnnjax.weights.layout import Map, Source, Tensors, fill, from_tensorflow, rename

# In our own files a leaf's name is its path, with the collection in front.
OURS = Source(formats=("safetensors",), maps={}, axes=from_tensorflow)
BY_PATH = Map(rules=(), classifier="")

# Fields of a model that say how it runs, not which network it is: they are not stored.
HOW = ("parent", "name", "num_classes", "dtype", "bn_axis", "bn_frozen", "remat")
# Fields that matter in training only.
TRAINING = ("dropout", "aux_dropout", "bn_momentum")


class Assembled(NamedTuple):
    """A network's variables, and what does not come from the file or stays in it.

    Attributes:
        variables: {"params": …, "batch_stats": …}.
        fresh: the modules that were initialised at random.
        left_out: the file's tensors that are not used.
    """

    variables: dict[str, Any]
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]


def assemble(
    network: nn.Module,
    size: tuple[int, int, int],
    tensors: Tensors,
    what: str,
    source: Source = OURS,
    map: Map = BY_PATH,
    *,
    drop: int = 0,
    new_heads: bool = False,
    trunk: bool = False,
) -> Assembled:
    """Fills every variable of a network from a file's tensors.

    Args:
        network: the network.
        size: (H, W, C) of its images.
        tensors: the file's tensors by name.
        what: the beginning of error messages: which file does not fit which model.
        source: the publisher of the file.
        map: how the publisher's names correspond to this network's.
        drop: how many classes to cut off the front.
        new_heads: initialise the classifiers at random, even if the file has them.
        trunk: the same, and leave out tensors that have no place in the network. So are dense
            layers before the classifier that the file has no values for.

    Raises:
        WeightsError: a tensor is missing, left over, of another shape or not finite.
    """
    leaves = flatten(abstract_variables(network, size, train=True)).items()
    shapes = {path: leaf.shape for path, leaf in leaves}
    bare = {path: path.partition("/")[2] for path in shapes}
    module = {path: bare[path].rpartition("/")[0] for path in shapes}
    key = {path: path if source is OURS else bare[path] for path in shapes}  # what rules apply to
    name = {path: rename(key[path], map.rules) for path in shapes}

    top = {path for path in shapes if module[path].split("/")[0] in map.top}
    fresh = set() if source is OURS or any(name[path] in tensors for path in top) else top
    if new_heads or trunk:
        fresh |= {path for path in shapes if module[path].split("/")[-1] in CLASSIFIERS}
    if trunk:
        fresh |= {path for path in top if name[path] not in tensors}
    used = {name[path] for path in shapes if path not in fresh}
    unknown = set(tensors) if trunk else {name[path] for path in fresh}
    left_out = [x for x in tensors if x in unknown - used]
    tensors = {name: x for name, x in tensors.items() if name not in left_out}
    left_out = [x for x in left_out if not re.search(f"{source.ignored}|{map.ignored}", x)]
    in_file = {key[path]: shape for path, shape in shapes.items() if path not in fresh}
    filled = fill(tensors, in_file, source, map, drop, what)
    initial = _initial(network, size, fresh)
    values = {path: initial[path] if path in fresh else filled[key[path]] for path in shapes}
    return Assembled(nest(values), tuple(sorted({module[path] for path in fresh})), tuple(left_out))


def _initial(network: nn.Module, size: tuple[int, int, int], paths: set[str]) -> Tensors:
    """The network's initial values at some paths. Only these are computed."""
    if not paths:
        return {}

    @jax.jit
    def initial(key: jax.Array) -> dict[str, jax.Array]:
        keys, image = {"params": key, "dropout": key}, np.zeros((1, *size), np.float32)
        variables: Any = network.init(keys, image, train=True)
        return {path: x for path, x in flatten(variables).items() if path in paths}

    return {path: np.asarray(x) for path, x in initial(jax.random.key(0)).items()}
