"""The names and shapes of all variables of every model, one text file a model.

They are a public interface: checkpoints and the maps to published weights contain these names. If
you change them on purpose, write the lists again (`python -m tests.models.golden [MODEL …]`), read
the difference, and say in the change log what old checkpoints need.
"""

from pathlib import Path

import cnnjax
from cnnjax import analysis, trees

FOLDER = Path(__file__).parent


def lines(name: str) -> list[str]:
    """`collection/path shape` of all variables, all auxiliary heads included."""
    model, size = cnnjax.create_model(name), cnnjax.get_spec(name).input_size
    if hasattr(model, "aux"):  # 299 pixels are enough for every head; no shape depends on the size
        model, size = model.clone(aux=True), (299, 299, 3)
    variables = trees.flatten(analysis.abstract_variables(model, size, train=True))
    return [f"{path} {'x'.join(map(str, leaf.shape))}" for path, leaf in variables.items()]
