"""The comparison of several runs, on one page."""

from typing import Any

from train import files, logs
from train.config import flatten, to_dict
from train.errors import UserError, tell
from train.report import figures
from train.report.markup import page, section, tabular
from train.run import Run


def compare(workdirs: list[str], out: str) -> dict[str, Any]:
    """Writes a page of several runs: curves, best and last accuracy, and how the configs differ.

    Args:
        workdirs: the run folders.
        out: the page.

    Returns:
        `report`, the path of the page, `runs` and `different`, the options that differ.

    Raises:
        UserError: there are fewer than two runs, or a folder is none.
    """
    runs = {workdir: Run(workdir) for workdir in dict.fromkeys(workdirs)}
    if len(runs) < 2:
        raise UserError("--compare needs two run folders or more")
    short = [run.folder.name for run in runs.values()]
    names = short if len(set(short)) == len(short) else list(runs)
    rows = {name: logs.read(run.folder) for name, run in zip(names, runs.values())}
    results = [_result(name, run, rows[name]) for name, run in zip(names, runs.values())]
    different = _different([flatten(to_dict(run.config)) for run in runs.values()])
    sections = [
        section(
            "Training",
            "Each run has a colour, each split a kind of line.",
            figures.plot_curves(rows),
            "Curves of loss, error and learning rate of all runs over the training steps",
        ),
        tabular(
            "Results",
            "On each run's own evaluation split.",
            ["run", "model", "data", "best top-1", "last top-1", "last loss"],
            results,
        ),
        tabular(
            "Differences",
            "Options that are not the same in all runs.",
            ["option", *names],
            different,
        ),
    ]
    title = " and ".join(names) if len(names) < 4 else f"{len(names)} runs"
    numbers = {"runs": str(len(runs)), "different options": str(len(different))}
    files.write(out, page(title, "Compared.", numbers, sections))
    tell(f"open {out}")
    return {"report": out, "runs": list(runs), "different": [row[0] for row in different]}


def _result(name: str, run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """A row of the table of results."""
    split = run.config.data.eval_split
    tested = [row for row in rows if row["split"] == split and "top1" in row]
    best = max(tested, key=lambda row: row["top1"], default=None)
    last = tested[-1] if tested else None
    accuracies = [f"{row['top1']:.2%} at {row['step']:,}" if row else "–" for row in (best, last)]
    loss = f"{last['loss']:.4g}" if last else "–"
    return [name, run.config.model.name, run.config.data.source, *accuracies, loss]


def _different(configs: list[dict[str, Any]]) -> list[list[Any]]:
    """[option, its value in each config] of the options that differ."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        [key, *(config.get(key, "–") for config in configs)]
        for key in keys
        if len({str(config.get(key)) for config in configs}) > 1
    ]
