"""Trains a recipe in a run folder; the same command resumes it.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet --config.optim.lr=0.1
cnnjax train lenet_mnist --workdir=runs/lenet            # the same by the name of the recipe
"""

import functools
import gc
import os
import signal
import sys

if __name__ == "__main__":  # first of all: a signal may come while the rest is imported
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(75))
    # On a terminal XLA's log, such as its alarm of a slow compilation, would break into the
    # progress line; TF_CPP_MIN_LOG_LEVEL=0 shows it.
    if sys.stderr and sys.stderr.isatty():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from train import cli, errors
from train.runtime import malloc
from train.runtime.signals import Interrupt

DAY = 24 * 60 * 60


class Parser(cli.Parser):
    """Its help lists the recipe's options, read off the source only then."""

    def format_help(self) -> str:
        from train.config import describe

        rows = (f"  {flag}={default}\n      {comment}" for flag, default, comment in describe())
        return "\n".join([super().format_help(), "options of a recipe:", *rows, ""])


def parse(argv: list[str] | None) -> tuple:
    """(the command's own options, overrides of the recipe)."""
    parser = Parser("python -m train", __doc__)
    add = parser.add_argument
    add(
        "--config",
        default="",
        help="a recipe: a Python file with get_config(), optionally file.py:argument, or a name, "
        "as in inception_v3:tpu",
    )
    add(
        "--workdir",
        required=True,
        help="the run folder: made if it is missing, resumed if it holds this run",
    )
    add(
        "--dry_run",
        action="store_true",
        help="compile one step and tell what it takes, without reading images or writing",
    )
    add(
        "--topology",
        default="",
        help="with --dry_run: TPUs or GPUs that are not here, as in v5e:8x8 or h100:8; several: "
        "v5e:4x4,v5e:8x8",
    )
    cluster = parser.add_argument_group(
        "several processes (SLURM, Open MPI and TPU pods are recognised)"
    )
    cluster.add_argument(
        "--coordinator",
        default="",
        help="HOST:PORT of process 0; auto: jax finds the others itself, as on TPU VMs",
    )
    size, rank = cli.whole("--num-processes", 0, 2**20), cli.whole("--process-id", -1, 2**20)
    cluster.add_argument("--num-processes", type=size, default=0, help="how many there are")
    cluster.add_argument("--process-id", type=rank, default=-1, help="which this is, from 0")
    meet, dead = (cli.whole(name, 1, DAY) for name in ("--meet-within", "--dead-after"))
    cluster.add_argument(
        "--meet-within", type=meet, default=300, help="seconds to wait for the others at the start"
    )
    cluster.add_argument(
        "--dead-after",
        type=dead,
        default=20,
        help="seconds without a sign of life after which a process counts as dead",
    )
    args, overrides = parser.parse_known_args(argv)
    # Not declared as a positional: argparse would take a value with a space in it for the recipe.
    recipe = next((text for text in overrides if not text.startswith("-")), "")
    if not args.config and recipe:
        overrides.remove(recipe)
    args.config = args.config or recipe
    if not args.config:
        parser.error("which recipe? --config=FILE, or the name of one that cnnjax recipes lists")
    return args, overrides


def main(argv: list[str] | None = None, *, interrupt: Interrupt | None = None) -> dict:
    """The command. With an `interrupt` the process does nothing else, and may cache its program."""
    args, overrides = parse(argv)

    from train import recipe

    config = recipe.load(args.config, overrides)
    if args.topology:
        if not args.dry_run:
            raise errors.UserError("--topology is for --dry_run: training runs on what is here")
        from train.forecast import forecast

        return forecast(config, args.topology.split(","))

    # jax takes half a second, which --help and a mistyped flag need not wait for.
    from train import loop
    from train.runtime import cluster

    connection = cluster.connect(
        args.coordinator,
        args.num_processes,
        args.process_id,
        timeout=args.meet_within,
        heartbeat=args.dead_after,
    )
    try:
        if args.dry_run:
            from train import dry_run

            return dry_run.dry_run(config)
        recipe_file = args.config if interrupt else ""
        return loop.train(config, args.workdir, recipe=recipe_file, interrupt=interrupt)
    except errors.UserError as error:
        if connection:
            connection.exit_code = error.exit_code
        raise


if __name__ == "__main__":
    malloc.start_with_large_pages("train")
    gc.set_threshold(1_000_000)  # what a start makes stays, and collecting it takes a tenth of it
    with Interrupt(own_process=True) as interrupt:
        told = "interrupted. Run the same command to resume from the last checkpoint."
        code = errors.run(functools.partial(main, interrupt=interrupt), told)
    errors.leave(code)
