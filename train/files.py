"""Files: Python files as modules, reading regular files only, writing all of a file or nothing."""

import importlib.util
import os
import stat
import uuid
from types import ModuleType
from typing import Any

from etils import epath


def load_module(path: str) -> ModuleType:
    """A Python file, run as a module of its own.

    Raises:
        FileNotFoundError, and whatever the file raises.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist")
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOT_A_FILE = "it is not a regular file"


def check_regular(path: epath.PathLike) -> None:
    """Raises OSError for a FIFO or a device: reading one would wait, or never end."""
    name = os.fspath(path)
    if "://" not in name:
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(NOT_A_FILE)


def read(path: epath.PathLike) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is a FIFO or a device.
    """
    check_regular(path)
    name = os.fspath(path)
    if "://" in name:
        return epath.Path(name).read_bytes()
    with open(name, "rb") as file:
        return file.read()


def write(path: epath.PathLike, content: str | bytes) -> None:
    """Writes a file under another name, then renames it, so that nobody ever reads half of it.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    path = epath.Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    data: Any = content.encode() if isinstance(content, str) else content
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
