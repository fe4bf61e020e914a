"""The rows of the table of claims: by counting, and by training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from cnnjax import create_model
from train.lineage.texts import Text

VERDICTS = ("reproduced", "not reproduced", "undecided")


class Count(NamedTuple):
    """What one module costs, for one image."""

    parameters: int
    multiply_adds: int
    receptive_field: int  # in pixels
    relus: int
    depth: int  # convolutions and dense layers on the longest way through it


class Counting(NamedTuple):
    """A claim that the modules themselves decide.

    Attributes:
        name: for the command line.
        idea, statement: what the page says.
        source: paper and section.
        build: makes a module from options.
        common: options of all of its modules.
        switch: the one option that differs.
        values: of the switch, one for each module.
        size: (H, W, C) of the image; by value where it differs.
        quantity: what the plot shows, a field of `Count`.
        holds: whether the counts, in the order of `values`, are what the statement says.
    """

    name: str
    idea: Text
    source: Text
    statement: Text
    build: Callable[..., nn.Module]
    common: dict[str, Any]
    switch: str
    values: tuple[Any, ...]
    size: tuple[int, int, int] | dict[Any, tuple[int, int, int]]
    quantity: str
    holds: Callable[[list[Count]], bool]

    def module(self, value: Any) -> nn.Module:
        return self.build(**self.common, **{self.switch: value})

    def size_of(self, value: Any) -> tuple[int, int, int]:
        return self.size[value] if isinstance(self.size, dict) else self.size


class Experiment(NamedTuple):
    """Runs that differ in one option.

    Attributes:
        recipe: as `--config` takes it.
        switch: the one option that differs.
        values: of the switch, as text.
        overrides: flags of all runs, without `--config.`.
        seeds: runs of each value.
    """

    recipe: str
    switch: str
    values: tuple[str, ...]
    overrides: tuple[str, ...]
    seeds: int = 3

    def flags(self) -> list[str]:
        return [f"--config.{text}" for text in self.overrides]


class Training(NamedTuple):
    """A claim that is tested by training.

    Attributes:
        name: for the command line.
        idea, statement: what the page says.
        source: paper and section.
        limits: what a small experiment cannot show.
        experiment: a key of `training.EXPERIMENTS`.
        pair: the two values of the switch, the plain one first.
        quantity: a key of `measures.MEASURES`.
        direction: 1 where the claim is that the quantity is larger with the second value, else -1.
    """

    name: str
    idea: Text
    source: Text
    statement: Text
    limits: Text
    experiment: str
    pair: tuple[str, str]
    quantity: str
    direction: int


def of_registry(name: str, **options: Any) -> nn.Module:
    """A network of the registry; its name can be the switch."""
    return create_model(name, **options)
