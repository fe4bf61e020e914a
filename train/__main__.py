"""Trains a recipe in a run folder; the same command resumes it.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet --config.optim.lr=0.1
"""

import argparse
import sys

from train import errors
from train.config import describe


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="options of a recipe:\n"
        + "\n".join(f"  {flag}={default}\n      {comment}" for flag, default, comment in describe()),
    )
    parser.add_argument(
        "--config", required=True, help="a recipe: a Python file with get_config(), optionally file.py:argument"
    )
    parser.add_argument(
        "--workdir", required=True, help="the run folder: made if it is missing, resumed if it holds this run"
    )
    args, overrides = parser.parse_known_args(argv)

    from train import recipe

    config = recipe.load(args.config, overrides)

    from train import loop  # jax and orbax take a second, which --help and a mistyped flag need not wait for

    return loop.train(config, args.workdir)


if __name__ == "__main__":
    sys.exit(errors.run(main))
