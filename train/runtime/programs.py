"""The program cache: a training step that an earlier start has traced is not traced again.

jax's own cache spares compilation only: it finds what was compiled by the program's StableHLO, and
to make that text all of the model's Python runs, with its gradient and the optimizer. So the text
is cached too, in the format of `jax.export`, under a key made of everything that determines it:
config, versions, source files. A warm start neither traces nor compiles.
"""

import contextlib
import hashlib
import json
import os
import stat
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

PACKAGES = [Path(__file__).parents[2] / package for package in ("cnnjax", "train")]
INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def cache_folder(folder: str) -> str:
    """Switches jax's cache on, in `folder` unless JAX_COMPILATION_CACHE_DIR names another.

    What lies there is run as it is. So `folder` is made private to this user, and a folder that
    other users may write to is not used, which a warning says.

    Returns:
        The folder that is used; "" for none.
    """
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # jax keeps programs from a second on. Of a small network that is none.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if folder and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
    values = jax.config.values
    used = values["jax_enable_compilation_cache"] and values["jax_compilation_cache_dir"]
    if not used:
        return ""
    if "://" not in used:
        with contextlib.suppress(OSError):
            Path(used).mkdir(mode=0o700, parents=True, exist_ok=True)
            if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
                Path(used).chmod(0o700)
        if not is_private(Path(used)):
            warning = (
                f"warning: {used} can be written by other users, so no program is cached there"
            )
            print(warning, file=sys.stderr, flush=True)
            jax.config.update("jax_compilation_cache_dir", None)
            return ""
    return used if folder else ""


def is_private(path: Path) -> bool:
    """Whether only this user, or root, can write a file or a folder; True for none."""
    if not hasattr(os, "getuid"):
        return True
    try:
        about = path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return about.st_uid in (0, os.getuid()) and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class Cache:
    """A folder of traced steps.

    For a process that runs one recipe and nothing else. A notebook, or a script that trains several
    times, may replace a function without a trace in the files that make up the key.
    """

    def __init__(self, folder: epath.PathLike, recipe: str, flags: str = ""):
        """`recipe`: `file.py` or `file.py:argument`; `flags`: those that XLA was started with."""
        file, _, argument = recipe.partition(":")
        self._folder = epath.Path(folder)
        self._facts = [argument, source(file), conditions(), flags]

    def traced(self, step: Callable, arguments: tuple, decided_by: Any) -> Callable:
        """A mapped step as a function to be compiled by `jax.jit`, with its first argument donated.

        Args:
            step: (state, batch, key) -> (state, dict of scalars).
            arguments: the three of them, or their shapes.
            decided_by: JSON; what else the step was made from.

        Returns:
            The step as an earlier start has traced it, else as it is traced now. A step that jax
            cannot export is returned as it is.
        """
        shapes = str(jax.tree.map(jax.typeof, arguments))
        path = self._folder / f"{digest_of([*self._facts, decided_by, shapes])}-step"
        try:
            program, names = read(path)
        except Exception:  # missing, damaged, or in a format of another jax
            try:
                program, names = trace(step, arguments)
            except Exception:  # jax refuses to export it, or it is wrong and says so when called
                return step
            with contextlib.suppress(OSError):  # a full disk: nothing is cached
                write(path, program, names)
        structure: Any = jax.tree.structure(arguments[0])

        def traced_step(*arguments: Any) -> tuple[Any, dict[str, Any]]:
            leaves = program.call(*jax.tree.leaves(arguments))
            state = jax.tree.unflatten(structure, leaves[: structure.num_leaves])
            return state, dict(zip(names, leaves[structure.num_leaves :]))

        return traced_step


def trace(step: Callable, arguments: tuple) -> tuple[export.Exported, list[str]]:
    """The step as a function of leaves, and the names of the scalars that it returns."""
    leaves, structure = jax.tree.flatten(arguments)
    names: list[str] = []

    def flat(*leaves: Any) -> list[Any]:
        state, values = step(*jax.tree.unflatten(structure, leaves))
        names[:] = sorted(values)
        return [*jax.tree.leaves(state), *(values[name] for name in names)]

    return export.export(jax.jit(flat))(*leaves), names


def write(path: epath.Path, program: export.Exported, names: list[str]) -> None:
    """All or nothing: a digest, a line of JSON, and the program."""
    content = json.dumps(names).encode() + b"\n" + bytes(program.serialize())
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        part.touch()
        if "://" not in str(part):
            Path(part).chmod(0o600)
        part.write_bytes(hashlib.sha256(content).digest() + content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(path: epath.Path) -> tuple[export.Exported, list[str]]:
    """What `write` has written; ValueError where anybody else may have changed it."""
    if "://" not in str(path) and not is_private(Path(path)):
        raise ValueError(f"{path} can be written by other users")
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{path} is damaged")
    line, _, program = content[32:].partition(b"\n")
    return export.deserialize(bytearray(program)), json.loads(line)


# --------------------------------------------------------------------------------- the key's parts


def digest_of(facts: Any) -> str:
    """32 hexadecimal digits for JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def source(recipe: str) -> str:
    """A digest of the packages, the recipe, and the files that it imports and nobody installed."""
    loaded = [getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]]
    users = [file for file in loaded if not file.startswith(INSTALLED)]
    files = {file.resolve() for file in map(Path, [recipe, *users]) if file.is_file()}
    files |= {file.resolve() for folder in PACKAGES for file in folder.rglob("*.py")}
    digests = sorted(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def conditions() -> list[Any]:
    """Versions, settings and devices."""
    devices = [(device.platform, device.device_kind) for device in jax.devices()]
    return [versions(), settings(), devices]


def versions() -> list[str]:
    """Of the libraries that a step is made with."""
    return [module.__version__ for module in (jax, flax, optax)]


def settings() -> list[str]:
    """jax's and Flax's, without those that say where and how much is cached."""
    flags = [name for name in dir(flax.config) if name.startswith(("flax_", "nnx_"))]
    values = jax.config.values | {name: getattr(flax.config, name) for name in flags}
    return sorted(f"{name}={value}" for name, value in values.items() if "cache" not in name)
