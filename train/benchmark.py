"""Times the training step in turn with a peer, the whole loop against the bare step, reading of photographs, or compilation.

python -m train.benchmark --what=step --model=lenet5 --peer=torch --peer=keras
python -m train.benchmark --what=loop --config=configs/lenet_mnist.py
python -m train.benchmark --what=data --peer=torchvision
python -m train.benchmark --what=compile --model=all --batch=2

Absolute times say little on a shared machine: what is compared runs in turn, round by round, and the ratios count.
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

from cnnjax import get_spec, list_models
from train import errors
from train.config import Config, Data, Model
from train.errors import UserError

Timer = Callable[[int], float]  # seconds for so many steps


def for_model(name: str, batch_size: int) -> Config:
    """A config that trains a model of the registry on synthetic images of its own size."""
    try:
        spec = get_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    source = f"synthetic:{'x'.join(map(str, spec.input_size))}/{spec.num_classes}"
    return Config(epochs=1e6, model=Model(name=name), data=Data(source=source, batch_size=batch_size))


def bare_step(config: Config) -> tuple[Timer, dict]:
    """The compiled step, repeated on one batch that lies on the devices; and that batch, on the host."""
    import jax

    from train.build import Task

    task = Task(config)
    batch = next(task.batches(0))
    on_devices = jax.block_until_ready(task.spread.shard(batch))
    states = [task.fresh_state()]

    def run(steps: int) -> float:
        state, values = states.pop(), None
        began = time.perf_counter()
        for _ in range(steps):
            before, (state, values) = values, task.step(state, on_devices, task.key)
            jax.block_until_ready(before)  # one step ahead of the devices, as in the loop
        jax.block_until_ready(state)
        states.append(state)
        return time.perf_counter() - began

    run(3)
    return run, batch


def whole_loop(config: Config) -> Timer:
    """A real run with data, logs and checkpoints, but without evaluation; behind its first step, which compiles."""
    from train import data
    from train.loop import train

    examples = len(data.load(config.data.source, config.data.train_split))

    def run(steps: int) -> float:
        timed = copy.deepcopy(config)
        timed.epochs = (steps + 1) * config.data.batch_size / examples
        timed.log.eval_every = 2 * steps
        with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
            return steps * config.data.batch_size / train(timed, workdir)["images_per_second"]

    return run


def compare(timers: dict[str, Timer], batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Runs all in turn; prints and returns a line for each, with the ratios to the first, pair by pair."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run(steps) / steps)
    (first, reference), result = next(iter(seconds.items())), {}
    for name, values in seconds.items():
        ms, rate = 1e3 * statistics.median(values), batch_size / statistics.median(values)
        result[name] = {"ms": ms, "images_per_second": rate}
        line = (
            f"{name:<8} {ms:8.2f} ms  {rate:10,.0f} images/s  ({1e3 * min(values):.2f} to {1e3 * max(values):.2f} ms)"
        )
        if name != first:
            ratios = [other / own for own, other in zip(reference, values)]
            result[name][f"over_{first}"] = statistics.median(ratios)
            line += f"  time over {first}'s: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(line, file=sys.stderr, flush=True)
    return result | {"rounds": rounds, "steps": steps}


def compile_time(config: Config) -> dict[str, float]:
    """Seconds to trace and to compile a training step, without making parameters."""
    import numpy as np

    from train.build import Task
    from train.data import image_shape

    task = Task(config)
    n, shape = config.data.batch_size, image_shape(task.train_split, config.data)
    batch: dict[str, Any] = {
        "image": np.zeros((n, *shape), np.uint8),
        "label": np.zeros(n, np.int32),
        "mask": np.ones(n, bool),
    }
    began = time.perf_counter()
    lowered = task.step.lower(task.abstract_state, task.spread.shard(batch), task.key)  # type: ignore[attr-defined]
    traced = time.perf_counter()
    lowered.compile()
    return {"trace": traced - began, "compile": time.perf_counter() - traced}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(prog="python -m train.benchmark", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--what", default="step", choices=["step", "loop", "data", "compile"])
    parser.add_argument("--config", help="step, loop: a recipe; else --model on synthetic images")
    parser.add_argument("--model", default="lenet5", help="a name of python -m cnnjax; compile: several, a,b,c, or all")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--peer", action="append", default=[], help="step: torch, keras; data: torchvision; repeatable")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed")
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, args.steps) < 1:
        raise UserError("--batch, --rounds and --steps are at least 1")
    allowed = {"step": ("torch", "keras"), "data": ("torchvision",)}.get(args.what, ())
    for peer in args.peer:
        if peer not in allowed:
            raise UserError(f"--what={args.what} has no peer {peer!r}; it has {', '.join(allowed) or 'none'}")

    if args.what == "data":
        from train.data import bench

        return bench.measure(*args.peer, rounds=args.rounds)
    if args.what == "compile":
        times: dict[str, Any] = {}
        for name in list_models() if args.model == "all" else args.model.split(","):
            times[name] = took = compile_time(for_model(name, args.batch))
            line = f"{name:<28} trace {took['trace']:5.1f} s  compile {took['compile']:5.1f} s"
            print(line, file=sys.stderr, flush=True)
        return times | {"batch": args.batch}

    from train import peers, recipe

    config = recipe.load(args.config) if args.config else for_model(args.model, args.batch)
    step, batch = bare_step(config)
    timers = {"step": step}
    if args.what == "loop":
        timers["loop"] = whole_loop(config)
    for peer in args.peer:
        classes = get_spec(config.model.name).num_classes
        timers[peer] = peers.make(peer, config.model.name, batch["image"], batch["label"], classes)
        timers[peer](3)
    about = {"model": config.model.name, "batch": config.data.batch_size}
    return about | compare(timers, config.data.batch_size, args.steps, args.rounds)


if __name__ == "__main__":
    sys.exit(errors.run(main))
