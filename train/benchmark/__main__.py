"""Times training, inference, reading, compilation and start-up, in turn with other frameworks; and how all that grows.

python -m train.benchmark --what=step --model=vgg16,inception_v3 --batch=8 --peer=torch --peer=keras
python -m train.benchmark --what=infer --model='inception*' --batch=8,32,128 --peer=torch-compile --dtype=bfloat16
python -m train.benchmark --what=step --model=vgg16 --batch=8 --remat            # and with activations computed anew
python -m train.benchmark --what=loop --config=configs/lenet_mnist.py --steps=1000   # the loop against its bare step
python -m train.benchmark --what=data --peer=torchvision
python -m train.benchmark --what=compile --model=all --batch=2
python -m train.benchmark --what=startup
python -m train.benchmark --what=growth|scaling|soak                             # growth draws .readme/growth.png

Absolute times say little on a shared machine: what is compared runs in turn, round by round, each in a process of its own, and
the ratios count. Peers have the networks that train/peers.py lists; heads are trained where all have them. Our step is
compiled in a process of its own and then loaded, as a run has it from its second start on; peers that compile do so in
place. The peak of the memory is what steps hold beyond the loaded framework. The roofline is the least time for the
multiply-adds and the traffic of the step at this machine's own rates.
"""

import argparse
import sys
from typing import Any

from cnnjax.spelling import choice
from train import cli, errors
from train.benchmark import peers
from train.benchmark.race import compile_only, loop, race, say, short
from train.benchmark.workloads import choose, for_model
from train.errors import UserError

WHAT = ("step", "infer", "loop", "data", "compile", "startup", "growth", "scaling", "soak")
ALLOWED = {
    "step": peers.PEERS,
    "infer": peers.PEERS,
    "compile": ("torch-compile",),
    "data": ("torchvision",),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser("python -m train.benchmark", __doc__)
    parser.add_argument("--what", default="step", help=" | ".join(WHAT))
    parser.add_argument(
        "--config", help="step, infer, loop, startup: a recipe; else --model on synthetic images"
    )
    parser.add_argument(
        "--model", default="lenet5", help="names of python -m cnnjax, globs, a,b,c, or all"
    )
    parser.add_argument("--batch", default="128", help="images a step; several: 8,32,128")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of the computation"
    )
    several = f"step, infer: {', '.join(peers.PEERS)}; compile: torch-compile; data: torchvision; none; repeatable"
    parser.add_argument("--peer", action="append", default=[], help=several)
    parser.add_argument(
        "--remat", action="store_true", help="step: ours once more, with activations computed anew"
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument(
        "--trace", default="", help="step, infer: a folder for a profile of our first round"
    )
    args = parser.parse_args(argv)
    choice("--what", args.what, WHAT, UserError)
    args.peer = [peer for peer in args.peer if peer != "none"]
    allowed = ALLOWED.get(args.what, ())
    for peer in args.peer:
        if peer not in allowed:
            raise UserError(
                f"--what={args.what} has no peer {peer!r}; it has {', '.join(allowed) or 'none'}"
            )
    sizes = args.batch.split(",")
    if (
        not all(size.isdigit() for size in sizes)
        or min(map(int, sizes)) < 1
        or min(args.rounds, args.steps) < 1
    ):
        raise UserError(
            "--batch, --rounds and --steps are whole numbers from 1; --batch takes several, as in 8,32"
        )
    args.batch = [int(size) for size in sizes]
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    if args.what == "data":
        from train.benchmark import reading

        return reading.measure(*args.peer, rounds=args.rounds)
    if args.what in ("growth", "scaling", "soak"):
        from train.benchmark import scaling

        return short(getattr(scaling, args.what)())
    if args.config:
        from train import recipe

        configs = [recipe.load(args.config)]
    else:
        configs = [
            for_model(name, batch, dtype=args.dtype)
            for name in choose(args.model)
            for batch in args.batch
        ]
    args.single = len({config.model.name for config in configs}) == 1
    if args.what == "startup":
        from train.benchmark import startup

        measure: Any = startup.measure
    else:
        measure = {"step": race, "infer": race, "compile": compile_only, "loop": loop}[args.what]
    runs = []
    for config in configs:
        about = {
            "model": config.model.name,
            "batch": config.data.batch_size,
            "dtype": config.model.dtype,
        }
        say(f"{about['model']}, {about['batch']} images, {about['dtype']}")
        runs.append(about | measure(args, config))
    return {"what": args.what, "rounds": args.rounds, "steps": args.steps, "runs": short(runs)}


if __name__ == "__main__":
    sys.exit(errors.run(main))
