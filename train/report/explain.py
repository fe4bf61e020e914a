"""What a network looks at and what it has learned, as arrays; `train.report` draws them.

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
    """The same network computing in float32."""
    return model.clone(dtype=None) if getattr(model, "dtype", None) is not None else model


def stages(model: nn.Module, variables: Any, images: Any) -> dict[str, tuple[int, ...]]:
    """The stages (`cnnjax.stages`) in the network's order, with their shapes; nothing is computed."""
    found: dict[str, tuple[int, ...]] = {}

    def trace(variables, images):
        _, maps = apply_with_stages(model, variables, images, train=False)
        found.update((name, x.shape) for name, x in maps.items())

    jax.eval_shape(trace, variables, images)
    return found


def last_map(model: nn.Module, variables: Any, images: Any) -> str:
    """The last stage that still has a place for things: a map of more than one cell."""
    maps = [
        name
        for name, shape in stages(model, variables, images).items()
        if len(shape) == 4 and min(shape[1:3]) > 1
    ]
    if not maps:
        raise ValueError("the network has no layer that returns a map")
    return maps[-1]


def feature_maps(model: nn.Module, variables: Any, images: Any, stage: str) -> np.ndarray:
    """(N, h, w, C) of one stage; ValueError names those that there are."""
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
    """(N, h, w) >= 0: where the stage speaks for the class of each image. Selvaraju et al. 2017.

    The channels of the map, weighted by the mean gradient of the class's logit, summed, what is negative cut off. By
    default the stage is the last that has a place for things.
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
) -> np.ndarray:
    """(N, h, w): by how much the probability of the class falls when a square at that place is covered.

    Zeiler, Fergus 2014. `fill` is the colour of the square as the network reads it; places are every `stride` pixels.
    """
    network, classes = exact(model), jnp.asarray(classes)
    height, width = images.shape[1:3]
    tops, lefts = range(0, height - size + 1, stride), range(0, width - size + 1, stride)

    @jax.jit
    def probability(variables, images):
        logits = network.apply(variables, images, train=False).logits
        return jnp.take_along_axis(jax.nn.softmax(logits), classes[:, None], axis=-1)[:, 0]

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
    """(Q, k): the rows of `features` (N, D) that point most in the direction of each query (Q, D), nearest first."""
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    own = queries / np.maximum(np.linalg.norm(queries, axis=-1, keepdims=True), 1e-12)
    return np.argsort(-(own @ unit.T), axis=-1, kind="stable")[:, :k]


def features(model: nn.Module, variables: Any, batches: Iterable[Any]) -> np.ndarray:
    """(N, D): what the classifier reads."""
    run = jax.jit(
        lambda variables, images: exact(model).apply(variables, images, train=False).features
    )
    return np.concatenate([np.asarray(run(variables, images)) for images in batches])


class Activity(NamedTuple):
    """How the units (channels) of one stage behave over a set of images."""

    units: int
    dead: int  # never above zero
    constant: int  # the same everywhere, dead ones included
    zeros: float  # share of all values that are exactly zero
    mean: float
    std: float


def activity(model: nn.Module, variables: Any, batches: Iterable[Any]) -> dict[str, Activity]:
    """The activations of every stage, in the network's order, over all images."""
    network = exact(model)

    @jax.jit
    def measure(variables, images):
        _, maps = apply_with_stages(network, variables, images, train=False)

        def of(x):
            x = x.astype(jnp.float32).reshape(-1, x.shape[-1])
            return {
                "max": x.max(0),
                "min": x.min(0),
                "zeros": (x == 0).mean(),
                "mean": x.mean(),
                "square": (x * x).mean(),
            }

        return {name: of(x) for name, x in maps.items()}

    order: list[str] = []
    total: dict[str, dict[str, Any]] = {}
    count = 0
    for images in batches:
        order = order or list(stages(model, variables, images))
        n = len(images)
        for name, new in jax.device_get(measure(variables, images)).items():
            old = total.setdefault(
                name,
                {"max": new["max"], "min": new["min"], "zeros": 0.0, "mean": 0.0, "square": 0.0},
            )
            old["max"], old["min"] = (
                np.maximum(old["max"], new["max"]),
                np.minimum(old["min"], new["min"]),
            )
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
    """Layer -> side of the square of the input that one of its cells sees, of the layers that still have cells."""
    layers = summarize(model, input_size).layers
    return {
        layer.name: max(layer.field.size)
        for layer in layers
        if layer.field != WHOLE and layer.kind != "dense"
    }


def overlay(
    image: np.ndarray, heat: np.ndarray, strength: float = 0.55, colours: Callable | None = None
) -> np.ndarray:
    """A heat map (h, w) over an image (H, W, C) uint8, scaled to it and to its own maximum: (H, W, 3) uint8."""
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    positive = np.maximum(heat, 0)
    scaled = positive / max(positive.max(), 1e-12)
    smooth = np.asarray(
        Image.fromarray(scaled.astype(np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
    )
    colour = (colours or matplotlib.colormaps["inferno"])(np.clip(smooth, 0, 1))[..., :3]
    base = np.broadcast_to(image, (height, width, 3)) / 255
    share = strength * smooth[..., None]
    return (255 * ((1 - share) * base + share * colour).clip(0, 1)).round().astype(np.uint8)
