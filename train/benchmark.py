"""Times the training step, or the whole loop against the bare step, in turn with a peer; ratios are what counts.

python -m train.benchmark --model=lenet5 --what=step --peer=torch
python -m train.benchmark --what=loop --config=configs/lenet_mnist.py
"""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from cnnjax import get_spec
from train import errors
from train.config import Config, Data, Model
from train.errors import UserError


def ours(config: Config) -> tuple[Callable[[int], float], Any]:
    """(seconds for so many training steps on one fixed batch, that batch on the host); compiled before it returns."""
    import jax

    from train.build import Task

    task = Task(config)
    batch = next(task.batches(0))
    held = {"state": task.fresh_state(), "batch": jax.block_until_ready(task.spread.shard(batch))}

    def run(steps: int) -> float:
        state, values = held["state"], None
        began = time.perf_counter()
        for _ in range(steps):
            previous, (state, values) = values, task.step(state, held["batch"], task.key)
            jax.block_until_ready(previous)  # one step ahead of the device, as in the loop
        jax.block_until_ready(state)
        held["state"] = state
        return time.perf_counter() - began

    run(3)
    return run, batch


def loop(config: Config) -> Callable[[int], float]:
    """Seconds that a real run, with data, logs and checkpoints but without evaluation, takes for so many steps."""
    from train import data
    from train.loop import train

    examples = len(data.load(config.data.source, config.data.train_split))

    def run(steps: int) -> float:
        timed = copy.deepcopy(config)
        timed.epochs = (steps + 1) * config.data.batch_size / examples  # the first step compiles
        timed.log.eval_every = 2 * steps
        with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
            return steps * config.data.batch_size / train(timed, workdir)["images_per_second"]

    return run


def in_turn(timers: dict[str, Callable[[int], float]], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each, round by round: what slows the machine down for a while slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run(steps) / steps)
    return seconds


def summarize(seconds: dict[str, list[float]], batch_size: int) -> dict[str, Any]:
    """Prints a line for each and the ratios to the first, pair by pair; returns the same for the JSON line."""
    (first, reference), result = next(iter(seconds.items())), {}
    for name, values in seconds.items():
        ms, rate = 1e3 * statistics.median(values), batch_size / statistics.median(values)
        result[name] = {"ms": ms, "images_per_second": rate}
        spread = f"(n={len(values)}, {1e3 * min(values):.2f} to {1e3 * max(values):.2f} ms)"
        line = f"{name:<8} {ms:8.2f} ms  {rate:10,.0f} images/s  {spread}"
        if name != first:
            ratios = [theirs / mine for mine, theirs in zip(reference, values)]
            result[name]["ratio"] = statistics.median(ratios)
            line += f"   {first} is {statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, file=sys.stderr, flush=True)
    return result


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(prog="python -m train.benchmark", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--what", default="step", choices=["step", "loop"], help="the training step, or the loop around it"
    )
    parser.add_argument("--config", help="a recipe whose step or loop is timed; else --model on synthetic images")
    parser.add_argument("--model", default="lenet5", help="a name of python -m cnnjax")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument(
        "--peer", action="append", default=[], choices=["torch", "keras"], help="time this too; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, args.steps) < 1:
        raise UserError("--batch, --rounds and --steps are at least 1")
    if args.what == "loop" and args.peer:
        raise UserError("--peer goes with --what=step: the loop is compared with its own bare step")

    from train import recipe

    config = recipe.load(args.config) if args.config else for_model(args.model, args.batch)
    step, batch = ours(config)
    timers = {"step": step}
    if args.what == "loop":
        timers["loop"] = loop(config)
    for peer in args.peer:
        from train import peers

        classes = get_spec(config.model.name).num_classes
        timers[peer] = peers.make(peer, config.model.name, batch["image"], batch["label"], classes)
        timers[peer](3)
    seconds = in_turn(timers, args.steps, args.rounds)
    return {"model": config.model.name, "batch": config.data.batch_size, **summarize(seconds, config.data.batch_size)}


def for_model(name: str, batch_size: int) -> Config:
    """A config that trains a model of the registry on synthetic images of its own size."""
    try:
        spec = get_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    size = "x".join(map(str, spec.input_size))
    return Config(
        epochs=1e6,
        model=Model(name=name),
        data=Data(source=f"synthetic:{size}/{spec.num_classes}", batch_size=batch_size),
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
