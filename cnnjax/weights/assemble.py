"""The variables of one of our models out of a file's tensors."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnnjax.analysis import abstract_variables
from cnnjax.weights.layout import Map, Source, Tensors, fill, from_tensorflow, leaves, nest, rename

# In our own files every leaf has its path for a name, with the collection in front.
OURS = Source(formats=("safetensors",), maps={}, axes=from_tensorflow)
BY_PATH = Map(rules=(), classifier="")


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
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Every variable of `network`, and the modules of which the file has none, so that they had to be initialised.

    `new_heads` initialises the layers that end in classes, whatever the file has. `drop`, `what`: see `layout.fill`.
    """
    shapes = {
        path: leaf.shape for path, leaf in leaves(abstract_variables(network, size, train=True))
    }
    bare = {path: path.partition("/")[2] for path in shapes}
    module = {path: bare[path].rpartition("/")[0] for path in shapes}
    key = {
        path: path if source is OURS else bare[path] for path in shapes
    }  # what the map's rules begin with
    name = {path: rename(key[path], map.rules) for path in shapes}

    fresh = {path for path in shapes if module[path].split("/")[0] in map.top}
    if source is OURS or any(name[path] in tensors for path in fresh):
        fresh = set()
    if new_heads:
        heads = {path for path in shapes if module[path].split("/")[-1] == "head"}
        replaced = {name[path] for path in heads}
        tensors = {name: x for name, x in tensors.items() if name not in replaced}
        fresh |= heads
    wanted = {key[path]: shape for path, shape in shapes.items() if path not in fresh}
    filled = fill(tensors, wanted, source, map, drop, what)
    values = {path: filled[key[path]] for path in shapes if path not in fresh} | _initial(
        network, size, fresh
    )
    return nest({path: values[path] for path in shapes}), tuple(
        sorted({module[path] for path in fresh})
    )


def _initial(network: nn.Module, size: tuple[int, int, int], paths: set[str]) -> Tensors:
    """Some of the network's initial values; only these are computed."""
    if not paths:
        return {}

    @jax.jit
    def initial(key: jax.Array) -> dict[str, jax.Array]:
        tree: Any = network.init(
            {"params": key, "dropout": key}, np.zeros((1, *size), np.float32), train=True
        )
        return {path: x for path, x in leaves(tree) if path in paths}

    return {path: np.asarray(x) for path, x in initial(jax.random.key(0)).items()}
