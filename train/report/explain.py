"""What a network looks at and what it has learned, as arrays, which `train.report` draws.

Everything runs in float32, on images as the network reads them: (N, H, W, C) after preprocessing.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.analysis import WHOLE, summarize
from cnnjax.stages import apply_with_stages


def exact(model: nn.Module) -> nn.Module:
    """The same network with float32 as its compute type."""
    return model.clone(dtype=None) if getattr(model, "dtype", None) is not None else model


def stages(model: nn.Module, variables: Any, images: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the stages (`cnnjax.stages`), in the network's order; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}  # what jax returns it would sort

    def trace(variables, images):
        _, maps = apply_with_stages(model, variables, images, train=False)
        found.update((name, x.shape) for name, x in maps.items())

    jax.eval_shape(trace, variables, images)
    return found


def last_map(model: nn.Module, variables: Any, images: Any) -> str:
    """The last stage that is a map of more than one cell.

    Raises:
        ValueError: there is none.
    """
    maps = [
        name
        for name, shape in stages(model, variables, images).items()
        if len(shape) == 4 and min(shape[1:3]) > 1
    ]
    if not maps:
        raise ValueError("the network has no layer that returns a map")
    return maps[-1]


def feature_maps(model: nn.Module, variables: Any, images: Any, stage: str) -> np.ndarray:
    """The map (N, h, w, C) of one stage.

    Raises:
        ValueError: there is no such stage; the message names those that there are.
    """
    known = stages(model, variables, images)
    if stage not in known:
        raise ValueError(f"no stage is called {stage!r}; there are {', '.join(known)}")

    @jax.jit
    def run(variables, images):
        return apply_with_stages(exact(model), variables, images, train=False)[1][stage]

    return np.asarray(run(variables, images))


def grad_cam(
    model: nn.Module, variables: Any, images: Any, classes: Any, stage: str = ""
) -> np.ndarray:
    """Grad-CAM: where a stage speaks for a class. Selvaraju et al. 2017.

    The channels of the map are weighted by the mean gradient of the class's logit and summed;
    negative sums become 0.

    Args:
        model: the network.
        variables: its variables.
        images: (N, H, W, C)
        classes: (N,) the class of each image.
        stage: by default the last that is a map of more than one cell.

    Returns:
        (N, h, w), none negative.
    """
    stage = stage or last_map(model, variables, images)
    shape = stages(model, variables, images)[stage]
    network = exact(model)

    @jax.jit
    def run(variables, images, classes):
        def score(shift):
            outputs, maps = apply_with_stages(
                network, variables, images, train=False, shifts={stage: shift}
            )
            own = jnp.take_along_axis(outputs.logits, classes[:, None], axis=-1)
            return own.sum(), maps[stage]

        gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros(shape, jnp.float32))
        return nn.relu((gradient.mean((1, 2), keepdims=True) * maps).sum(-1))

    return np.asarray(run(variables, images, jnp.asarray(classes)))


def occlusion(
    model: nn.Module,
    variables: Any,
    images: Any,
    classes: Any,
    *,
    size: int,
    stride: int,
    fill: float = 0.0,
    probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> np.ndarray:
    """How far the probability of a class falls when a square is covered. Zeiler, Fergus 2014.

    Args:
        model: the network.
        variables: its variables.
        images: (N, H, W, C)
        classes: (N,) the class of each image.
        size: the side of the square, in pixels.
        stride: the distance of its places, in pixels.
        fill: the value of the square, as the network reads it.
        probabilities: of logits.

    Returns:
        (N, h, w), a value for each place.
    """
    network, classes = exact(model), jnp.asarray(classes)
    height, width = images.shape[1:3]
    tops, lefts = range(0, height - size + 1, stride), range(0, width - size + 1, stride)

    @jax.jit
    def probability(variables, images):
        logits = network.apply(variables, images, train=False).logits
        return jnp.take_along_axis(probabilities(logits), classes[:, None], axis=-1)[:, 0]

    @jax.jit
    def covered(variables, images, top, left):
        rows, columns = jnp.arange(height), jnp.arange(width)
        inside = ((rows >= top) & (rows < top + size))[:, None] & (
            (columns >= left) & (columns < left + size)
        )
        return probability(variables, jnp.where(inside[..., None], fill, images))

    images = jnp.asarray(images)
    whole = probability(variables, images)
    falls = [[whole - covered(variables, images, top, left) for left in lefts] for top in tops]
    return np.asarray(jnp.stack([jnp.stack(row, -1) for row in falls], 1))


def neighbours(features: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """(Q, k): the rows of `features` (N, D) most similar to each query (Q, D), by their angle."""
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    own = queries / np.maximum(np.linalg.norm(queries, axis=-1, keepdims=True), 1e-12)
    return np.argsort(-(own @ unit.T), axis=-1, kind="stable")[:, :k]


def features(model: nn.Module, variables: Any, batches: Iterable[Any]) -> np.ndarray:
    """(N, D): the features, which the last layer reads, of all batches."""
    run = jax.jit(
        lambda variables, images: exact(model).apply(variables, images, train=False).features
    )
    return np.concatenate([np.asarray(run(variables, images)) for images in batches])


class Activity(NamedTuple):
    """How the units (channels) of one stage behave over a set of images."""

    units: int
    dead: int  # never above zero
    constant: int  # the same everywhere, dead ones included
    zeros: float  # proportion of values that are exactly zero
    mean: float
    std: float


def activity(model: nn.Module, variables: Any, batches: Iterable[Any]) -> dict[str, Activity]:
    """The units of every stage, in the network's order, over all images."""
    network = exact(model)

    @jax.jit
    def measure(variables, images):
        _, maps = apply_with_stages(network, variables, images, train=False)

        def statistics(x):
            x = x.astype(jnp.float32).reshape(-1, x.shape[-1])
            return {
                "max": x.max(0),
                "min": x.min(0),
                "zeros": (x == 0).mean(),
                "mean": x.mean(),
                "square": (x * x).mean(),
            }

        return {name: statistics(x) for name, x in maps.items()}

    order: list[str] = []
    total: dict[str, dict[str, Any]] = {}
    count = 0
    for images in batches:
        order = order or list(stages(model, variables, images))
        n = len(images)
        for name, new in jax.device_get(measure(variables, images)).items():
            old = total.setdefault(name, new | {"zeros": 0.0, "mean": 0.0, "square": 0.0})
            old["max"] = np.maximum(old["max"], new["max"])
            old["min"] = np.minimum(old["min"], new["min"])
            for key in ("zeros", "mean", "square"):
                old[key] += n * float(new[key])
        count += n
    return {
        name: Activity(
            len(x["max"]),
            int((x["max"] <= 0).sum()),
            int((x["max"] == x["min"]).sum()),
            x["zeros"] / count,
            x["mean"] / count,
            float(np.sqrt(max(0.0, x["square"] / count - (x["mean"] / count) ** 2))),
        )
        for name in order
        if (x := total[name])
    }


def receptive_fields(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, int]:
    """Side of the receptive field of a cell, in pixels, by layer; only of layers that are maps."""
    layers = summarize(model, input_size).layers
    return {
        layer.name: max(layer.field.size)
        for layer in layers
        if layer.field != WHOLE and layer.kind != "dense"
    }


def flat(heat: np.ndarray) -> bool:
    """Whether a heat map says the same of all places: nothing, as far as one can see."""
    positive = np.maximum(heat, 0)
    return bool(np.ptp(positive) <= 0.05 * positive.max())


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """A heat map over an image: (H, W, 3) uint8.

    Args:
        image: (H, W, C) uint8.
        heat: (h, w), which is resized to the image and divided by its maximum. A flat one leaves
            the image as it is.
        strength: the opacity of the hottest place.
    """
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    positive = np.zeros_like(heat) if flat(heat) else np.maximum(heat, 0)
    scaled = Image.fromarray((positive / max(positive.max(), 1e-12)).astype(np.float32))
    smooth = np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR))
    colour = matplotlib.colormaps["inferno"](np.clip(smooth, 0, 1))[..., :3]
    base = np.broadcast_to(image, (height, width, 3)) / 255
    opacity = strength * smooth[..., None]
    return (255 * ((1 - opacity) * base + opacity * colour).clip(0, 1)).round().astype(np.uint8)
