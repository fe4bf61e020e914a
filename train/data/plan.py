"""Which examples make up which batch: a pure function of (seed, step), so that resuming is starting at step N."""

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

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the examples of the global batch of a step, counted from 0."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.examples)
        result = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._order(int(epoch))[offsets[here]]
        return result
