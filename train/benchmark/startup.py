"""How long a user waits: for the import, and for a run's first step, without and with a cache."""

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

from train.benchmark.race import say
from train.config import Config, to_dict
from train.errors import UserError

RECIPE = """
from train.config import from_dict

def get_config():
    return from_dict({values!r})
"""
DONE = "first step done"  # in the loop's message


def measure(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Seconds from the start of a process, medians over the rounds.

    Returns:
        import_s: `import cnnjax`; import_models_s: with its models; cold_s: `python -m train` up to
        the end of its first step, with an empty program cache; second_s: the same command again in
        another run folder; second_over_cold: their ratio, the median of those of the rounds.
    """
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
    say(
        f"import cnnjax {result['import_s']:.2f} s, with its models "
        f"{result['import_models_s']:.2f} s; first step after {result['cold_s']:.1f} s, with the "
        f"program cache after {result['second_s']:.1f} s ({result['second_over_cold']:.0%})"
    )
    return result


def importing(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def first_step(recipe: Path, workdir: Path, cache: Path) -> float:
    """Seconds from the command to the end of its first step. Then the run is asked to stop.

    Raises:
        UserError: the run ended before.
    """
    command = [sys.executable, "-m", "train", f"--config={recipe}", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    began, last = time.perf_counter(), "it said nothing"
    with subprocess.Popen(command, env=environment, **pipes) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if DONE in line:
                seconds = time.perf_counter() - began
                with contextlib.suppress(ProcessLookupError):
                    run.send_signal(signal.SIGTERM)
                run.stderr.read()
                return seconds
            last = line.strip()
    raise UserError(f"the run ended before its first step: {last}")
