"""Programs that an earlier run has traced: the next one of the same config reads them.

jax keeps what XLA compiles, but finds it by the program's text; and for that text all of the model's Python runs, with its
gradient and the optimizer: of the start of Inception v3, whose compiled code is at hand, it takes two thirds. So the text
is kept too, in `jax.export`'s format, under a name made of everything that decides over it.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pickle
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import flax
import jax
import numpy as np
import optax
from etils import epath
from jax import export

PACKAGES = ("cnnjax", "train")
ABOUT_THE_FILE = ("__builtins__", "__cached__", "__file__", "__path__")  # of a module, which says where and not what
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
    """A digest of what the packages define as they are now, with whatever a recipe or a notebook has replaced in them."""
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES:
            for key, value in sorted(vars(module).items()):
                if key not in ABOUT_THE_FILE:
                    members = dict(vars(value)) if isinstance(value, type) and value.__module__ == name else value
                    digest.update(f"{name}.{key}: {words(members)}\n".encode())
    return digest.hexdigest()


def words(value: Any, inside: tuple[Any, ...] = ()) -> str:
    """What a value is, as the next process would put it: code and constants, and of all else the name or the type.

    `inside` are functions that the value belongs to, which may refer to themselves.
    """
    within = functools.partial(words, inside=inside)
    if isinstance(value, dict):
        return str(sorted((str(key), within(item)) for key, item in value.items()))
    if isinstance(value, (tuple, list)):
        return str([within(item) for item in value])
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(repr, value)))
    if isinstance(value, (str, bytes, int, float, type(None))):
        return repr(value)
    if isinstance(value, np.ndarray):
        return str((value.dtype, value.tolist()))
    if isinstance(value, CodeType):
        return str((value.co_code.hex(), value.co_names, value.co_varnames, within(value.co_consts)))
    if isinstance(value, functools.partial):
        return within((value.func, value.args, value.keywords))
    function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))  # of a method or property
    if isinstance(function, FunctionType) and function not in inside:
        held = inspect.getclosurevars(function).nonlocals
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, held)
        return words(parts, (*inside, function))
    return getattr(value, "__qualname__", type(value).__qualname__)


def settings() -> list[str]:
    """jax's settings but for where and how much it keeps, which decide over nothing."""
    return sorted(f"{name}={value}" for name, value in jax.config.values.items() if "cache" not in name)
