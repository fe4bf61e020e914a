"""Programs that an earlier start has traced: the next one of the same command reads them.

jax keeps what XLA compiles, but finds it by the program's text; and for that text all of the model's Python runs, with its
gradient and the optimizer: of the start of Inception v3, whose compiled code is at hand, it takes two thirds. So the text
is kept too, in `jax.export`'s format, under a name made of all that decides over it.
"""

import contextlib
import hashlib
import json
import os
import pickle
import sys
import sysconfig
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import optax
from etils import epath
from jax import export

OURS = [Path(__file__).parents[1] / package for package in ("cnnjax", "train")]
INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Kept:
    """Programs in a folder, each read from there or, the first time, traced and written.

    For a process that runs one recipe and nothing else: what is replaced while it runs, in a notebook or by a script that
    trains several times, leaves no trace in the files that a program is known by.
    """

    def __init__(self, folder: epath.PathLike, recipe: str):
        """`recipe` is `file.py` or `file.py:argument`."""
        devices = [(device.platform, device.device_kind) for device in jax.devices()]
        versions = [module.__version__ for module in (jax, flax, optax)]
        self._folder = epath.Path(folder)
        self._facts = [recipe.partition(":")[2], source(recipe.partition(":")[0]), versions, settings(), devices]

    def __call__(self, name: str, function: Callable, arguments: tuple, decided_by: dict[str, Any]) -> Callable:
        """The function as the program that it is for arguments like these, concrete or abstract, to be compiled with `jax.jit`.

        `decided_by` is JSON: what else it was made from. What cannot be kept, as a program that calls back into Python, is
        the function itself.
        """
        facts = [*self._facts, decided_by, str(jax.tree.map(jax.typeof, arguments))]
        place = self._folder / f"{digest(json.dumps(facts, sort_keys=True).encode())[:32]}-{name}"
        try:
            program, results = read(place)
        except Exception:  # not there, damaged, or of a jax that reads other formats
            try:
                program, results = trace(function, arguments)
            except Exception:  # jax refuses, or the function is wrong: then it says so itself
                return function
            with contextlib.suppress(Exception):  # no room, or a part that cannot be pickled: nothing is kept
                write(place, program, results)

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


def write(place: epath.Path, program: export.Exported, results: Any) -> None:
    """All of it or nothing, behind its own digest."""
    content = pickle.dumps((bytes(program.serialize()), results))
    part = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(digest(content).encode() + content)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def read(place: epath.Path) -> tuple[export.Exported, Any]:
    """What `write` has written; ValueError where a byte of it is another."""
    content = place.read_bytes()
    if digest(content[64:]).encode() != content[:64]:
        raise ValueError(f"{place} is damaged")
    text, results = pickle.loads(content[64:])
    return export.deserialize(bytearray(text)), results


def digest(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def source(recipe: str) -> str:
    """A digest of the packages' files, the recipe, and all that it has imported but what is installed."""
    loaded = [getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]]
    users = [file for file in loaded if not file.startswith(INSTALLED)]
    files = {file.resolve() for file in map(Path, [recipe, *users]) if file.is_file()}
    files |= {file.resolve() for folder in OURS for file in folder.rglob("*.py")}
    return digest("".join(sorted(digest(file.read_bytes()) for file in files)).encode())


def settings() -> list[str]:
    """jax's and Flax's, but for where and how much is kept, which decides over nothing."""
    flags = [name for name in dir(flax.config) if name.startswith(("flax_", "nnx_"))]
    values = jax.config.values | {name: getattr(flax.config, name) for name in flags}
    return sorted(f"{name}={value}" for name, value in values.items() if "cache" not in name)
