"""Work done by threads, in order and ahead of need."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from train.config import Data


def threads(config: Data) -> int:
    """The number of decoding threads: `data.workers`, or the cores that this process may use."""
    if config.workers:
        return config.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ahead(submit: Callable, items: Iterable, count: int) -> Iterator:
    """submit(item) of each item, in order, with `count` items submitted ahead."""
    waiting: deque = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
