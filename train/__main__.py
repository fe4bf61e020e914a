"""Trains a recipe in a run folder; the same command resumes it.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet --config.optim.lr=0.1
"""

import argparse
import functools
import gc
import sys

from train import errors, memory


class Parser(argparse.ArgumentParser):
    """Its help lists the recipe's options, which are read off the source only when somebody asks."""

    def format_help(self) -> str:
        from train.config import describe

        options = (f"  {flag}={default}\n      {comment}" for flag, default, comment in describe())
        return "\n".join([super().format_help(), "options of a recipe:", *options, ""])


def main(argv: list[str] | None = None, *, alone: bool = False) -> dict:
    """`alone`: the process does nothing else, and what it compiles can be kept for its next start."""
    parser = Parser(
        prog="python -m train",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument(
        "--config", required=True, help="a recipe: a Python file with get_config(), optionally file.py:argument"
    )
    parser.add_argument(
        "--workdir", required=True, help="the run folder: made if it is missing, resumed if it holds this run"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="compile one step and tell what it takes, without reading images or writing",
    )
    cluster = parser.add_argument_group("several processes (found by themselves under SLURM, Open MPI and on TPU pods)")
    cluster.add_argument("--coordinator", default="", help="HOST:PORT of process 0, the same for all")
    cluster.add_argument("--num-processes", type=int, default=0, help="how many there are")
    cluster.add_argument("--process-id", type=int, default=-1, help="which of them this is, from 0")
    args, overrides = parser.parse_known_args(argv)

    from train import recipe

    config = recipe.load(args.config, overrides)

    from train import loop, parallel  # jax takes half a second, which --help and a mistyped flag need not wait for

    parallel.connect(args.coordinator, args.num_processes, args.process_id)
    try:
        if args.dry_run:
            from train import dry_run

            return dry_run.dry_run(config)
        return loop.train(config, args.workdir, recipe=args.config if alone else "")
    except errors.UserError as error:
        parallel.leaving.append(error.exit_code)
        raise


if __name__ == "__main__":
    memory.start_with_large_pages("train")
    gc.set_threshold(1_000_000)  # not 700 objects: what a start makes stays, and looking through it took a tenth of it
    sys.exit(errors.run(functools.partial(main, alone=True)))
