"""Mistakes that a user can make or mend, each one sentence and an exit code; anything else keeps its stack trace."""

import json
import sys
from collections.abc import Callable


class UserError(Exception):
    """A wrong flag, key or path."""

    exit_code = 2


class DataError(UserError):
    """A data source that is missing, unreadable or inconsistent."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or weights file that is missing, damaged or of something else."""

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
        "another process of this run died or cannot be reached; the same command goes on from the last checkpoint"
    )


class Preempted(UserError):
    """The run was asked to end, and is saved: no mistake, but not done either."""

    exit_code = 75  # EX_TEMPFAIL, by which schedulers know that the job wants to be run again


def run(command: Callable[[], dict]) -> int:
    """Runs a command: its result as one JSON line on standard output, or one sentence on standard error."""
    try:
        print(json.dumps(command()), flush=True)
        return 0
    except Preempted as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr, flush=True)
        return 130
