"""SIGTERM, SIGUSR1 and Ctrl-C as a request to stop, by which schedulers announce a job's end."""

import contextlib
import os
import signal
import socket
import sys
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
PREEMPTED = 75  # EX_TEMPFAIL, which tells schedulers to run the job again


class Interrupt:
    """A context in which signals set `requested` instead of ending the process.

    In a process of its own the command answers sooner: until `hold` is called there is nothing to
    save, and a signal ends the process at once, in the middle of an import or a compilation too.
    After that Ctrl-C is such a signal as well, and a second signal of any kind ends the process.
    """

    def __init__(self, *, own_process: bool = False):
        self._own_process, self._holds, self._count = own_process, False, 0
        self._noticed = False  # by the main thread, which may be sooner than by ours
        self._signals = (*SIGNALS, signal.SIGINT) if own_process else SIGNALS

    def __enter__(self) -> "Interrupt":
        # Python runs handlers between two instructions of the main thread, which may compile for
        # minutes. It writes to a file descriptor at once, and a thread of ours reads that.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, self._notice) for number in self._signals}
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            self._writer.close()  # ends the thread

    def hold(self) -> None:
        """From now on there is something to save."""
        self._holds = True

    def _notice(self, *_: Any) -> None:
        self._noticed = True

    def _watch(self) -> None:
        while received := self._reader.recv(1):
            if received[0] in self._signals:
                self._receive(received[0])
        self._reader.close()

    def _receive(self, number: int) -> None:
        self._count += 1
        if self._own_process and not self._holds:
            _leave(
                "stopped by a signal; there is nothing to save. Run the same command again.",
                PREEMPTED,
            )
        if self._own_process and self._count > 1:
            _leave(
                "stopped by a second signal. Run the same command to resume.",
                128 + number,
            )
        if self._several() and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # by which jax tells the other processes

    @staticmethod
    def _several() -> bool:
        import jax

        return jax.process_count() > 1

    def requested(self, step: int) -> bool:
        """Whether to save and end after this step: the same answer on all processes.

        To be called after every step; it costs nothing.
        """
        if self._several():  # jax handles SIGTERM itself, and the processes agree on the step
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._noticed or self._count > 0


def _leave(sentence: str, code: int) -> None:
    """Ends the process at once, wherever its main thread is."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or a lost terminal
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a progress line
        os.write(sys.stderr.fileno(), f"{clear}{sentence}\n".encode())
    os._exit(code)
