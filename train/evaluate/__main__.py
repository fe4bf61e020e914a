"""Evaluates checkpoints of run folders, or published weights, by the protocols of the papers.

python -m train.evaluate --workdir=runs/lenet [--step=best] [--split=test] [--protocol=ten_crop]
python -m train.evaluate --workdir runs/a runs/b           # several networks: as an ensemble
python -m train.evaluate --workdir=runs/lenet --watch      # each new checkpoint of a running job
python -m train.evaluate --pretrained=timm/inception_v3 --data=folder:imagenette2 --subset
python -m train.evaluate --weights=vgg16.h5 --source=keras --model=vgg16 --data=folder:photos
python -m train.evaluate --compare a/eval/center-900.csv b/eval/center-900.csv

Writes eval/<protocol>-<step>.json into the run folder (the first of several), or into --out.
--compare tests whether two networks differ, by their --predictions=csv.
"""

import sys
from typing import Any

from etils import epath

from train import cli, data, errors
from train.config import Data
from train.data.sources.arrays import split_kind
from train.data.sources.folder import check_folder, splits_of
from train.errors import UserError, tell
from train.evaluate.evaluation import evaluate_all, from_runs, short, watch
from train.evaluate.predictions import compare
from train.evaluate.protocols import PROTOCOLS
from train.options import add_weights, one_of, published
from train.run import Run
from train.start import start


def numbers(text: str) -> tuple[int, ...]:
    """The values of --scales."""
    return tuple(map(cli.whole("--scales", 1, cli.PIXELS), filter(None, text.split(","))))


def make_parser() -> cli.Parser:
    parser = cli.Parser("python -m train.evaluate", __doc__)
    add_weights(parser, several=True)
    add = parser.add_argument
    add("--data", default="", help="data.source of a config; by default that of the run")
    add("--split", default="", help="a split of the data; by default the evaluation split")
    add("--protocol", default="center", help=f"which crops: {', '.join(PROTOCOLS)}")
    add("--scales", type=numbers, default=(), help="short sides for several crops, as 256,384,512")
    add("--average", default="probabilities", help="over crops: of probabilities or logits")
    add("--subset", action="store_true", help="allow data with only some of the classes")
    batch, devices = cli.whole("--batch-size", 1, cli.BATCH), cli.whole("--devices", 0)
    add("--batch-size", type=batch, default=0, help="crops at once")
    add("--devices", type=devices, default=0, help="how many of the local devices; 0: all")
    add("--watch", action="store_true", help="each new checkpoint of a running job, until it ends")
    add("--predictions", default="", help="csv or parquet: also write each image's answer")
    add("--out", default="", help="folder for the results; by default eval in the run folder")
    add(
        "--compare",
        nargs=2,
        default=[],
        metavar="CSV",
        help="two files of predictions for the same images",
    )
    comparing = parser.all_but("--compare")
    parser.no_effect("with --compare", lambda args: args.compare, *comparing)
    parser.no_effect("with --watch", lambda args: args.watch, "--step")
    parser.no_effect(
        "without --workdir or --out", lambda args: not (args.workdir or args.out), "--predictions"
    )
    return parser


def main(argv: list[str] | None = None) -> dict:
    args = make_parser().parse_args(argv)
    one_of(args, "workdir", "weights", "compare", "pretrained")
    if args.compare:
        return compare(*args.compare)
    start()
    folder = epath.Path(args.out) if args.out else None
    options: dict[str, Any] = dict(
        protocol=args.protocol,
        scales=args.scales,
        average=args.average,
        subset=args.subset,
        batch=args.batch_size,
        devices=args.devices,
        predictions=args.predictions,
    )
    if args.watch:
        if len(args.workdir) != 1:
            raise UserError("--watch needs one --workdir")
        if args.data and not args.split:
            tell_of_fifth(args.data, Run(args.workdir[0]).config.data.eval_split)
        options |= dict(source=args.data, folder=folder, raw=args.raw, dtype=args.dtype)
        return short(watch(args.workdir[0], args.split, **options))
    if args.workdir:
        classifiers, split, split_name, of_run = from_runs(
            args.workdir, args.step, args.split, source=args.data, raw=args.raw, dtype=args.dtype
        )
        folder = folder or of_run
    else:
        if not args.data:
            owner = "--weights" if args.weights else "--pretrained"
            raise UserError(f"{owner} needs --data=SOURCE: folder:DIR, tfds:NAME, npz:FILE, …")
        split_name = args.split or Data().eval_split
        split, classifiers = data.load(args.data, split_name), published(args, args.data)
    if not args.split:
        tell_of_fifth(args.data, split_name)
    return short(evaluate_all(classifiers, split, split_name, folder, **options))


def tell_of_fifth(source: str, split: str) -> None:
    """Warns that a folder without splits is evaluated only in part."""
    path = source.removeprefix("folder:")
    if path == source or split_kind(split) not in ("val", "test"):
        return
    if not splits_of(check_folder(path), path):
        tell(
            f"{path} has no folder train: a fifth of its images, by their names, is evaluated; "
            "--split=all takes all"
        )


if __name__ == "__main__":
    sys.exit(errors.run(main))
