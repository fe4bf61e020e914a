"""How long a user waits: for the import, and for the first step of a run, with and without an earlier one's programs."""

import argparse
import contextlib
import copy
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train.config import Config, to_dict
from train.errors import UserError

RECIPE = """
from train.config import from_dict

def get_config():
    return from_dict({values!r})
"""
DONE = "first step done"  # how the loop says it


def measure(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Seconds, medians over the rounds, each in processes of their own: what `python -m train` takes from its start on."""
    imports, models, cold, warm = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.py"
        recipe.write_text(RECIPE.format(values=to_dict(copy.deepcopy(config))))
        for number in range(args.rounds):
            imports.append(importing("import cnnjax"))
            models.append(importing("import cnnjax; cnnjax.create_model"))
            place = Path(folder) / str(number)
            cold.append(first_step(recipe, place / "cold", place / "cache"))
            warm.append(first_step(recipe, place / "warm", place / "cache"))
    result = {
        "import_s": statistics.median(imports),
        "import_models_s": statistics.median(models),
        "cold_s": statistics.median(cold),
        "second_s": statistics.median(warm),
        "second_over_cold": statistics.median(b / a for a, b in zip(cold, warm)),
    }
    print(
        f"import cnnjax {result['import_s']:.2f} s, with its models {result['import_models_s']:.2f} s; "
        f"first step behind {result['cold_s']:.1f} s, the second time {result['second_s']:.1f} s "
        f"({result['second_over_cold']:.0%})",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return result


def importing(statement: str) -> float:
    """Seconds of a statement in a fresh interpreter."""
    code = (
        f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    )
    return float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def first_step(recipe: Path, workdir: Path, cache: Path) -> float:
    """Seconds from the command to the end of its first step; the run is then told to stop."""
    command = [sys.executable, "-m", "train", f"--config={recipe}", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    began, lines = time.perf_counter(), []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            lines.append(line)
            if DONE in line:
                seconds = time.perf_counter() - began
                with contextlib.suppress(ProcessLookupError):
                    run.send_signal(signal.SIGTERM)
                run.stderr.read()
                return seconds
    raise UserError(
        f"the run ended before its first step: {lines[-1].strip() if lines else 'it said nothing'}"
    )
