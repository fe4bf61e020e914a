"""One split of a source: its examples, labels and class names."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class Split:
    """What every source offers. `fetch` runs in one thread and in order, `load` in any thread.

    Labels are (N,) classes or, where an image may have several of them, (N, K) zeros and ones.

    Attributes:
        class_names: the classes, in the order of their labels.
        image_shape: (H, W, C); H and W are None where the images vary in size.
        encoded: `load` returns the bytes of an image file, not pixels.
        labels_at_hand: reading `labels` reads no images.
        payload_is_path: the payload is the path of a file, which `load` reads.
        counted: (K,) the classes that an answer is chosen from in evaluation; None: all.
        accepted: for each example, all of its right labels in evaluation; an example without any
            does not count. None: the label.
        bad: the examples that turned out to be unreadable, and why.
        unreadable: the examples that must not be opened, and why: those that are no files.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    encoded = True
    labels_at_hand = False
    payload_is_path = False
    counted: np.ndarray | None = None
    accepted: list[np.ndarray] | None = None

    def __init__(self) -> None:
        self.bad: dict[int | str, str] = {}
        self.unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def labels(self) -> np.ndarray:
        """(N,) or (N, K) int32; for packed records this reads all of them."""
        raise NotImplementedError

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one example's label: (), or (K,) for several labels an image."""
        return self.labels.shape[1:] if self.labels_at_hand else ()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self.label_shape)

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(payloads, labels int32) of some examples; a payload is what `load` takes."""
        raise NotImplementedError

    def load(self, payload: Any) -> Any:
        """The bytes of an image file, or pixels uint8 (H, W, C)."""
        return payload

    def name(self, index: int | str) -> str:
        """How messages call an example."""
        return f"example {index}"


def in_words(label: Any, names: Sequence[str]) -> str:
    """The classes of an example's label: "cat", or "cat|dog"."""
    if np.ndim(label) == 0:
        return names[label]
    return "|".join(name for name, is_it in zip(names, label) if is_it)


class Arrays(Split):
    """Images of one size in memory.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) int32, below len(class_names), or (N, K) int32 zeros and ones.
        class_names: the classes, in the order of their labels.
    """

    encoded = False
    labels_at_hand = True

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]):
        super().__init__()
        self._images, self._labels, self.class_names = images, labels, class_names
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
    """Examples that are only read in sequence: `fetch` reads forward, and restarts to go back."""

    def __init__(self) -> None:
        super().__init__()
        self._cursor: tuple[int, Iterator] = (0, iter(()))

    def items(self) -> Iterator[tuple[Any, int]]:
        """(payload, label) of every example, in a fixed order."""
        raise NotImplementedError

    def shuffled(self, seed: int, position: int) -> Iterator[tuple[Any, int, str]]:
        """(payload, label, key) of the endless training stream, from a position on.

        Every epoch has its own order. The key identifies the example to `bad` and `name`.
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
