"""Evaluates checkpoints of run folders, or published weights, by the protocols of the papers.

python -m train.evaluate --workdir=runs/lenet [--step=best] [--split=test] [--protocol=ten_crop]
python -m train.evaluate --workdir runs/a runs/b --step=latest                 # several: their mean, as an ensemble
python -m train.evaluate --weights=vgg16.h5 --source=keras --model=vgg16 --data=folder:photos [--protocol=dense]
python -m train.evaluate --compare a/eval/center-900.csv b/eval/center-900.csv # do the two differ?

Writes eval/<protocol>-<step>.json into the run folder (the first of several), or into --out.
"""

import sys
from typing import Any

from etils import epath

from train import classifier, cli, data, errors
from train.config import Data
from train.errors import UserError
from train.evaluate import protocols
from train.evaluate.evaluation import compare, evaluate_all, from_runs, short, watch
from train.start import start


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UserError(f"--scales are numbers with commas between them, got {text!r}") from None


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.evaluate", __doc__)
    classifier.add_weights(parser)
    parser.add_argument(
        "--data",
        default="",
        help="the source, as data.source of a config; by default that of the run",
    )
    parser.add_argument(
        "--split", default="", help="a split of the data; the evaluation split by default"
    )
    parser.add_argument(
        "--protocol", default="center", help=f"how to look: {', '.join(protocols.PROTOCOLS)}"
    )
    parser.add_argument(
        "--scales", default="", help="short sides for several crops, as 256,384,512"
    )
    parser.add_argument(
        "--average", default="probabilities", help="over crops: of probabilities or logits"
    )
    parser.add_argument(
        "--subset", action="store_true", help="the data may have fewer classes than the network"
    )
    parser.add_argument("--batch-size", type=int, default=0, help="crops at once")
    parser.add_argument(
        "--devices", type=int, default=0, help="how many of the local devices; 0: all"
    )
    parser.add_argument(
        "--watch", action="store_true", help="each new checkpoint of a running job, until it ends"
    )
    parser.add_argument(
        "--predictions", default="", help="csv or parquet: also write each image's answer"
    )
    parser.add_argument(
        "--out",
        default="",
        help="folder for the results; by default the run folder's eval, or none",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        default=[],
        metavar="CSV",
        help="two files of predictions of the same images",
    )
    args = parser.parse_args(argv)
    classifier.one_of(args, "workdir", "weights", "compare")
    if args.compare:
        return compare(*args.compare)
    start()
    options: dict[str, Any] = dict(
        protocol=args.protocol, scales=numbers(args.scales), average=args.average, subset=args.subset,
        batch=args.batch_size, devices=args.devices, predictions=args.predictions,
    )  # fmt: skip
    if args.watch:
        if len(args.workdir) != 1:
            raise UserError("--watch needs one --workdir")
        return short(watch(args.workdir[0], args.split, raw=args.raw, dtype=args.dtype, **options))
    if args.workdir:
        subjects, split, split_name, folder = from_runs(
            args.workdir, args.step, args.split, source=args.data, raw=args.raw, dtype=args.dtype
        )
    else:
        if not args.data:
            raise UserError("--weights needs --data=SOURCE: folder:DIR, tfds:NAME, npz:FILE, …")
        split_name, folder = args.split or Data().eval_split, None
        split, subjects = data.load(args.data, split_name), classifier.published(args, args.data)
    result = evaluate_all(
        subjects, split, split_name, epath.Path(args.out) if args.out else folder, **options
    )
    return short(result)


if __name__ == "__main__":
    sys.exit(errors.run(main))
