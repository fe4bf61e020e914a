"""Which examples make up which batch, and every random number spent on them: pure functions of (seed, step).

So resuming is starting at step N, on any number of processes or threads, and there is nothing to save.
"""

import zlib
from functools import lru_cache

import numpy as np


class Plan:
    """Endless passes over `examples`, each in an order of its own; batches run on across the passes' borders.

    Position p = step * batch_size + row is example `order(p // examples)[p % examples]`: every example is seen exactly
    once a pass, nothing is dropped, and there is no state beyond the step. The memory is one pass's order.
    """

    def __init__(self, examples: int, batch_size: int, seed: int):
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        # RandomState, because its stream is frozen across numpy's versions.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, epoch]))
        return np.random.RandomState(bits).permutation(self.examples)

    def positions(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the places of the global batch of a step in the endless stream of examples."""
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the examples of the global batch of a step, counted from 0."""
        positions = self.positions(step)
        epochs, offsets = np.divmod(positions, self.examples)
        result = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            result[here] = self._order(epoch)[offsets[here]]
        return result


def uniform(seed: int, name: str, positions: np.ndarray, columns: int) -> np.ndarray:
    """(n, columns) float32 in [0, 1): the random numbers that the augmentation `name` spends on the examples there.

    SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) read at any place: no number
    depends on another, nor on the batch that it is drawn with.
    """
    start = _start(seed, name)
    counters = positions.astype(np.uint64)[:, None] << np.uint64(12) | np.arange(
        columns, dtype=np.uint64
    )
    x = start + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


@lru_cache
def _start(seed: int, name: str) -> np.uint64:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0]
