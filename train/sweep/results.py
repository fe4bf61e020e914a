"""The results of a sweep: what its finished runs say, and the table."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.spelling import nearest
from train import files, logs, seeds
from train.errors import UserError
from train.progress import FILED
from train.run import ended_at
from train.sweep.grid import Run


def result(run: Run) -> dict[str, float] | None:
    """The evaluation after the last step; None where the run has not finished."""
    path = run.folder / "config.json"
    if not path.exists():
        return None
    last = ended_at(run.folder) or json.loads(files.read(path)).get("steps")
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
    """One line a setting, in Markdown. Shares, such as accuracies, are in percent."""
    share = metric in ("top1", "top5", *FILED)

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
            *(value.replace("|", r"\|") for value in row["setting"].values()),
            str(row["n"]),
            number(row["mean"]) if row["n"] else "–",
            interval(row),
            number(paired["mean"], "+") if paired else "",
            interval(paired, "+"),
            "" if row["minutes"] is None else f"{row['minutes']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
