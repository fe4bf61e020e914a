"""Prepares data, checks it and shows it.

python -m train.data prepare imagenet2012 --tars=DIR [--out=DIR]
python -m train.data prepare folder DIR OUT [--short-side=256]
python -m train.data check DIR
python -m train.data show --config=configs/lenet_mnist.py [--out=augmented.png] [--config.data.…=…]
python -m train.data stats --config=configs/lenet_mnist.py [--split=train] [--config.data.…=…]
"""

import argparse
import sys
from typing import Any

from train import cli, errors
from train.data.tf import keep_off_accelerators
from train.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    parser = cli.Parser("python -m train.data", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(group, name: str, text: str) -> cli.Parser:
        return group.add_parser(name, help=text, doc=text)

    prepare = command(commands, "prepare", "pack images into ArrayRecord")
    kinds = prepare.add_subparsers(dest="what", required=True)
    imagenet = command(kinds, "imagenet2012", "from the two official tars")
    imagenet.add_argument(
        "--tars",
        required=True,
        help="folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
    )
    imagenet.add_argument(
        "--out", default="", help="where to; TFDS_DATA_DIR or ~/tensorflow_datasets by default"
    )
    folder = command(kinds, "folder", "from a folder of photographs")
    folder.add_argument("dir", help="the folder, as folder:DIR reads it")
    folder.add_argument("out", help="where to")
    folder.add_argument(
        "--short-side",
        type=cli.whole("--short-side", 0),
        default=0,
        help="scale larger images down to this, turned by EXIF; 0: leave them",
    )
    folder.add_argument(
        "--quality",
        type=cli.whole("--quality", 1, 100),
        default=95,
        help="of the JPEG files of scaled images",
    )
    folder.no_effect("without --short-side", lambda args: not args.short_side, "--quality")

    check = command(commands, "check", "list the images that cannot be read")
    check.add_argument("dir", help="any folder; all images below it are checked")

    show = command(commands, "show", "a picture of examples as the network reads them")
    show.add_argument("--out", default="augmented.png", help="the picture")
    show.add_argument(
        "--split", default="", help="the training split by default; val: as evaluation reads it"
    )
    images = cli.whole("--images", 1, 1000)
    show.add_argument("--images", type=images, default=0, help="how many; 4, or 32 of evaluation")
    stats = command(commands, "stats", "classes, mean, standard deviation")
    stats.add_argument("--split", default="", help="the training split by default")
    stats.add_argument(
        "--limit",
        type=cli.whole("--limit"),
        default=10_000,
        help="measure mean and deviation on at most this many images",
    )
    for subparser in (show, stats):
        subparser.add_argument(
            "--config", default="", help="a recipe; --config.data.… options change it"
        )
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs one command and returns its result."""
    args, overrides = make_parser().parse_known_args(argv)
    keep_off_accelerators()
    if overrides and args.command not in ("show", "stats"):
        raise UserError(
            f"unknown argument {overrides[0]!r}; "
            f"python -m train.data {args.command} --help lists them"
        )
    if args.command == "prepare":
        from train.data import prepare

        if args.what == "imagenet2012":
            return prepare.imagenet2012(args.tars, args.out)
        return prepare.pack_folder(args.dir, args.out, args.short_side, args.quality)

    from train.data import look

    if args.command == "check":
        return look.check(args.dir)

    from train import recipe
    from train.config import Config

    if args.config:
        config = recipe.load(args.config, overrides)
    else:
        config = recipe.override(Config(), overrides)
    if args.command == "show":
        return look.show(config, args.out, args.split, args.images)
    return look.stats(config, args.split, args.limit)


def run() -> int:
    """The exit code. `check` ends with that of DataError if there are unreadable images."""
    result: dict[str, Any] = {}

    def command() -> dict[str, Any]:
        result.update(main())
        return result

    return errors.run(command) or (errors.DataError.exit_code if result.get("bad") else 0)


if __name__ == "__main__":
    sys.exit(run())
