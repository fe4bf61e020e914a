"""What is looked at after training: a network with its values, its input and its classes, of a run or published."""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from etils import epath

from train.build import DTYPES, build_preprocess
from train.config import Data, Transform
from train.data.transforms import from_preprocessing
from train.errors import CheckpointError, DataError, UserError
from train.run import Run


class Classifier(NamedTuple):
    """A network that is ready to answer."""

    name: str  # of the model
    label: str  # which values: the checkpoint's step, or the weights' file
    model: nn.Module
    variables: Any
    preprocess: Callable  # uint8 (N, H, W, C) to what the network reads
    data: Data  # the images that it was made for: size, transform, source
    classes: tuple[str, ...] | None  # None: the weights do not say


def from_run(
    run: Run, step: str = "latest", *, raw: bool = False, dtype: str = "", source: str = ""
) -> Classifier:
    """A checkpoint: 'latest', 'best' or a number. `raw`: the parameters themselves where the run keeps moving averages.

    For the run's own data, or for other images (`source`, "-" where no source has them). Other images are scaled to what
    the network reads: as the config says, or, where the run's own came in one size, whole.
    """
    number, variables = run.restore(step, raw=raw)
    size, _, channels = run.image_shape
    images = run.config.data
    if source:
        transform = images.transform if images.size else Transform(fraction=1.0)
        images = dataclasses.replace(
            images, source=source, size=size, channels=channels, transform=transform
        )
    preprocess, model = build_preprocess(run.config, channels), with_dtype(run.model, dtype)
    return Classifier(
        run.config.model.name, str(number), model, variables, preprocess, images, run.class_names
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
    """Published weights, with the options, the resize, the crop and the values that they were trained with.

    `images` says where they come from, and another size if it has one; `transform` takes the place of the weights' own.
    """
    from cnnjax import weights

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", weights.WeightsWarning)
            loaded = weights.load(path, model, source)
    except (weights.WeightsError, ValueError, OSError) as error:
        raise CheckpointError(f"--weights={path}: {error}") from None
    for warning in caught:
        if issubclass(warning.category, weights.WeightsWarning):
            print(f"warning: {warning.message}", file=sys.stderr, flush=True)
    if loaded.fresh:
        raise CheckpointError(
            f"--weights={path} has no values for {', '.join(loaded.fresh)}: there is nothing to ask it"
        )
    size, own = from_preprocessing(loaded.preprocessing)
    images = images or Data()
    channels = 1 if loaded.preprocessing.channels == "L" else 3
    config = dataclasses.replace(
        images, size=images.size or size, transform=transform or own, channels=channels
    )
    return Classifier(loaded.name, path.rpartition("/")[2], with_dtype(loaded.model, dtype), loaded.variables,
                   loaded.preprocessing, config, loaded.class_names)  # fmt: skip


def with_dtype(model: nn.Module, dtype: str) -> nn.Module:
    if dtype not in ("", *DTYPES):
        raise UserError(f"--dtype is float32 or bfloat16, got {dtype!r}")
    return model.clone(dtype=DTYPES[dtype]) if dtype else model


def match_classes(
    theirs: Sequence[str], subject: Classifier, *, subset: bool = False
) -> np.ndarray | None:
    """The network's classes that are the data's, in the data's order; None where they are the same, one by one.

    DataError shows the first differences. `subset` allows data with fewer classes than the network knows by name.
    """
    count, ours = subject.model.num_classes, subject.classes
    where = f"{subject.data.source} does not fit {subject.label}"
    if ours is not None and len(ours) < count:  # outputs that were never trained
        ours = ours + tuple(f"output {i}" for i in range(len(ours), count))
    if (
        ours is not None
        and tuple(theirs) == tuple(ours[: len(theirs)])
        and len(theirs) == len(subject.classes or ())
    ):
        return None
    if ours is None:
        if len(theirs) == count:
            return None
        hint = ""
        if abs(len(theirs) - count) == 1:
            hint = "; one of the two counts a background class before the others"
        raise DataError(
            f"{where}: the data has {len(theirs)} classes ({_shown(theirs)}), the network {count} without names{hint}. "
            "--class-names=FILE names them, one a line; then --subset evaluates on fewer"
        )
    unknown = [name for name in theirs if name not in ours]
    if subset and not unknown:
        return np.array([ours.index(name) for name in theirs])
    pairs = [
        f"{i}: {a!r} there, {b!r} in the data"
        for i, (a, b) in enumerate(zip(ours, theirs))
        if a != b
    ]
    counts = f"the network has {len(subject.classes or ())} classes, the data {len(theirs)}"
    hint = (
        ""
        if unknown
        else "; all of the data's classes are among the network's: --subset evaluates on those"
    )
    raise DataError(f"{where}: {counts}; {'; '.join(pairs[:3]) or 'the first ones agree'}{hint}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")


# ---------------------------------------------------------------------------------------------- the command line


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The options that say which network: a run folder, or published weights."""
    parser.add_argument("--workdir", nargs="+", default=[], help="a run folder, or several")
    parser.add_argument(
        "--step",
        default="latest",
        help="latest, best, a number, or several with commas between them",
    )
    parser.add_argument(
        "--raw", action="store_true", help="the parameters, where the run keeps moving averages"
    )
    parser.add_argument(
        "--weights", nargs="+", default=[], help="a file of published weights, or several"
    )
    parser.add_argument("--model", nargs="+", default=[], help="the model of each of them")
    parser.add_argument(
        "--source",
        nargs="+",
        default=["cnnjax"],
        help="who wrote each: keras, torchvision, timm, slim…",
    )
    parser.add_argument(
        "--class-names",
        default="",
        help="a file with the names of the weights' classes, one a line",
    )
    parser.add_argument(
        "--size", type=int, default=0, help="side of the images that the network reads"
    )
    parser.add_argument(
        "--style", default="", help="another evaluation transform than that of the weights"
    )
    parser.add_argument(
        "--resize",
        type=int,
        default=0,
        help="length of the short side before the centre is cut out",
    )
    parser.add_argument(
        "--fraction", type=float, default=0.0, help="central part of both sides; 1: the whole image"
    )
    parser.add_argument("--interpolation", default="", help="bilinear or bicubic")
    parser.add_argument("--dtype", default="", help="compute type: float32 or bfloat16")


def published(args: argparse.Namespace, source: str = "") -> list[Classifier]:
    """The subjects that `--weights` and its options name."""

    def of_each(values: list, name: str) -> list:
        if len(values) not in (1, len(args.weights)):
            raise UserError(f"--{name} has {len(values)} values for {len(args.weights)} --weights")
        return values * (len(args.weights) // len(values))

    transform = None
    if args.style or args.resize or args.fraction or args.interpolation:
        transform = Transform(
            args.style or Transform().style, args.resize, args.fraction, args.interpolation
        )
    images = Data(source=source, size=args.size, eval_batch_size=32)
    rows = zip(args.weights, of_each(args.model or [None], "model"), of_each(args.source, "source"))
    found = [
        from_weights(*row, images=images, transform=transform, dtype=args.dtype) for row in rows
    ]
    if args.class_names:
        names = read_names(args.class_names)
        for each in found:
            if len(names) != each.model.num_classes:
                raise UserError(
                    f"{args.class_names} has {len(names)} names for {each.model.num_classes} classes"
                )
        found = [each._replace(classes=names) for each in found]
    return found


def read_names(path: str) -> tuple[str, ...]:
    try:
        return tuple(
            line.strip() for line in epath.Path(path).read_text().splitlines() if line.strip()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names={path} cannot be read: {error}") from None


def one_of(args: argparse.Namespace, *names: str) -> None:
    """UserError unless exactly one of the options is there."""
    if sum(bool(getattr(args, name)) for name in names) != 1:
        raise UserError(f"either {' or '.join('--' + name for name in names)} is needed")
