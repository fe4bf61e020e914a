"""Mistakes that a user can make or mend: each is one sentence and an exit code."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


class UserError(Exception):
    """A wrong flag, key or path."""

    exit_code = 2


class DataError(UserError):
    """A data source that is missing, unreadable or inconsistent."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or weights file that is missing, damaged or of another network."""

    exit_code = 4


class DivergedError(UserError):
    """The loss is no longer a number."""

    exit_code = 5


class OutOfMemoryError(UserError):
    """The devices' memory does not hold the step."""


class LostError(UserError):
    """Another process of the run is gone."""

    exit_code = 6
    sentence = (
        "another process of this run died or cannot be reached. Run the same command to resume "
        "from the last checkpoint."
    )


class Preempted(UserError):
    """The run was asked to end, and is saved: not a mistake, but not done either."""

    exit_code = 75  # EX_TEMPFAIL, which tells schedulers to run the job again


def tell(text: str) -> None:
    """Prints a line on standard error, which a closed terminal or a full disk may refuse."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def json_line(result: dict) -> str:
    """A result as a line of JSON, its numbers with six digits; files hold all of them.

    >>> json_line({"top1": 2 / 3, "steps": 1234567, "interval": (0.1234567, 1.0)})
    '{"top1": 0.666667, "steps": 1234567, "interval": [0.123457, 1.0]}'
    """
    return json.dumps(_short(result))


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list | tuple) else value


def run(command: Callable[[], dict], interrupted: str = "interrupted") -> int:
    """Runs a command: its result is a JSON line on standard output, a mistake a sentence.

    Args:
        command: what to run.
        interrupted: the sentence after Ctrl-C.

    Returns:
        The exit code. A process that has lost another one ends at once: an orderly end would wait
        for the other for minutes.
    """
    try:
        result = command()
        sys.stderr.flush()
        print(json_line(result), flush=True)
        return 0
    except BrokenPipeError:  # as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except UserError as error:
        prefix = "" if isinstance(error, Preempted) else "error: "
        print(f"{prefix}{error}", file=sys.stderr, flush=True)
        if isinstance(error, LostError):
            os._exit(error.exit_code)
        return error.exit_code
    except MemoryError as error:  # NumPy's says how much it wanted
        print(f"error: memory does not suffice: {error}", file=sys.stderr, flush=True)
        return OutOfMemoryError.exit_code
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr, flush=True)
        return 130


def leave(code: int) -> None:
    """Ends the process, without waiting for threads that a failed save has left."""
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(others) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
