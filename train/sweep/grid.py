"""From a grid of options to the runs of a sweep."""

import itertools
import os
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from train import recipe
from train.config import Config, difference, from_dict, to_dict
from train.errors import UserError
from train.run import read_config

GRID = "--grid."
RECIPE = "recipe"  # the key that stands for the recipe's argument
UNSAFE = r"[^\w.,=+-]"  # characters that no folder's name gets


class Run(NamedTuple):
    """One run of a sweep."""

    setting: tuple[tuple[str, str], ...]  # (key, value) of each key of the grid
    seed: int
    config: Config
    arguments: tuple[str, ...]  # of `python -m train`, without --workdir
    folder: epath.Path


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
            own = [*overrides, *flags, f"{recipe.PREFIX}seed={seed}"]
            folder = epath.Path(workdir).expanduser() / name_of(setting, seed)
            arguments = (f"--config={file}", *own)
            runs.append(Run(setting, seed, recipe.load(file, own), arguments, folder))
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
    return f"{name[:100]}-{zlib.crc32(os.fsencode(text)):08x},seed={seed}"


def check_folder(run: Run) -> None:
    """UserError where a run folder holds a run with another config."""
    path = run.folder / "config.json"
    if path.exists():
        old = to_dict(from_dict(read_config(path)))  # with the defaults of newer options
        if changed := difference(old, to_dict(run.config)):
            raise UserError(
                f"{run.folder} holds a run with another config: {'; '.join(changed)}. "
                "Take a new --workdir, or the old values to resume"
            )
