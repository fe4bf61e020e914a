"""One split of a source: examples that are read at random, labels, class names."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class Split:
    """What every source offers. Reading takes two steps: `fetch`, in order and in one thread, then `load` in any thread."""

    class_names: tuple[str, ...]
    image_shape: tuple[
        int | None, int | None, int
    ]  # (H, W, C); sides are None where the images are of any size
    encoded = True  # `load` gives the bytes of an image file, not pixels
    payload_is_path = False  # `load` reads a file, and nothing else
    # How the set is evaluated, where it differs from one right class out of all.
    counted: np.ndarray | None = None  # (K,) the classes that an answer is chosen from; None: all
    accepted: list[np.ndarray] | None = (
        None  # of each example every class that is right; none: it does not count
    )

    def __init__(self) -> None:
        self.bad: dict[
            int | str, str
        ] = {}  # the examples that turned out to be unreadable, and why

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32; for packed records this reads through all of them."""
        raise NotImplementedError

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(payloads, labels int32) of some examples: what `load` takes, as one array."""
        raise NotImplementedError

    def load(self, payload: Any) -> Any:
        """The bytes of an image file, or pixels uint8 (H, W, C)."""
        return payload

    def name(self, index: int | str) -> str:
        """The example for a person to find."""
        return f"example {index}"


class Arrays(Split):
    """Images of one size in memory."""

    encoded = False

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]):
        super().__init__()
        self._images = images  # (N, H, W, C) uint8
        self._labels = labels  # (N,) int32, below len(class_names)
        self.class_names = class_names
        self.image_shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def images(self) -> np.ndarray:
        """(N, H, W, C) uint8."""
        return self._images

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self._labels[indices]


class Stream(Split):
    """Examples that can only be read one after the other: `fetch` goes forward, and starts over to go back."""

    def __init__(self) -> None:
        super().__init__()
        self._cursor: tuple[int, Iterator] = (0, iter(()))

    def items(self) -> Iterator[tuple[Any, int]]:
        """(payload, label) of every example, in a fixed order."""
        raise NotImplementedError

    def shuffled(self, seed: int, position: int) -> Iterator[tuple[Any, int, str]]:
        """(payload, label, key) of the endless stream of training, from a position on: each pass in an order of its own.

        The key tells which example it is, as `bad` and `name` take it.
        """
        raise NotImplementedError

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        payloads, labels = np.empty(len(indices), object), np.empty(len(indices), np.int32)
        place, iterator = self._cursor
        for row, index in enumerate(indices):
            if index < place or place == 0:
                place, iterator = 0, self.items()
            while place <= index:
                item = next(iterator)
                place += 1
            payloads[row], labels[row] = item
        self._cursor = (place, iterator)
        return payloads, labels
