"""Writes `report.html` of a run folder: one page of curves, numbers and what the network looks at.

python -m train.report --workdir=runs/lenet [--step=best]
python -m train.report --compare runs/a runs/b [--out=compare.html]

--compare puts the curves of several runs on one page, and how their configs differ.
"""

import sys

from train import cli, errors
from train.errors import UserError
from train.report.compare import compare
from train.report.pages import write_report


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.report", __doc__)
    add = parser.add_argument
    add("--workdir", default="", help="a run folder")
    add("--compare", nargs="+", default=[], metavar="RUN", help="several run folders, on one page")
    add("--out", default="compare.html", help="the page of --compare")
    examples, images = "examples to look into the network with; 0: none", cli.whole("--images", 0)
    add("--images", type=images, default=500, help=examples)
    add("--step", default="latest", help="latest, best or a number")
    parser.no_effect("with --compare", lambda args: args.compare, "--images", "--step")
    parser.no_effect("without --compare", lambda args: not args.compare, "--out")
    args = parser.parse_args(argv)
    if bool(args.workdir) == bool(args.compare):
        raise UserError("either --workdir or --compare is needed")
    if args.compare:
        return compare(args.compare, args.out)
    return write_report(args.workdir, args.step, args.images)


if __name__ == "__main__":
    sys.exit(errors.run(main))
