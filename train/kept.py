"""Programs that an earlier start has compiled: the next one of the same command loads them.

jax keeps what XLA compiles too, but finds it by the program's text; and for that text all of the model's Python runs, with
its gradient and the optimizer: of the start of Inception v3, whose compiled code is at hand, it takes two thirds. So a
program also has a name that is made of all that decides over its text. Under it lies which text that was; and under the
text and the trees that it takes and returns, what was compiled: behind a change that left them, nothing is compiled anew.
"""

import contextlib
import hashlib
import json
import os
import pickle
import platform
import sys
import sysconfig
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jaxlib
import optax
from etils import epath
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
from jax.stages import Compiled

from train import cpu

OURS = [Path(__file__).parents[1] / package for package in ("cnnjax", "train")]
INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Kept:
    """A folder of programs.

    For a process that runs one recipe and nothing else: what is replaced while it runs, in a notebook or by a script that
    trains several times, leaves no trace in the files that a program is known by.
    """

    def __init__(self, folder: epath.PathLike, recipe: str):
        """`recipe` is `file.py` or `file.py:argument`."""
        self._folder = epath.Path(folder)
        self._facts = [recipe.partition(":")[2], source(recipe.partition(":")[0]), conditions()]

    def place(self, name: str, decided_by: Any) -> epath.Path:
        """Where a program lies; `decided_by` is JSON: what else it is made from."""
        return self._folder / f"{digest_of([*self._facts, decided_by])}-{name}"


class Text(NamedTuple):
    """What is known of a program without its code."""

    code: str  # what it is kept under
    types: str  # of the arguments
    results: Any  # a tree of shapes


class Program:
    """A function, compiled for arguments of some types: by an earlier start, or when it is asked for."""

    def __init__(self, function: Any, devices: Sequence[jax.Device], place: epath.Path | None = None,
                 options: dict[str, Any] | None = None):  # fmt: skip
        """`function` is from `jax.jit` or `jax.pmap` and runs on `devices`; `place`: where it is kept; `options`: XLA's."""
        self._function, self._devices, self._options, self._place = function, devices, options, place
        self._text: Text | None = None
        self._loading: Future | None = None
        self.trace_s = self.compile_s = 0.0  # seconds, of what had to be done here
        with contextlib.suppress(Exception):  # not there, or damaged
            self._text = read(place) if place else None

    def load(self) -> None:
        """Begins to load what is kept, beside all else that a start does."""
        if self._text is not None:
            loader = ThreadPoolExecutor(1)
            self._loading = loader.submit(self._load, self._text.code)
            loader.shutdown(wait=False)  # the thread ends with what it does

    def results(self, *arguments: Any) -> Any:
        """The shapes that the function returns for such arguments."""
        text = self._text
        return text.results if text and text.types == types(arguments) else jax.eval_shape(self._function, *arguments)

    def compiled(self, *arguments: Any) -> Compiled:
        """The function for arguments of these types, concrete or abstract. What cannot be kept is compiled all the same.

        Errors are those of tracing and compiling the function.
        """
        text = self._text
        if text and text.types == types(arguments):
            with contextlib.suppress(Exception):  # damaged
                return self._loading.result() if self._loading else self._load(text.code)
        began = time.perf_counter()
        lowered = self._function.lower(*arguments)
        self.trace_s = time.perf_counter() - began
        return self._of_text(lowered, types(arguments))

    def _of_text(self, lowered: Any, takes: str) -> Compiled:
        """As an earlier start has compiled the same text, or anew, for the next one to find."""
        if self._place is None:
            return self._anew(lowered)
        trees = [str(lowered.in_tree), str(lowered.out_tree)]  # the code comes with them, the text without
        where = [device.id for device in self._devices]
        code = digest_of([lowered.as_text(), trees, self._options, where, conditions()])
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), lowered.out_info)
        try:
            program, made = self._load(code), None
        except Exception:
            with compiling_anew():
                program = made = self._anew(lowered)
        with contextlib.suppress(Exception):  # no room, or a program that calls back into Python
            if made is not None:
                write(self._code(code), serialize_executable.serialize(made))
            write(self._place, Text(code, takes, shapes))
        return program

    def _anew(self, lowered: Any) -> Compiled:
        began = time.perf_counter()
        compiled = lowered.compile(self._options)
        self.compile_s = time.perf_counter() - began
        return compiled

    def forget(self) -> None:
        """Lets go of what jax holds of a function, one of `jax.jit`, that is not called again."""
        self._function.clear_cache()

    def _code(self, name: str) -> epath.Path:
        assert self._place is not None
        return self._place.with_name(f"{name}-code")

    def _load(self, name: str) -> Compiled:
        code, takes, returns = read(self._code(name))
        return serialize_executable.deserialize_and_load(code, takes, returns, execution_devices=self._devices)


@contextlib.contextmanager
def compiling_anew() -> Iterator[None]:
    """Without jax's own cache: XLA on a CPU writes what comes from there in such a way that it does not run again."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax 0.12 asks once in its life
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def write(place: epath.Path, value: Any) -> None:
    """All of it or nothing, behind its own digest."""
    content = zlib.compress(pickle.dumps(value), 1)  # a sixth
    part = place.with_name(f"{place.name}.{uuid.uuid4().hex}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(digest(content) + content)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def read(place: epath.Path) -> Any:
    """What `write` has written; ValueError where a byte of it is another."""
    content = place.read_bytes()
    if digest(content[32:]) != content[:32]:
        raise ValueError(f"{place} is damaged")
    return pickle.loads(zlib.decompress(content[32:]))


def digest(content: bytes) -> bytes:
    """32 bytes."""
    return hashlib.sha256(content).digest()


def digest_of(facts: Any) -> str:
    """32 hexadecimal digits for what is JSON."""
    return digest(json.dumps(facts, sort_keys=True).encode()).hex()[:32]


def types(arguments: tuple) -> str:
    """The arguments' tree, with shapes and types for values."""
    return str(jax.tree.map(jax.typeof, arguments))


def source(recipe: str) -> str:
    """A digest of the packages' files, the recipe, and all that it has imported but what is installed."""
    loaded = [getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]]
    users = [file for file in loaded if not file.startswith(INSTALLED)]
    files = {file.resolve() for file in map(Path, [recipe, *users]) if file.is_file()}
    files |= {file.resolve() for folder in OURS for file in folder.rglob("*.py")}
    return digest(b"".join(sorted(digest(file.read_bytes()) for file in files))).hex()


def conditions() -> list[Any]:
    """Under which compiled code is good: versions, settings, and the machine."""
    versions = [module.__version__ for module in (jax, jaxlib, flax, optax)]
    devices = [(device.id, device.platform, device.device_kind) for device in jax.devices()]
    environment = {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC", "PJRT_NPROC")}
    flags = [environment, cpu.started_with]
    return [versions, settings(), devices, jax.devices()[0].client.platform_version, flags, processor()]


def settings() -> list[str]:
    """jax's and Flax's, but for where and how much is kept, which decides over nothing."""
    flags = [name for name in dir(flax.config) if name.startswith(("flax_", "nnx_"))]
    values = jax.config.values | {name: getattr(flax.config, name) for name in flags}
    return sorted(f"{name}={value}" for name, value in values.items() if "cache" not in name)


def processor() -> list[Any]:
    """What code for a CPU is made for: its kind, what it can do, and how many cores this process may use."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [platform.machine(), platform.processor(), kinds, cores]
