"""Programs that an earlier run has traced: the next one of the same config reads them.

jax keeps what XLA compiles, but finds it by the program's text; and for that text all of the model's Python runs, with its
gradient and the optimizer: of the start of Inception v3, whose compiled code is at hand, it takes two thirds. So the text
is kept too, in `jax.export`'s format, under a name made of everything that decides over it.
"""

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import optax
from etils import epath
from jax import export

PACKAGES = ("cnnjax", "train")
VERSIONS = {module.__name__: module.__version__ for module in (jax, flax, optax)}


class Kept:
    """Programs in a folder, each read from there or, the first time, traced and written."""

    def __init__(self, folder: epath.PathLike, decided_by: dict[str, Any]):
        """`decided_by` is JSON: with the packages' source and versions, jax's settings and the devices, all that matters."""
        devices = [(device.platform, device.device_kind) for device in jax.devices()]
        facts = [decided_by, VERSIONS, source(), settings(), devices]
        self._folder = epath.Path(folder)
        self._name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def __call__(self, name: str, function: Callable, arguments: tuple) -> Callable:
        """The function as the program that it is for these arguments, or such abstract ones, to be compiled with `jax.jit`.

        What cannot be kept, as a program that calls back into Python, is the function itself.
        """
        shapes = hashlib.sha256(repr(jax.tree.map(jax.typeof, arguments)).encode()).hexdigest()[:8]
        place = self._folder / f"{self._name}-{shapes}-{name}"
        try:
            text, results = pickle.loads(place.read_bytes())
            program = export.deserialize(bytearray(text))
        except Exception:  # not there, half written, or of a jax that reads other formats
            try:
                program, results = trace(function, arguments)
                write(place, pickle.dumps((bytes(program.serialize()), results)))
            except (NotImplementedError, TypeError, ValueError):
                return function

        def run(*arguments: Any) -> Any:
            return jax.tree.unflatten(results, program.call(*jax.tree.leaves(arguments)))

        run.__name__ = run.__qualname__ = name  # in profiles
        return run


def trace(function: Callable, arguments: tuple) -> tuple[export.Exported, Any]:
    """A function of flat arguments, and the structure of its results: the trees' own classes are not jax's to write."""
    leaves, structure = jax.tree.flatten(arguments)
    results = []

    def flat(*leaves: Any) -> list[Any]:
        values, tree = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
        results.append(tree)
        return values

    return export.export(jax.jit(flat))(*leaves), results[0]


def write(place: epath.Path, content: bytes) -> None:
    """All of it or nothing; where there is no room, nothing."""
    part = place.with_name(f"{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(place)


def source() -> str:
    """A digest of what the packages are written in."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def settings() -> list[str]:
    """jax's settings but for where and how much it keeps, which decide over nothing."""
    return sorted(f"{name}={value}" for name, value in jax.config.values.items() if "cache" not in name)
