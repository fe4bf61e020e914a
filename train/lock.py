"""One writer for a run folder: a lock that ends with the process that holds it, however it ends."""

import contextlib
import json
import os
import socket
import time
from typing import Any

from etils import epath

from train.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"  # of the file in the run folder; it says who holds the lock


class Lock:
    """A context that holds a run folder.

    The system's `flock`, which the kernel frees when the process is gone, also on NFS since Linux
    2.6.12. Object stores have none: two writers of a folder there are not noticed.
    """

    def __init__(self, folder: epath.PathLike):
        """Takes the lock.

        Raises:
            CheckpointError: another process holds it. The sentence names the process.
        """
        self._file: Any = None
        path = os.fspath(folder)
        if fcntl is None or "://" in path:
            return
        try:
            file = open(os.path.join(path, NAME), "a+b", buffering=0)  # noqa: SIM115 (held)
        except OSError:  # a folder that cannot be written: saving says so
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(f"{path} is in use {holder(file.read())}") from None
        except OSError:  # a file system without locks
            file.close()
            return
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            file.truncate(0)
            file.write(json.dumps(about).encode())
        self._file = file

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()  # frees the lock; the file stays, or two could lock one of each
            self._file = None


def holder(text: bytes) -> str:
    """'by process 12 on host since 2026-01-31 09:30:00', from what is in the file."""
    try:
        about = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["since"]))
        return f"by process {about['process']} on {about['host']} since {since}"
    except (ValueError, KeyError, TypeError):
        return "by another process"
