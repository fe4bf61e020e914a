"""Times training, inference, data reading, compilation and start-up, in turn with other frameworks.

python -m train.benchmark --what=step --model=vgg16,inception_v3 --batch=8 --peer=torch --peer=keras
python -m train.benchmark --what=infer --model='inception*' --batch=8,32,128 --peer=torch-compile
python -m train.benchmark --what=step --model=vgg16 --batch=8 --remat
python -m train.benchmark --what=loop --config=configs/lenet_mnist.py --steps=1000
python -m train.benchmark --what=data --peer=torchvision
python -m train.benchmark --what=compile --model=all --batch=2
python -m train.benchmark --what=startup
python -m train.benchmark --what=growth|scaling|soak
python -m train.benchmark --what=tpu --model=vgg16,inception_v3     # compiles, and needs no TPU

Contestants run in turn, round by round, each in a process of its own; the result is the ratio of
their times. See train/benchmark/README.md for how it is taken and for what was measured.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from cnnjax.spelling import choice
from train import cli, errors
from train.benchmark import peers
from train.benchmark.race import compile_only, loop, race, say, short
from train.benchmark.workloads import choose, for_model
from train.errors import UserError

WHAT = ("step", "infer", "loop", "data", "compile", "startup", "growth", "scaling", "soak", "tpu")
ALLOWED = {  # peers; the others have none
    "step": peers.PEERS,
    "infer": peers.PEERS,
    "compile": ("torch-compile",),
    "data": ("torchvision",),
}
FIXED = ("growth", "scaling", "soak")  # measure what they measure
UNUSED = {  # option: kinds of measurement that take no notice of it
    **dict.fromkeys(("--config", "--model", "--batch", "--dtype"), ("data", *FIXED)),
    "--steps": ("data", "compile", "startup", *FIXED),
    "--rounds": ("compile", *FIXED),
    "--remat": ("infer", "loop", "data", "startup", *FIXED),
    "--trace": ("loop", "data", "compile", "startup", *FIXED),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser("python -m train.benchmark", __doc__)
    add = parser.add_argument
    add("--what", default="step", help=" | ".join(WHAT))
    add("--config", help="a recipe (step, infer, loop, startup); else --model on synthetic images")
    add("--model", default="lenet5", help="names of python -m cnnjax, globs, a,b,c, or all")
    add("--batch", default="128", help="images a step; several: 8,32,128")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="compute type")
    names = f"step, infer: {', '.join(peers.PEERS)}; compile: torch-compile; data: torchvision"
    add("--peer", action="append", default=[], help=f"{names}; none; may be repeated")
    add("--remat", action="store_true", help="step: also ours with model.options.remat=true")
    add("--rounds", type=int, default=7, help="how often each contestant is timed")
    add("--steps", type=int, default=100, help="steps a round")
    add("--write", action="store_true", help="tpu: commit the figures that come out")
    add("--trace", default="", help="step, infer: a folder for a profile of our first round")
    of_models = ("--model", "--batch", "--dtype")
    parser.no_effect("with --config", lambda args: args.config, *of_models)
    for option, kinds in UNUSED.items():
        where = f"with --what={'|'.join(kinds)}"
        parser.no_effect(where, partial(lambda kinds, args: args.what in kinds, kinds), option)
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
    numbers = [int(size) if size.isdigit() else 0 for size in sizes]
    if min(*numbers, args.rounds, args.steps) < 1:
        raise UserError(
            "--batch, --rounds and --steps are whole numbers from 1; --batch takes several, as in "
            "8,32"
        )
    args.batch = numbers
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    if args.what == "data":
        from train.benchmark import reading

        return reading.measure(*args.peer[:1], rounds=args.rounds)
    if args.what in ("growth", "scaling", "soak"):
        from train.benchmark import scaling

        return short(getattr(scaling, args.what)())
    if args.what == "tpu":
        from train.benchmark import tpu

        names = choose(args.model)
        unknown = [name for name in names if name not in tpu.IMAGES]
        if unknown:
            raise UserError(f"--what=tpu is for {', '.join(tpu.IMAGES)}, not {unknown[0]}")
        return {"what": "tpu", "runs": tpu.measure(names, write=args.write)}
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
    measure = measurement(args.what)
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


def measurement(what: str) -> Callable[..., dict[str, Any]]:
    """(args, config) -> result, for what is measured of one config."""
    if what == "startup":
        from train.benchmark import startup

        return startup.measure
    return {"step": race, "infer": race, "compile": compile_only, "loop": loop}[what]


if __name__ == "__main__":
    sys.exit(errors.run(main))
