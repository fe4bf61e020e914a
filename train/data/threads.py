"""Work in threads, ahead of need and in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from train.config import Data


def threads(config: Data) -> int:
    """How many threads decode: `data.workers`, or as many as there are cores for this process."""
    if config.workers:
        return config.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ahead(submit: Callable, items: Iterable, count: int) -> Iterator:
    """submit(item) of each item in order; `count` of them are submitted before the first is needed."""
    waiting: deque = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
