"""The options of commands that name a network: run folders, names, files of weights."""

import argparse
from typing import Any

from etils import epath

from train import cli, files
from train.classifier import Classifier, from_name, from_run, from_weights
from train.config import Data, Transform
from train.errors import UserError
from train.run import Run

OF_RUNS = ("--step", "--raw")
TRANSFORM = ("--style", "--resize", "--fraction", "--interpolation")
OF_FILES = ("--model", "--source")
OF_WEIGHTS = ("--class-names", "--size", *TRANSFORM)


def add_weights(parser: cli.Parser, *, several: bool = False) -> None:
    """Adds the options that name a network, or `several`: run folders, or published weights."""
    listed: dict[str, Any] = dict(nargs="+" if several else 1, default=[])
    or_several = ", or several" if several else ""
    steps = "latest, best, a number, or several with commas between"
    add = parser.add_argument
    add("--workdir", **listed, help=f"a run folder{or_several}")
    add("--step", default="latest", help=steps if several else "latest, best or a number")
    add("--raw", action="store_true", help="the parameters, where the run keeps moving averages")
    names = "inception_v3, timm/inception_v3.gluon_in1k, a file or a run folder"
    add("--pretrained", **listed, help=f"a network by name{or_several}: {names}")
    add("--weights", **listed, help=f"a file of published weights{or_several}")
    add("--model", **listed, help="the model of each file")
    add("--source", **listed, help="who wrote each file: cnnjax, keras, torchvision, timm, slim…")
    add("--class-names", default="", help="a file that names the weights' classes, one a line")
    size, resize = (cli.whole(name, 1, cli.PIXELS) for name in ("--size", "--resize"))
    add("--size", type=size, default=0, help="side of the images that the network reads")
    add("--style", default="", help="another evaluation transform than that of the weights")
    add("--resize", type=resize, default=0, help="length of the short side before the central crop")
    fraction = cli.share("--fraction")
    add("--fraction", type=fraction, default=0.0, help="central part of both sides; 1: all of it")
    add("--interpolation", default="", help="bilinear or bicubic")
    add("--dtype", default="", help="compute type: float32 or bfloat16")
    parser.no_effect("without --workdir", lambda args: not args.workdir, *OF_RUNS)
    parser.no_effect("without --weights", lambda args: not args.weights, *OF_FILES)
    parser.no_effect(
        "without --pretrained or --weights",
        lambda args: not (args.pretrained or args.weights),
        *OF_WEIGHTS,
    )


def published(args: argparse.Namespace, source: str = "") -> list[Classifier]:
    """The networks that `--pretrained`, or `--weights` and its options name."""

    def for_each(values: list, name: str) -> list:
        if len(values) not in (1, len(args.weights)):
            raise UserError(f"--{name} has {len(values)} values for {len(args.weights)} --weights")
        return values * (len(args.weights) // len(values))

    transform = None
    if args.style or args.resize or args.fraction or args.interpolation:
        transform = Transform(
            args.style or Transform().style, args.resize, args.fraction, args.interpolation
        )
    images = Data(source=source, size=args.size, eval_batch_size=32)
    options: dict[str, Any] = dict(images=images, transform=transform, dtype=args.dtype)
    classifiers = [from_name(name, **options) for name in args.pretrained]
    if args.weights:
        models = for_each(args.model or [None], "model")
        sources = for_each(args.source or ["cnnjax"], "source")
        files_ = zip(args.weights, models, sources)
        classifiers = [from_weights(*names, **options) for names in files_]
    if not args.class_names:
        return classifiers
    names = read_names(args.class_names)
    for classifier in classifiers:
        count = classifier.model.num_classes
        if len(names) != count:
            raise UserError(f"{args.class_names} has {len(names)} names for {count} classes")
    return [classifier._replace(classes=names) for classifier in classifiers]


def one_classifier(args: argparse.Namespace) -> Classifier:
    """The one network that the options name, for images of any source.

    Raises:
        UserError: they name none, or a run folder and a file.
    """
    one_of(args, "workdir", "weights", "pretrained")
    if not args.workdir:
        return published(args)[0]
    return from_run(Run(args.workdir[0]), args.step, raw=args.raw, dtype=args.dtype, source="-")


def read_names(path: str) -> tuple[str, ...]:
    """The lines of a file, without empty ones."""
    try:
        lines = files.read(epath.Path(path).expanduser()).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names={path} cannot be read: {error}") from None
    return tuple(line.strip() for line in lines if line.strip())


def one_of(args: argparse.Namespace, *names: str) -> None:
    """Raises UserError unless exactly one of the options is given."""
    if sum(bool(getattr(args, name)) for name in names) != 1:
        raise UserError(f"either {' or '.join('--' + name for name in names)} is needed")
