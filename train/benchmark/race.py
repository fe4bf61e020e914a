"""Training steps, inference, compilation and the loop, in turn with other frameworks."""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from train.benchmark import contestants, peers
from train.benchmark.contestants import OURS, REMAT, Contestant, Job, Timer
from train.config import Config
from train.errors import UserError

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
                raise UserError(
                    f"--peer={peer} has no {name}; it has {', '.join(peers.models(peer))}"
                )
            say(f"{peer} has no {name}")
    own = [OURS, REMAT] if args.remat and contestants.has_option(config, "remat") else [OURS]
    heads, shape, classes = None, (0, 0, 0), 0
    if rivals:
        from train import data

        config.parallel.devices = 1  # as the peers
        split = data.load(config.data.source, config.data.train_split)
        shape, classes = data.image_shape(split, config.data), len(split.class_names)
        heads = config.model.options.get("aux", True) and all(
            peers.has_heads(peer, name) for peer in rivals
        )
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
        rows[job.who] = {
            key: one.about[key] for key in ("trace_s", "compile_s") if key in one.about
        }
        say(
            f"{job.who:<13} "
            + "  ".join(f"{key[:-2]} {value:6.1f} s" for key, value in rows[job.who].items())
        )
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
    rows = summary(
        in_turn({"step": timer, "loop": run}, args.steps, args.rounds), config.data.batch_size
    )
    rows["loop"]["data_wait"] = statistics.median(waits)
    for name, row in rows.items():
        say(
            describe(name, row)
            + (f"  waits for data {row['data_wait']:.1%} of the time" if name == "loop" else "")
        )
    return {"contestants": rows}
