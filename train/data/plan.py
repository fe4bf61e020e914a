"""The examples of every batch and their random numbers: pure functions of (seed, step).

A run therefore resumes by starting at step N, on any number of processes and threads.
"""

import zlib
from functools import lru_cache

import numpy as np


class Plan:
    """An endless stream of examples, shuffled again in every epoch and cut into batches.

    Position p = step * batch_size + row of the stream is example
    order(p // examples)[p % examples]. Every epoch uses each example exactly once; a batch may span
    two epochs. The only state is a cache of two epochs' orders.

    Args:
        examples: how many examples the split has.
        batch_size: of the global batch, over all processes.
        seed: of the order, at least 0.

    >>> plan = Plan(examples=6, batch_size=4, seed=0)
    >>> stream = np.concatenate([plan.indices(step) for step in range(3)])
    >>> sorted(stream[:6].tolist()), sorted(stream[6:].tolist())
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])
    """

    def __init__(self, examples: int, batch_size: int, seed: int):
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        # RandomState, because its stream is the same in all versions of numpy.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
        return np.random.RandomState(bits).permutation(self.examples)

    def positions(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the positions of a step's global batch in the stream."""
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the examples of a step's global batch, counted from 0."""
        positions = self.positions(step)
        epochs, offsets = np.divmod(positions, self.examples)
        result = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            rows = epochs == epoch
            result[rows] = self._order(epoch)[offsets[rows]]
        return result


def uniform(seed: int, name: str, positions: np.ndarray, columns: int) -> np.ndarray:
    """The random numbers of one augmentation: each depends on (seed, name, position, column) alone.

    SplitMix64 as a counter-based generator. Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, 2014.

    Args:
        seed: of the run.
        name: of the augmentation, so that adding one leaves the numbers of the others unchanged.
        positions: (n,) integers, of `Plan.positions`.
        columns: how many numbers an example takes, at most 4,096.

    Returns:
        (n, columns) float32 in [0, 1).
    """
    start = _start(seed, name)
    column = np.arange(columns, dtype=np.uint64)
    counters = positions.astype(np.uint64)[:, None] << np.uint64(12) | column
    x = start + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


@lru_cache
def _start(seed: int, name: str) -> np.uint64:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0]
