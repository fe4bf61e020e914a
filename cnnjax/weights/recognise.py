"""Which network a file of weights holds, by the names and shapes of its tensors."""

import math
from pathlib import Path

from cnnjax.analysis import abstract_variables
from cnnjax.registry import create_model, get_spec
from cnnjax.trees import flatten
from cnnjax.weights.layout import Map, Source, Tensors, WeightsError, rename
from cnnjax.weights.metadata import RECORDS
from cnnjax.weights.publishers import SOURCES

FIRST = (  # our names of first convolutions
    "conv1/conv/kernel",
    "conv1a/conv/kernel",
    "block1/conv1/conv/kernel",
    "conv1/depthwise/kernel",
)


def recognise(path: Path, format: str, tensors: Tensors, model: str = "") -> tuple[str, str]:
    """The source and the model of a publisher's file.

    Several publishers use the same names for some models. Then the file's name decides, or else the
    first of them is taken.

    Args:
        path: the file.
        format: of the file.
        tensors: its tensors by name.
        model: consider this model only.

    Raises:
        WeightsError: no publisher's network has these tensors.
    """
    fitting = []
    for source, publishers in SOURCES.items():
        for publisher in (p for p in publishers if format in p.formats):
            prepared = publisher.prepare(tensors)
            fitting += [
                (source, name)
                for name, map in publisher.maps.items()
                if model in ("", name) and _starts(map, prepared)
                if fits(publisher, name, map, prepared)
            ]
    if not fitting:
        some = ", ".join(map(repr, list(tensors)[:3])) or "nothing"
        raise WeightsError(
            f"{path} holds none of the published networks, whole or without classifier "
            f"(it has {some}…): python -m cnnjax weights lists them"
        )
    named = {(row.source, row.model) for row in RECORDS if row.file == path.name}
    return next((pair for pair in fitting if pair in named), fitting[0])


def _starts(map: Map, tensors: Tensors) -> bool:
    """Whether the first convolution is there, by one of the names that we have for it: no more than
    a glance, before all of a network is looked up.
    """
    return any(rename(path, map.rules) in tensors for path in FIRST)


def fits(publisher: Source, name: str, map: Map, tensors: Tensors) -> bool:
    """Whether all of a network but its classifier is among the tensors."""
    network = create_model(name, **map.options_of(tensors))
    leaves = flatten(abstract_variables(network, get_spec(name).input_size, train=True))
    shapes = {path.partition("/")[2]: leaf.shape for path, leaf in leaves.items()}
    for path, shape in shapes.items():
        if path.split("/")[0] in map.top or path.startswith("aux"):
            continue
        tensor = tensors.get(rename(path, map.rules))
        if tensor is None or tensor.size != math.prod(shape):
            return False
    return True
