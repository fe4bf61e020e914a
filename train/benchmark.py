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
import contextlib
import copy
import fnmatch
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import cnnjax
from train import contestants, errors, peers
from train.config import Config, Data, Model, Optim
from train.contestants import OURS, REMAT, Contestant, Job, Timer
from train.errors import UserError

# jax comes with the functions that need it: peers' processes import this module too, and their memory is compared.
WHAT = ("step", "infer", "loop", "data", "compile", "startup", "growth", "scaling", "soak")
ALLOWED = {"step": peers.PEERS, "infer": peers.PEERS, "compile": ("torch-compile",), "data": ("torchvision",)}


def for_model(name: str, batch_size: int, *, dtype: str = "float32", size: int = 0) -> Config:
    """A config that trains a model of the registry on synthetic images of its own size, or of another."""
    try:
        spec = cnnjax.get_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    height, width, channels = (size, size, spec.input_size[2]) if size else spec.input_size
    return Config(
        epochs=1e6,
        model=Model(name=name, dtype=dtype),
        data=Data(source=f"synthetic:{height}x{width}x{channels}/{spec.num_classes}", batch_size=batch_size),
        optim=Optim(lr=1e-3, schedule="constant"),  # that of the peers: random labels make a higher one diverge
    )


def choose(patterns: str) -> list[str]:
    """Models of a comma list of names and globs, or all; UserError for what fits none."""
    from cnnjax.registry import nearest

    known, chosen = cnnjax.list_models(), list[str]()
    for pattern in "*" if patterns == "all" else patterns.split(","):
        found = fnmatch.filter(known, pattern)
        if not found:
            raise UserError(f"no model is called {pattern!r}; {nearest(pattern, known)}")
        chosen += [name for name in found if name not in chosen]
    return chosen


# ---------------------------------------------------------------------------------------------- in turn


def in_turn(timers: dict[str, Timer], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run(steps) / steps)
    return seconds


def summary(seconds: dict[str, list[float]], batch_size: int) -> dict[str, dict[str, Any]]:
    """Medians; and how many times faster the first is than each other one: median and range of the rounds' ratios."""
    first, result = next(iter(seconds)), {}
    for name, values in seconds.items():
        median = statistics.median(values)
        result[name] = {"ms": 1e3 * median, "ms_range": [1e3 * min(values), 1e3 * max(values)],
                        "images_per_second": batch_size / median}  # fmt: skip
        if name != first:
            ratios = [other / own for own, other in zip(seconds[first], values)]
            result[name] |= {
                f"{first}_is_faster": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
            }
    return result


def describe(name: str, row: dict[str, Any]) -> str:
    """One contestant's line."""
    low, high = row["ms_range"]
    line = f"{name:<13} {row['ms']:9.2f} ms ({low:.2f} to {high:.2f})  {row['images_per_second']:9,.1f} images/s"
    if "multiply_adds_per_second" in row:
        line += f"  {row['multiply_adds_per_second'] / 1e9:8.1f} G multiply-adds/s"
    if row.get("peak_mib") is not None:
        line += f"  peak {row['peak_mib']:,.0f} MiB"
    if row.get("process_mib") is not None:
        line += f" (process {row['process_mib']:,.0f})"
    if "compile_s" in row:
        line += f"  compile {row.get('trace_s', 0) + row['compile_s']:.1f} s"
    if "roofline" in row:
        line += f"  {row['roofline']:.0%} of the roofline"
    ratio = next((key for key in row if key.endswith("_is_faster")), None)
    if ratio:
        low, high = row["ratio_range"]
        line += f"  {ratio.removesuffix('_is_faster')} is {row[ratio]:.2f}x as fast ({low:.2f} to {high:.2f})"
    return line


def short(value: Any) -> Any:
    """Four digits of every number in a tree: more are noise."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def jobs(args: argparse.Namespace, config: Config) -> list[Job]:
    """Ours first, then every peer that has this network; heads where all have them."""
    name = config.model.name
    rivals = [peer for peer in args.peer if name in peers.models(peer)]
    for peer in args.peer:
        if peer not in rivals:
            if args.single:
                raise UserError(f"--peer={peer} has no {name}; it has {', '.join(peers.models(peer))}")
            say(f"{peer} has no {name}")
    own = [OURS, REMAT] if args.remat and contestants.has_option(config, "remat") else [OURS]
    heads, shape, classes = None, (0, 0, 0), 0
    if rivals:
        from train import data

        config.parallel.devices = 1  # as the peers
        split = data.load(config.data.source, config.data.train_split)
        shape, classes = data.image_shape(split, config.data), len(split.class_names)
        heads = config.model.options.get("aux", True) and all(peers.has_heads(peer, name) for peer in rivals)
    made = [Job(who, args.what, config, shape, classes, heads) for who in (*own, *rivals)]
    made[0].trace = args.trace
    return made


def race(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Training steps or inference of one model and one batch, in turn with the peers."""
    with contextlib.ExitStack() as stack:
        racing = {}
        for job in jobs(args, config):
            racing[job.who] = Contestant(job)
            stack.callback(racing[job.who].kill)
        seconds = in_turn({who: one.run for who, one in racing.items()}, args.steps, args.rounds)
        ends = {who: one.close() for who, one in racing.items()}
    rows = summary(seconds, config.data.batch_size)
    work, rates = racing[OURS].about["work"], ends[OURS].pop("rates")
    for who, row in rows.items():
        row |= {key: value for key, value in racing[who].about.items() if key != "work"} | ends[who]
        row["multiply_adds_per_second"] = work.multiply_adds / row["ms"] * 1e3
        row["roofline"] = rates.seconds(work) / row["ms"] * 1e3
        say(describe(who, row))
    return {"contestants": rows, "work": work._asdict(), "machine": rates._asdict()}


def compile_only(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Seconds until a training step can run: to trace and compile it, without making parameters; one after the other."""
    rows = {}
    for job in jobs(args, config):
        one = Contestant(job)
        one.kill()
        rows[job.who] = {key: one.about[key] for key in ("trace_s", "compile_s") if key in one.about}
        say(f"{job.who:<13} " + "  ".join(f"{key[:-2]} {value:6.1f} s" for key, value in rows[job.who].items()))
    return {"contestants": rows}


def loop(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """A real run with data, logs and checkpoints, but without evaluation, behind its first step; in turn with the bare step.

    A round is a run of so many steps, and ends with a checkpoint on disk: if it has fewer than are between two checkpoints
    of the recipe, that one counts for too much.
    """
    from train import data, logs
    from train.loop import train

    waits: list[float] = []
    examples = len(data.load(config.data.source, config.data.train_split))

    def run(steps: int) -> float:
        timed = copy.deepcopy(config)
        timed.epochs = max(2, steps) * config.data.batch_size / examples
        timed.log.eval_every = 2 * steps
        with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
            seconds = steps * config.data.batch_size / train(timed, workdir)["images_per_second"]
            rows = [row for row in logs.read(Path(workdir)) if row["split"] == "train"]
        of_row = np.diff([0, *(row["step"] for row in rows)])
        waits.append(float(np.average([row.get("data_wait", 0.0) for row in rows], weights=of_row)))
        return seconds

    timer, _, _ = contestants.ours(Job(OURS, "step", config))
    timer(3)
    rows = summary(in_turn({"step": timer, "loop": run}, args.steps, args.rounds), config.data.batch_size)
    rows["loop"]["data_wait"] = statistics.median(waits)
    for name, row in rows.items():
        say(describe(name, row) + (f"  waits for data {row['data_wait']:.1%} of the time" if name == "loop" else ""))
    return {"contestants": rows}


# ---------------------------------------------------------------------------------------------- the command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train.benchmark", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--what", default="step", help=" | ".join(WHAT))
    parser.add_argument("--config", help="step, infer, loop, startup: a recipe; else --model on synthetic images")
    parser.add_argument("--model", default="lenet5", help="names of python -m cnnjax, globs, a,b,c, or all")
    parser.add_argument("--batch", default="128", help="images a step; several: 8,32,128")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the computation")
    several = f"step, infer: {', '.join(peers.PEERS)}; compile: torch-compile; data: torchvision; none; repeatable"
    parser.add_argument("--peer", action="append", default=[], help=several)
    parser.add_argument("--remat", action="store_true", help="step: ours once more, with activations computed anew")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--trace", default="", help="step, infer: a folder for a profile of our first round")
    args = parser.parse_args(argv)
    if args.what not in WHAT:
        from cnnjax.registry import nearest

        raise UserError(f"--what={args.what} is unknown; {nearest(args.what, WHAT)}")
    args.peer = [peer for peer in args.peer if peer != "none"]
    allowed = ALLOWED.get(args.what, ())
    for peer in args.peer:
        if peer not in allowed:
            raise UserError(f"--what={args.what} has no peer {peer!r}; it has {', '.join(allowed) or 'none'}")
    sizes = args.batch.split(",")
    if not all(size.isdigit() for size in sizes) or min(map(int, sizes)) < 1 or min(args.rounds, args.steps) < 1:
        raise UserError("--batch, --rounds and --steps are whole numbers from 1; --batch takes several, as in 8,32")
    args.batch = [int(size) for size in sizes]
    return args


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    if args.what == "data":
        from train.data import bench

        return bench.measure(*args.peer, rounds=args.rounds)
    if args.what in ("growth", "scaling", "soak"):
        from train import growth

        return short(getattr(growth, args.what)())
    if args.config:
        from train import recipe

        configs = [recipe.load(args.config)]
    else:
        configs = [for_model(name, batch, dtype=args.dtype) for name in choose(args.model) for batch in args.batch]
    args.single = len({config.model.name for config in configs}) == 1
    if args.what == "startup":
        from train import startup

        measure: Any = startup.measure
    else:
        measure = {"step": race, "infer": race, "compile": compile_only, "loop": loop}[args.what]
    runs = []
    for config in configs:
        about = {"model": config.model.name, "batch": config.data.batch_size, "dtype": config.model.dtype}
        say(f"{about['model']}, {about['batch']} images, {about['dtype']}")
        runs.append(about | measure(args, config))
    return {"what": args.what, "rounds": args.rounds, "steps": args.steps, "runs": short(runs)}


if __name__ == "__main__":
    sys.exit(errors.run(main))
