"""Trains a grid of options with several seeds, and writes the table of results.

python -m train.sweep --config=configs/lenet_mnist.py --workdir=runs/rates --seeds=3 \\
    --grid.optim.lr=0.1,0.01 --config.epochs=5
cnnjax sweep lineage_mnist5k --workdir=runs/lineage --grid.recipe=lenet5,inception_v1

Each run has a folder of its own in --workdir. The same command resumes: finished runs are not
trained again. The table compares every setting with the first one, paired by seed.
"""

import contextlib
import itertools
import json
import re
import sys
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train import cli, errors, files, logs, loop, recipe, seeds
from train.config import Config, difference, to_dict
from train.errors import Preempted, UserError
from train.run import make_folder, read_config

GRID = "--grid."
RECIPE = "recipe"  # the key that stands for the recipe's argument
UNSAFE = r"[^\w.,=+-]"  # characters that no folder's name gets


class Run(NamedTuple):
    """One run of a sweep."""

    setting: tuple[tuple[str, str], ...]  # (key, value) of each key of the grid
    seed: int
    config: Config
    folder: epath.Path


class Failed(UserError):
    """Some runs did not finish."""

    def __init__(self, sentence: str, exit_code: int):
        super().__init__(sentence)
        self.exit_code = exit_code


def plan(
    path: str,
    workdir: str,
    grid: dict[str, list[str]],
    overrides: Sequence[str] = (),
    count: int = 1,
) -> list[Run]:
    """The runs of a sweep, setting by setting. Nothing is trained.

    Args:
        path: the recipe, as `recipe.load` takes it.
        workdir: the folder of the run folders.
        grid: the values of each key, as text. The key "recipe" is the recipe's argument.
        overrides: flags for all runs, such as `--config.epochs=5`.
        count: runs of each setting. Their seeds count from the recipe's.

    Raises:
        UserError: the recipe, a key or a value is wrong, or a folder holds another run.
    """
    if RECIPE in grid and ":" in path:
        raise UserError(f"{GRID}{RECIPE} gives the recipe's argument, but --config={path} has one")
    if "seed" in grid:
        raise UserError(f"{GRID}seed: --seeds=N is how many seeds each setting has")
    runs = []
    for values in itertools.product(*grid.values()):
        setting = tuple(zip(grid, values))
        chosen = dict(setting)
        file = f"{path}:{chosen.pop(RECIPE)}" if RECIPE in grid else path
        flags = [f"{recipe.PREFIX}{key}={value}" for key, value in chosen.items()]
        first = recipe.load(file, [*overrides, *flags]).seed
        for seed in range(first, first + count):
            config = recipe.load(file, [*overrides, *flags, f"{recipe.PREFIX}seed={seed}"])
            folder = epath.Path(workdir).expanduser() / name_of(setting, seed)
            runs.append(Run(setting, seed, config, folder))
    for run in runs:
        if runs.count(run) > 1:
            raise UserError(f"the grid has {run.folder.name} twice")
        check_folder(run)
    return runs


def name_of(setting: tuple[tuple[str, str], ...], seed: int) -> str:
    """The run folder's name; a checksum where the setting itself cannot stand in it."""
    text = ",".join(f"{key}={value}" for key, value in (*setting, ("seed", str(seed))))
    name = re.sub(UNSAFE, "_", text)
    if name == text and len(name) <= 120:
        return name
    return f"{name[:100]}-{zlib.crc32(text.encode()):08x},seed={seed}"


def check_folder(run: Run) -> None:
    """UserError where a run folder holds a run with another config."""
    path = run.folder / "config.json"
    if path.exists():
        old = {key: value for key, value in read_config(path).items() if key in to_dict(run.config)}
        if changed := difference(to_dict(run.config) | old, to_dict(run.config)):
            raise UserError(
                f"{run.folder} holds a run with another config: {'; '.join(changed)}. "
                "Take a new --workdir, or the old values to resume"
            )


def result(run: Run) -> dict[str, float] | None:
    """The evaluation after the last step; None where the run has not finished."""
    path = run.folder / "config.json"
    if not path.exists():
        return None
    last = json.loads(files.read(path)).get("steps")
    rows = logs.read(run.folder)
    split = run.config.data.eval_split
    found = [row for row in rows if (row["step"], row["split"]) == (last, split)]
    return found[-1] if found and (run.folder / "checkpoints" / str(last)).exists() else None


def minutes(run: Run) -> float | None:
    """Of the training steps at their median speed, without compilation and evaluation."""
    rows = [row for row in logs.read(run.folder) if row["split"] == "train"]
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    if not speeds:
        return None
    return rows[-1]["step"] * run.config.data.batch_size / float(np.median(speeds)) / 60


def train(runs: Sequence[Run]) -> dict[str, tuple[str, int]]:
    """Trains the runs that have not finished, one after the other, in this process.

    What a run says while it trains goes to `log.txt` in its folder. A run that fails does not end
    the others.

    Returns:
        For each run that failed, by the name of its folder, why, and the exit code.

    Raises:
        Preempted: a signal asked for the end; the run so far is saved.
    """
    failed = {}
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run.folder.name}"
        if result(run) is not None:
            errors.tell(f"{label}: done before")
            continue
        began = time.perf_counter()
        try:
            with told_in(make_folder(str(run.folder))):
                loop.train(run.config, str(run.folder))
        except Preempted:
            raise
        except UserError as error:
            failed[run.folder.name] = (str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            failed[run.folder.name] = (f"{type(error).__name__}: {error}", 1)
        jax.clear_caches()  # the programs of a run, which no other run uses
        why = failed.get(run.folder.name, (f"{time.perf_counter() - began:.0f} s",))[0]
        errors.tell(f"{label}: {'failed: ' if run.folder.name in failed else 'done, '}{why}")
    return failed


@contextlib.contextmanager
def told_in(folder: epath.Path) -> Iterator[None]:
    """Standard error goes to `log.txt` in a folder."""
    with (folder / "log.txt").open("a") as file, contextlib.redirect_stderr(file):
        yield


def summarize(runs: Sequence[Run], metric: str) -> list[dict[str, Any]]:
    """For each setting its values by seed, their mean, and the paired difference to the first one.

    Raises:
        UserError: the evaluations have no such number.
    """
    values: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
    times: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for run in runs:
        of_setting = values.setdefault(run.setting, {})
        if (found := result(run)) is None:
            continue
        if metric not in found:
            known = [key for key in found if key not in ("step", "split")]
            raise UserError(f"--metric={metric}: unknown; {nearest(metric, known)}")
        of_setting[run.seed] = found[metric]
        if (took := minutes(run)) is not None:
            times.setdefault(run.setting, []).append(took)
    first, rows = next(iter(values)), []
    for setting, by_seed in values.items():
        row: dict[str, Any] = {"setting": dict(setting), "values": by_seed}
        row |= seeds.mean(list(by_seed.values())).to_dict() if by_seed else {"n": 0}
        paired = seeds.difference(values[first], by_seed) if setting != first else None
        row["difference"] = paired.to_dict() if paired else None
        row["minutes"] = float(np.mean(times[setting])) if setting in times else None
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """One line a setting, in Markdown. Accuracies are in percent."""
    share = metric.startswith("top")

    def number(value: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.1f}" if share else f"{value:{sign}.4g}"

    def interval(found: dict[str, Any], sign: str = "") -> str:
        if not found.get("interval"):
            return ""
        return " to ".join(number(value, sign) for value in found["interval"])

    keys = list(rows[0]["setting"])
    head = [*keys, "seeds", f"{metric}{', %' if share else ''}", "95 % interval"]
    head += ["difference to the first", "95 % interval", "minutes"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(keys)}{'---:|' * (len(head) - len(keys))}"]
    for row in rows:
        paired = row["difference"] or {}
        cells = [
            *row["setting"].values(),
            str(row["n"]),
            number(row["mean"]) if row["n"] else "–",
            interval(row),
            number(paired["mean"], "+") if paired else "",
            interval(paired, "+"),
            "" if row["minutes"] is None else f"{row['minutes']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def split_values(text: str) -> list[str]:
    """The values between commas; those in brackets or quotes separate none.

    >>> split_values("0.1,(1,2),'a,b'")
    ['0.1', '(1,2)', "'a,b'"]
    """
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += character
    return values


def parse_grid(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """(the grid, the other arguments). UserError: a key comes twice or has no values."""
    grid: dict[str, list[str]] = {}
    for argument in (text for text in arguments if text.startswith(GRID)):
        key, _, text = argument.removeprefix(GRID).partition("=")
        values = split_values(text)
        if not key or "" in values:
            raise UserError(f"{argument} needs values: {GRID}{key or 'optim.lr'}=A,B,…")
        if key in grid:
            raise UserError(f"{GRID}{key} is given twice")
        grid[key] = values
    return grid, [text for text in arguments if not text.startswith(GRID)]


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.sweep", __doc__)
    add = parser.add_argument
    add("--config", default="", help="a recipe, as in python -m train; --config.KEY=VALUE for all")
    add("--workdir", required=True, help="the folder of the run folders, sweep.json and sweep.md")
    add("--seeds", type=cli.whole("--seeds"), default=1, help="runs of each setting")
    add("--metric", default="top1", help="of the last evaluation: top1, top5, loss")
    parser.epilog = (
        "--grid.KEY=A,B: the values of an option; several grids are crossed. "
        "--grid.recipe=A,B: of the recipe's argument"
    )
    args, others = parser.parse_known_args(argv)
    grid, overrides = parse_grid(others)
    named = next((text for text in overrides if not text.startswith("-")), "")
    if not args.config and named:
        overrides.remove(named)
    if not (args.config or named):
        parser.error("which recipe? --config=FILE, or the name of one that cnnjax recipes lists")
    runs = plan(args.config or named, args.workdir, grid, overrides, args.seeds)
    folder = make_folder(args.workdir)
    failed = train(runs)
    rows = summarize(runs, args.metric)
    text = table(rows, args.metric)
    summary = {
        "metric": args.metric,
        "settings": rows,
        "failed": {name: why for name, (why, _) in failed.items()},
        "table": str(folder / "sweep.md"),
    }
    files.write(folder / "sweep.json", json.dumps(summary, indent=1))
    files.write(folder / "sweep.md", text + "\n")
    print(text, file=sys.stderr, flush=True)
    if failed:
        print(errors.json_line(summary), flush=True)
        listed = "; ".join(f"{name}: {why}" for name, (why, _) in failed.items())
        code = next(iter(failed.values()))[1]
        raise Failed(f"{len(failed)} of {len(runs)} runs failed. {listed}", code)
    return summary


if __name__ == "__main__":
    sys.exit(errors.run(main))
