"""A network that is ready to answer: of a run, or of published weights."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

import cnnjax
from cnnjax.spelling import choice
from cnnjax.weights import imagenet
from cnnjax.weights.network import PROBABILITIES
from train.build import DTYPES, build_preprocess
from train.config import Data, Transform
from train.data.transforms import STYLES, from_preprocessing
from train.errors import CheckpointError, DataError, UserError
from train.run import Run


class Classifier(NamedTuple):
    """A network with its variables, its preprocessing and its classes."""

    name: str  # of the model
    label: str  # of the variables: the checkpoint's step, or the file of the weights
    model: nn.Module
    variables: Any
    preprocess: Callable  # uint8 (N, H, W, C) to what the network reads
    data: Data  # the images that it was made for: size (0 unless square), transform, source
    image_shape: tuple[int, int, int]  # (H, W, C) that the network reads
    classes: tuple[str, ...] | None  # None: the weights do not say
    multi_label: bool = False  # several labels an image: each class has a probability of its own

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """(N, K) of logits: the softmax or, with several labels an image, the sigmoid."""
        return jax.nn.sigmoid(logits) if self.multi_label else jax.nn.softmax(logits)

    def log_probabilities(self, logits: jax.Array) -> jax.Array:
        """The logarithms of `probabilities`."""
        return jax.nn.log_sigmoid(logits) if self.multi_label else jax.nn.log_softmax(logits)


def from_run(
    run: Run, step: str = "latest", *, raw: bool = False, dtype: str = "", source: str = ""
) -> Classifier:
    """The network of a checkpoint.

    Args:
        run: the run folder.
        step: "latest", "best" or a number.
        raw: take the parameters themselves where the run keeps moving averages of them.
        dtype: the compute type, "float32" or "bfloat16"; the run's own by default.
        source: other images than the run's own ("-" where no source has them). They are scaled to
            what the network reads: as the config says, or whole where the run's own images came
            in one size.

    Raises:
        CheckpointError: the run has no such checkpoint.
        UserError: the compute type is unknown.
    """
    number, variables = run.restore(step, raw=raw)
    height, width, channels = run.image_shape
    images = run.config.data
    if source:
        size = height if height == width else 0
        transform = images.transform if images.size else Transform(fraction=1.0)
        images = dataclasses.replace(
            images, source=source, size=size, channels=channels, transform=transform
        )
    return Classifier(
        name=run.config.model.name,
        label=str(number),
        model=with_dtype(run.model, dtype),
        variables=variables,
        preprocess=build_preprocess(run.config, channels),
        data=images,
        image_shape=run.image_shape,
        classes=run.class_names,
        multi_label=run.multi_label,
    )


def from_weights(
    path: str,
    model: str | None,
    source: str,
    *,
    images: Data | None = None,
    transform: Transform | None = None,
    dtype: str = "",
) -> Classifier:
    """The network of a file of weights, with the options and the preprocessing that it needs.

    Args:
        path: the file.
        model: the name in the registry; None where the file says it.
        source: who wrote the file: "keras", "torchvision", "timm", "slim", "cnnjax".
        images: where the images come from, and their size where it is not that of the weights.
        transform: takes the place of the weights' own resize and crop. Images that are not square
            are scaled whole.
        dtype: the compute type, "float32" or "bfloat16"; float32 by default.

    Raises:
        CheckpointError: the file cannot be read, does not fit the model, or leaves parameters
            without values.
        UserError: the compute type is unknown, or the transform cuts squares for a network that
            reads none.
    """
    from cnnjax import weights

    read = partial(weights.load, path, model, source)
    return _ready(f"--weights={path}", read, images, transform, dtype)


def from_name(
    name: str,
    *,
    images: Data | None = None,
    transform: Transform | None = None,
    dtype: str = "",
) -> Classifier:
    """The network that `cnnjax.pretrained` knows by a name. The rest is as in `from_weights`."""
    return _ready(
        f"--pretrained={name}", partial(cnnjax.pretrained, name), images, transform, dtype
    )


def _ready(
    option: str,
    read: Callable[[], Any],
    images: Data | None,
    transform: Transform | None,
    dtype: str,
) -> Classifier:
    from cnnjax import weights

    path = option.partition("=")[2]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", weights.WeightsWarning)
            loaded = read()
    except (weights.WeightsError, OSError) as error:
        raise CheckpointError(f"{option}: {error}") from None
    except ValueError as error:
        kind = UserError if option.startswith("--pretrained") else CheckpointError
        raise kind(f"{option}: {error}") from None
    for warning in caught:
        if issubclass(warning.category, weights.WeightsWarning):
            print(f"warning: {warning.message}", file=sys.stderr, flush=True)
    if loaded.fresh:
        raise CheckpointError(
            f"{option} has no values for {', '.join(loaded.fresh)}: such a network cannot classify"
        )
    size, own = from_preprocessing(loaded.preprocessing)
    images = images or Data()
    height, width = loaded.image_shape[:2] if loaded.image_shape else (size, size)
    if height == width or images.size:
        height = width = size = images.size or size
    elif transform and (transform.resize or transform.fraction):
        raise UserError(
            f"--resize and --fraction cut squares, but {path} reads images of {height}x{width}"
        )
    else:
        size = 0
    channels = 1 if loaded.preprocessing.channels == "L" else 3
    return Classifier(
        name=loaded.name,
        label=path.rstrip("/").rpartition("/")[2],
        model=with_dtype(loaded.model, dtype),
        variables=loaded.variables,
        preprocess=loaded.preprocessing,
        data=dataclasses.replace(images, size=size, transform=transform or own, channels=channels),
        image_shape=(height, width, channels),
        classes=loaded.class_names,
        multi_label=loaded.origin.get(PROBABILITIES) == "sigmoid",
    )


def to_pretrained(classifier: Classifier) -> Any:
    """The network as `cnnjax.pretrained` returns one. UserError: see `describe`."""
    from cnnjax import weights

    variables = jax.device_get(classifier.variables)
    return weights.Pretrained(
        classifier.model,
        {name: values for name, values in variables.items() if values},
        describe(classifier),
        classifier.classes,
        classifier.name,
        {PROBABILITIES: "sigmoid"} if classifier.multi_label else {},
        image_shape=classifier.image_shape,
    )


def describe(classifier: Classifier) -> Any:
    """A classifier's preprocessing as a `cnnjax.weights.Preprocessing`.

    Raises:
        UserError: it cannot be described as one.
    """
    from cnnjax import weights

    transform, size = classifier.data.transform, classifier.image_shape[0]
    style, published = STYLES.get(transform.style), classifier.preprocess
    if isinstance(published, weights.Preprocessing):
        if not classifier.data.size:  # not square: images are scaled whole
            return published
        values: dict[str, Any] = {"mean": published.mean, "std": published.std}
        channels, unit = published.channels, 1
    else:
        values = getattr(published, "keywords", {})
        channels, unit = "L" if classifier.data.channels == 1 else "RGB", 255
    if style is None or "mean" not in values:
        raise UserError("the file format has no place for this preprocessing")
    fraction = transform.fraction or (0.0 if transform.resize else style.fraction)
    short_side = transform.resize or style.round_short_side(size / 0.875)
    if not fraction and short_side < size:
        raise UserError(f"a crop of {size} does not fit into a short side of {short_side}")
    return weights.Preprocessing(
        size,
        mean=tuple(unit * value for value in values["mean"]),
        std=tuple(unit * value for value in values["std"]),
        resize=None if fraction else short_side,
        fraction=fraction or 1.0,
        interpolation=transform.interpolation or style.interpolation,
        antialias=style.half_pixels is None,
        channels=channels,
    )


def with_dtype(model: nn.Module, dtype: str) -> nn.Module:
    """The model with another compute type; "" leaves it as it is."""
    return (
        model.clone(dtype=DTYPES[choice("--dtype", dtype, DTYPES, UserError)]) if dtype else model
    )


def match_classes(
    classes: Sequence[str], classifier: Classifier, *, subset: bool = False
) -> np.ndarray | None:
    """The network's outputs for the classes of some data.

    Args:
        classes: the names of the data's classes.
        classifier: the network.
        subset: allow data with only some of the network's classes.

    Returns:
        The index of the output for each of the data's classes; None where both have the same
        classes in the same order.

    Raises:
        DataError: the classes differ; the message shows the first differences.
    """
    count, known = classifier.model.num_classes, classifier.classes
    does_not_fit = f"{classifier.data.source} does not fit {classifier.label}"
    if known is None:
        if len(classes) == count:
            return None
        background = abs(len(classes) - count) == 1
        hint = "; one of the two counts a background class before the others" if background else ""
        raise DataError(
            f"{does_not_fit}: the data has {len(classes)} classes ({_first(classes)}), the network "
            f"{count} without names{hint}. --class-names=FILE names them, one a line; then "
            "--subset evaluates on fewer"
        )
    if tuple(known) == imagenet.names() and set(classes) <= set(imagenet.ids()):
        known = imagenet.ids()  # as ImageNet's folders are called
    if tuple(classes) == tuple(known):
        return None
    unknown = set(classes) - set(known)
    if subset and not unknown:
        return np.array([known.index(name) for name in classes])
    differences = [
        f"{i}: {name!r} in the network, {label!r} in the data"
        for i, (name, label) in enumerate(zip(known, classes))
        if name != label
    ]
    hint = "; the network has all of the data's classes: --subset evaluates on those"
    raise DataError(
        f"{does_not_fit}: the network has {len(known)} classes, the data {len(classes)}; "
        f"{'; '.join(differences[:3]) or 'the first ones agree'}{'' if unknown else hint}"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
