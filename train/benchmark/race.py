"""Training steps, inference, compilation and the loop, timed in turn."""

import argparse
import contextlib
import copy
import io
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train.benchmark import contestants, peers
from train.benchmark.contestants import OURS, REMAT, Contestant, Job
from train.benchmark.peers import Timer
from train.config import Config
from train.errors import UserError


def race(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Training steps or inference of one model at one batch size, in turn with the peers."""
    with contextlib.ExitStack() as stack:
        racing = {}
        for job in jobs(args, config):
            racing[job.who] = Contestant(job)
            stack.callback(racing[job.who].kill)
        timers = {who: contestant.run for who, contestant in racing.items()}
        seconds = in_turn(timers, args.steps, args.rounds)
        ends = {who: contestant.close() for who, contestant in racing.items()}
    rows = summary(seconds, config.data.batch_size)
    work, rates = racing[OURS].about["work"], ends[OURS].pop("rates")
    for who, row in rows.items():
        row |= {key: value for key, value in racing[who].about.items() if key != "work"} | ends[who]
        row["multiply_adds_per_second"] = work.multiply_adds / row["ms"] * 1e3
        row["roofline"] = rates.seconds(work) / row["ms"] * 1e3
        say(describe(who, row))
    return {"contestants": rows, "work": work._asdict(), "machine": rates._asdict()}


def compile_only(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Seconds to trace and to compile a training step, without making parameters.

    One process after the other.
    """
    rows = {}
    for job in jobs(args, config):
        contestant = Contestant(job)
        contestant.kill()
        about = contestant.about
        rows[job.who] = {key: about[key] for key in ("trace_s", "compile_s") if key in about}
        parts = (f"{key[:-2]} {value:6.1f} s" for key, value in rows[job.who].items())
        say(f"{job.who:<13} {'  '.join(parts)}")
    return {"contestants": rows}


def loop(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """A run with data, logs and checkpoints, in turn with its bare step.

    Evaluations and the first (compiling) step are excluded. A round is a run of `--steps` steps and
    ends with a checkpoint on disk. That counts for too much where the recipe saves less often.
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
        steps_of_row = np.diff([0, *(row["step"] for row in rows)])
        shares = [row.get("data_wait", 0.0) for row in rows]
        waits.append(float(np.average(shares, weights=steps_of_row)))
        return seconds

    step, _, _ = contestants.prepare(Job(OURS, "step", config))
    step(3)
    seconds = in_turn({"step": step, "loop": run}, args.steps, args.rounds)
    rows = summary(seconds, config.data.batch_size)
    wait = rows["loop"]["data_wait"] = statistics.median(waits)
    say(describe("step", rows["step"]))
    say(f"{describe('loop', rows['loop'])}  waits for data {wait:.1%} of the time")
    return {"contestants": rows}


def jobs(args: argparse.Namespace, config: Config) -> list[Job]:
    """Ours first, then every peer that has this network.

    Against peers, auxiliary heads are trained where all of them have heads, and on one device.

    Raises:
        UserError: a peer does not have the only network that is asked for.
    """
    name = config.model.name
    rivals = [peer for peer in args.peer if name in peers.models(peer)]
    for peer in args.peer:
        if peer in rivals:
            continue
        sentence = f"{peer} has no {name}"
        if args.single:
            raise UserError(f"--peer={sentence}; it has {', '.join(peers.models(peer))}")
        say(sentence)
    ours = [OURS, REMAT] if args.remat and contestants.has_option(config, "remat") else [OURS]
    heads, shape, classes = None, (0, 0, 0), 0
    if rivals:
        from train import data

        config.parallel.devices = 1
        split = data.load(config.data.source, config.data.train_split)
        shape, classes = data.image_shape(split, config.data), len(split.class_names)
        all_have = all(peers.has_heads(peer, name) for peer in rivals)
        heads = config.model.options.get("aux", True) and all_have
    made = [Job(who, args.what, config, shape, classes, heads) for who in (*ours, *rivals)]
    made[0].trace = args.trace
    return made


# --------------------------------------------------------------------------------- times and ratios


def in_turn(timers: Mapping[str, Timer], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each timer, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run(steps) / steps)
    return seconds


def summary(seconds: dict[str, list[float]], batch_size: int) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, and how many times faster the first one is than each other one.

    That ratio is taken within each round; its median and its range are given.
    """
    first, result = next(iter(seconds)), {}
    for name, values in seconds.items():
        median = statistics.median(values)
        row = result[name] = {
            "ms": 1e3 * median,
            "ms_range": [1e3 * min(values), 1e3 * max(values)],
            "images_per_second": batch_size / median,
        }
        if name != first:
            ratios = [other / base for base, other in zip(seconds[first], values)]
            row[f"{first}_is_faster"] = statistics.median(ratios)
            row["ratio_range"] = [min(ratios), max(ratios)]
    return result


def describe(name: str, row: dict[str, Any]) -> str:
    """A contestant's line."""
    low, high = row["ms_range"]
    parts = [f"{name:<13} {row['ms']:9.2f} ms ({low:.2f} to {high:.2f})"]
    parts.append(f"{row['images_per_second']:9,.1f} images/s")
    if "multiply_adds_per_second" in row:
        parts.append(f"{row['multiply_adds_per_second'] / 1e9:8.1f} G multiply-adds/s")
    if row.get("peak_mib") is not None:
        parts.append(f"peak {row['peak_mib']:,.0f} MiB")
    if row.get("process_mib") is not None:
        parts[-1] += f" (process {row['process_mib']:,.0f})"
    if "compile_s" in row:
        parts.append(f"compile {row.get('trace_s', 0) + row['compile_s']:.1f} s")
    if "roofline" in row:
        parts.append(f"{row['roofline']:.0%} of the roofline")
    ratio = next((key for key in row if key.endswith("_is_faster")), None)
    if ratio:
        low, high = row["ratio_range"]
        ours = ratio.removesuffix("_is_faster")
        parts.append(f"{ours} is {row[ratio]:.2f}x as fast ({low:.2f} to {high:.2f})")
    return "  ".join(parts)


def short(value: Any) -> Any:
    """A tree with every float cut to four digits: more are noise."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
