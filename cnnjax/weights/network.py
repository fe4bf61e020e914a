"""A network with its weights, ready to use."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax.models.layers import Outputs
from cnnjax.spelling import choice
from cnnjax.stages import apply_with_stages
from cnnjax.weights.layout import WeightsError
from cnnjax.weights.metadata import Preprocessing

BATCH = 32  # images that the network sees at once
PROBABILITIES = "probabilities"  # in `origin`: "sigmoid" for several labels an image


class Prediction(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights, and all that is needed to use it.

    The methods take images as they come: a path, a PIL image, a uint8 array (H, W, C) of any size,
    or a list of these, or one array (N, H, W, C). They resize and crop each as the weights need.

    Attributes:
        model: the network.
        variables: {"params": …, "batch_stats": …} of numpy arrays.
        preprocessing: maps images (N, H, W, C), uint8, to the network's input.
        class_names: one for each logit, if known.
        name: the model's name in the registry.
        origin: source, file, hash, licence and published accuracy, as far as known.
        fresh: the modules that were initialised at random, because the file has no values for them.
        image_shape: (H, W, C) of the images that the network reads. Where they are not square,
            whole images are scaled to it. None: squares of `preprocessing.size`.
    """

    model: nn.Module
    variables: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    name: str = ""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None

    def __call__(self, images: Any) -> Outputs:
        """The network's outputs for one image or several.

        Args:
            images: see the class.

        Returns:
            Outputs of numpy arrays: logits (N, K), no auxiliary logits, features (N, D).

        Raises:
            ValueError: something is no image; the message names it.
            OSError: a file cannot be opened.
        """
        parts = [self._apply(self._on_device, batch) for batch in self._batches(images)]
        return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    def predict(self, images: Any, top: int = 5) -> list[list[Prediction]]:
        """The most probable classes of each image, the most probable first.

        With several labels an image the probabilities are sigmoids, and do not add up to one.

        Args:
            images: see the class.
            top: how many classes.

        Returns:
            For each image a list of (name, probability). A class without a name is "class 7".

        Raises:
            WeightsError: the classifier was initialised at random.
            ValueError, OSError: as for a call.
        """
        if self.fresh:
            raise WeightsError(
                f"{self.name} cannot classify: {', '.join(self.fresh)} was initialised at random"
            )
        several = self.origin.get(PROBABILITIES) == "sigmoid"
        normalise = jax.nn.sigmoid if several else jax.nn.softmax
        probabilities = np.asarray(normalise(self(images).logits))
        names = self.class_names or [f"class {i}" for i in range(probabilities.shape[1])]
        places = np.argsort(-probabilities, kind="stable")[:, :top]
        return [
            [Prediction(names[place], float(row[place])) for place in best]
            for row, best in zip(probabilities, places)
        ]

    def features(self, images: Any) -> np.ndarray:
        """What the classifier reads, (N, D) float32. Arguments and errors are those of a call."""
        return np.asarray(self(images).features)

    def stages(self, images: Any, *names: str) -> dict[str, np.ndarray]:
        """Feature maps of the network's own layers and blocks ("mixed6e").

        Args:
            images: see the class.
            *names: which stages; all by default.

        Returns:
            A dict in the network's order, of arrays (N, h, w, c) or (N, D).

        Raises:
            ValueError: there is no such stage; the message names the nearest.
            OSError: a file cannot be opened.
        """
        shapes = self._apply_with_stages.eval_shape(self._on_device, self._zeros())
        for name in names:
            choice("stage", name, shapes)
        parts = []
        for batch in self._batches(images):
            stages = self._apply_with_stages(self._on_device, batch)
            # From a device, a stage is copied only if it is wanted.
            parts.append({k: np.asarray(stages[k]) for k in shapes if not names or k in names})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.variables)

    @cached_property
    def _apply(self) -> Callable[..., Outputs]:
        def apply(variables, images):
            return self.model.apply(variables, self.preprocessing(images), train=False)

        return jax.jit(apply)

    @cached_property
    def _apply_with_stages(self) -> Any:
        def apply(variables, images):
            read = self.preprocessing(images)
            return apply_with_stages(self.model, variables, read, train=False)[1]

        return jax.jit(apply)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that the network reads."""
        side, channels = self.preprocessing.size, 1 if self.preprocessing.channels == "L" else 3
        return self.image_shape or (side, side, channels)

    def _zeros(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.input_shape), np.uint8)

    def _batches(self, images: Any) -> Iterator[np.ndarray]:
        """Batches of uint8 (n, H, W, C) as the network reads them, decoded one at a time."""
        sources = _listed(images)
        if not sources:
            raise ValueError("no images were given")
        for start in range(0, len(sources), BATCH):
            yield np.stack([self._fit(source) for source in sources[start : start + BATCH]])

    def _fit(self, source: Any) -> np.ndarray:
        from cnnjax.images import fit, pixels, scale

        height, width, channels = self.input_shape
        image = pixels(source, channels)
        if height != width:
            return scale(image, height, width, self.preprocessing)
        # A square that the network was trained on, though its weights were published for another.
        return fit(image, dataclasses.replace(self.preprocessing, size=height))


def _listed(images: Any) -> Sequence[Any]:
    """One image, or several, as a sequence of images."""
    if isinstance(images, str | os.PathLike):
        return [images]
    if getattr(images, "ndim", 0) in (2, 3) or not isinstance(images, Iterable):
        return [images]
    return images if isinstance(images, Sequence) else list(images)
