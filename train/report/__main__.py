"""Makes `report.html` of a run folder: one self-contained page of its curves, its numbers, and what the network sees.

python -m train.report --workdir=runs/lenet [--step=best]
python -m train.report --compare runs/a runs/b [--out=compare.html]     # curves of several runs, and how their configs differ
"""

import sys

from train import cli, errors
from train.errors import UserError
from train.report.pages import compare, write_report


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.report", __doc__)
    parser.add_argument("--workdir", default="", help="a run folder")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="RUN", help="several run folders, on one page"
    )
    parser.add_argument("--out", default="compare.html", help="the page of --compare")
    parser.add_argument(
        "--images", type=int, default=500, help="examples to look into the network with; 0: none"
    )
    parser.add_argument("--step", default="latest", help="latest, best or a number")
    args = parser.parse_args(argv)
    if bool(args.workdir) == bool(args.compare):
        raise UserError("either --workdir or --compare is needed")
    return (
        compare(args.compare, args.out)
        if args.compare
        else write_report(args.workdir, args.step, args.images)
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
