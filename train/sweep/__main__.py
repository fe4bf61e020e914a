"""Trains a grid of options with several seeds, and writes the table of results.

python -m train.sweep --config=configs/lenet_mnist.py --workdir=runs/rates --seeds=3 \\
    --grid.optim.lr=0.1,0.01 --config.epochs=5
cnnjax sweep lineage_mnist5k --workdir=runs/lineage --grid.recipe=lenet5,inception_v1

Each run has a folder of its own in --workdir. The same command resumes: finished runs are not
trained again. The table compares every setting with the first one, paired by seed.
"""

import json
import sys

from train import cli, errors, files
from train.run import make_folder
from train.sweep import grid, results, training


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.sweep", __doc__)
    add = parser.add_argument
    add("--config", default="", help="a recipe, as in python -m train; --config.KEY=VALUE for all")
    add("--workdir", required=True, help="the folder of the run folders, sweep.json and sweep.md")
    add("--seeds", type=cli.whole("--seeds", 1, 1000), default=1, help="runs of each setting")
    add("--jobs", type=cli.whole("--jobs", 1, 1000), default=1, metavar="N", help=cli.JOBS)
    add("--metric", default="top1", help="of the last evaluation: top1, loss, f1, …")
    parser.epilog = (
        "--grid.KEY=A,B: the values of an option; several grids are crossed. "
        "--grid.recipe=A,B: of the recipe's argument"
    )
    args, others = parser.parse_known_args(argv)
    values, overrides = grid.parse_grid(others)
    named = next((text for text in overrides if not text.startswith("-")), "")
    if not args.config and named:
        overrides.remove(named)
    if not (args.config or named):
        parser.error("which recipe? --config=FILE, or the name of one that cnnjax recipes lists")
    runs = grid.plan(args.config or named, args.workdir, values, overrides, args.seeds)
    folder = make_folder(args.workdir)
    failed = training.train(runs, args.jobs)
    rows = results.summarize(runs, args.metric)
    text = cli.printable(results.table(rows, args.metric))
    summary = {
        "metric": args.metric,
        "settings": rows,
        "failed": {name: why for name, (why, _) in failed.items()},
        "table": str(folder / "sweep.md"),
    }
    files.write(folder / "sweep.json", json.dumps(summary, indent=1))
    files.write(folder / "sweep.md", text + "\n")
    print(text, file=sys.stderr, flush=True)
    if failed:
        print(errors.json_line(summary), flush=True)
        listed = "; ".join(f"{name}: {why}" for name, (why, _) in failed.items())
        code = next(iter(failed.values()))[1]
        raise training.Failed(f"{len(failed)} of {len(runs)} runs failed. {listed}", code)
    return summary


if __name__ == "__main__":
    sys.exit(errors.run(main, "interrupted. Run the same command to resume."))
