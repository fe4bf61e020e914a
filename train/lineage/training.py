"""Runs the training claims, by `train.sweep`, and judges them."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from train import seeds
from train.lineage.claims import Experiment, Training
from train.lineage.experiments import EXPERIMENTS
from train.lineage.measures import measure
from train.run import Run
from train.sweep import grid
from train.sweep import training as sweeping
from train.sweep.results import result


class Found(NamedTuple):
    """What the runs say of a claim.

    Attributes:
        values: of the quantity, by value of the switch and by seed.
        difference: the second value of the pair minus the first, paired by seed; None before the
            runs.
        verdict: of `seeds.verdict`; "" before the runs.
    """

    values: dict[str, dict[int, float]]
    difference: seeds.Mean | None
    verdict: str


def plan(name: str, workdir: str, source: str = "") -> list[grid.Run]:
    """The runs of an experiment, each in a folder of its own.

    Args:
        name: a key of `EXPERIMENTS`.
        workdir: the folder of all experiments.
        source: data in place of the digits, such as folder:photos; all of it is trained on, and
            its split `test` is evaluated.
    """
    chosen: Experiment = EXPERIMENTS[name]
    overrides = chosen.flags()
    if source:
        overrides += [
            f"--config.data.source={source}",
            "--config.data.train_split=train",
            "--config.data.eval_split=test",
        ]
    folder = str(epath.Path(workdir) / name)
    values = {chosen.switch: list(chosen.values)}
    return grid.plan(chosen.recipe, folder, values, overrides, chosen.seeds)


def train(
    claims: Sequence[Training], workdir: str, source: str = "", jobs: int = 1
) -> dict[str, tuple[str, int]]:
    """Trains what the claims need and has not finished, and measures it.

    Args:
        claims: rows of `trained.CLAIMS`.
        workdir: the folder of all experiments.
        source: as in `plan`.
        jobs: how many large networks at a time.

    Returns:
        The runs that failed, as `train.sweep.training.train`.
    """
    runs = [
        run
        for name in dict.fromkeys(claim.experiment for claim in claims)
        for run in plan(name, workdir, source)
    ]
    failed = sweeping.train(runs, jobs)
    for claim in claims:
        look(claim, workdir, source)
    return failed


def look(claim: Training, workdir: str, source: str = "") -> Found:
    """What the finished runs of a claim's experiment say of it."""
    values: dict[str, dict[int, float]] = {}
    for run in plan(claim.experiment, workdir, source):
        ((_, value),) = run.setting
        of_value = values.setdefault(value, {})
        if result(run) is not None:
            of_value[run.seed] = measure(Run(str(run.folder)), claim.quantity)
    return judge(claim, values)


def judge(claim: Training, values: dict[str, dict[int, float]]) -> Found:
    """The verdict on a claim from the values of its quantity, by switch and by seed."""
    if not any(values.values()):
        return Found(values, None, "")
    difference = seeds.difference(*(values.get(value, {}) for value in claim.pair))
    return Found(values, difference, seeds.verdict(difference, claim.direction))


def commands(claim: Training) -> dict[str, str]:
    """How to repeat a claim: alone, and as a plain sweep."""
    chosen: Experiment = EXPERIMENTS[claim.experiment]
    words = [
        f"--config={chosen.recipe}",
        f"--workdir=runs/claims/{claim.experiment}",
        f"--grid.{chosen.switch}={','.join(chosen.values)}",
        f"--seeds={chosen.seeds}",
        *chosen.flags(),
    ]
    sweep = f"python -m train.sweep {shlex.join(words)}"
    return {"claim": f"python -m train.lineage --claim={claim.name}", "sweep": sweep}
