"""Prepares data and looks at it.

python -m train.data prepare imagenet2012 --tars=DIR [--out=DIR]
python -m train.data prepare folder DIR OUT [--short-side=256]
python -m train.data check DIR
python -m train.data show --config=configs/lenet_mnist.py [--out=augmented.png] [--config.data.…=…]
python -m train.data stats --config=configs/lenet_mnist.py [--split=train] [--config.data.…=…]
"""

import sys
from typing import Any

from train import cli, errors
from train.errors import UserError


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = cli.Parser("python -m train.data", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser(
        "prepare", help="pack images into ArrayRecord", allow_abbrev=False
    )
    kinds = prepare.add_subparsers(dest="what", required=True)
    imagenet = kinds.add_parser(
        "imagenet2012", help="from the two official tars", allow_abbrev=False
    )
    imagenet.add_argument(
        "--tars",
        required=True,
        help="folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
    )
    imagenet.add_argument(
        "--out", default="", help="where to; TFDS_DATA_DIR or ~/tensorflow_datasets by default"
    )
    folder = kinds.add_parser("folder", help="from a folder of photographs", allow_abbrev=False)
    folder.add_argument("dir", help="the folder, as folder:DIR reads it")
    folder.add_argument("out", help="where to")
    folder.add_argument(
        "--short-side", type=int, default=0, help="scale larger images down to this; 0: leave them"
    )
    folder.add_argument(
        "--quality", type=int, default=95, help="of the JPEG files of images that were scaled"
    )
    check = commands.add_parser(
        "check", help="list the images that cannot be read", allow_abbrev=False
    )
    check.add_argument("dir", help="any folder; all images below it are looked at")
    for name, what in (
        ("show", "a picture of 4 x 8 training examples"),
        ("stats", "classes, mean, standard deviation"),
    ):
        looking = commands.add_parser(name, help=what, allow_abbrev=False)
        looking.add_argument(
            "--config", default="", help="a recipe; --config.data.… options change it"
        )
        if name == "show":
            looking.add_argument("--out", default="augmented.png", help="the picture")
        else:
            looking.add_argument("--split", default="", help="the training split by default")
            looking.add_argument(
                "--limit",
                type=int,
                default=10_000,
                help="at most so many images for mean and deviation",
            )
    args, overrides = parser.parse_known_args(argv)
    if overrides and args.command not in ("show", "stats"):
        raise UserError(
            f"unknown argument {overrides[0]!r}; python -m train.data {args.command} --help lists them"
        )

    if args.command == "prepare":
        from train.data import prepare as packing

        if args.what == "imagenet2012":
            return packing.imagenet2012(args.tars, args.out)
        return packing.pack_folder(args.dir, args.out, args.short_side, args.quality)

    from train.data import look

    if args.command == "check":
        return look.check(args.dir)
    from train import recipe
    from train.config import Config

    config = (
        recipe.load(args.config, overrides) if args.config else recipe.override(Config(), overrides)
    )
    if args.command == "show":
        return look.show(config, args.out)
    if args.limit < 1:
        raise UserError(f"--limit={args.limit} must be positive")
    return look.stats(config, args.split, args.limit)


def run() -> int:
    """The exit code; a folder with broken images is a mistake in the data, told by the code as well."""
    found: dict[str, Any] = {}

    def command() -> dict[str, Any]:
        found.update(main())
        return found

    return errors.run(command) or (errors.DataError.exit_code if found.get("bad") else 0)


if __name__ == "__main__":
    sys.exit(run())
