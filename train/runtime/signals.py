"""A polite end: SIGTERM and SIGUSR1, by which schedulers announce that the time is up, are noticed between two steps."""

import os
import signal

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """In its context the signals end nothing; `requested` tells of them, in the same step on all processes."""

    def __init__(self) -> None:
        self._seen = False
        self._several = jax.process_count() > 1

    def __enter__(self):
        # With several processes jax listens to SIGTERM itself, and agrees with the others on the step.
        signals = SIGNALS[1:] if self._several else SIGNALS
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_) -> None:
        self._seen = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and end behind this step; to be asked behind each one, for it costs nothing."""
        return multihost_utils.reached_preemption_sync_point(step) if self._several else self._seen
