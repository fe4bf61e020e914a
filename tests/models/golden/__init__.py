"""Every variable of every model, one a line, in one text file a model: the names are a public interface.

Saved checkpoints and the maps to published weights hold these names. If a change of them was meant, write the lists anew
(`python -m tests.models.golden [MODEL …]`), read the difference, and say in the change log what old checkpoints need.
"""

from pathlib import Path

import jax

import cnnjax
from cnnjax import analysis

FOLDER = Path(__file__).parent


def lines(name: str) -> list[str]:
    """`collection/path shape` of all variables, auxiliary heads included even where they are off by default."""
    model, size = cnnjax.create_model(name), cnnjax.get_spec(name).input_size
    if hasattr(model, "aux"):
        model, size = (
            model.clone(aux=True),
            (299, 299, 3),
        )  # large enough for every head; no shape depends on it
    variables = analysis.abstract_variables(model, size, train=True)
    paths = [
        ("/".join(key.key for key in path), leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(variables)
    ]
    return [f"{path} {'x'.join(map(str, shape))}" for path, shape in paths]
