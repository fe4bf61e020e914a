"""Trees of arrays as flat dictionaries from paths to leaves: {"conv1/kernel": array}."""

from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves by path, in jax's order (keys sorted). Slashes join the parts of a path.

    >>> flatten({"conv1": {"bias": 0, "kernel": 1}})
    {'conv1/bias': 0, 'conv1/kernel': 1}
    """
    return {name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def name(path: tuple) -> str:
    """A path of `jax.tree_util` as text: "conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, as nested dictionaries.

    >>> nest({"conv1/bias": 0, "conv1/kernel": 1})
    {'conv1': {'bias': 0, 'kernel': 1}}
    """
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
