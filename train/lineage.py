"""Trains every architecture of a recipe with several seeds, and writes the table of results.

python -m train.lineage --config=configs/lineage_mnist5k.py --workdir=runs/lineage \\
    --out=.readme/lineage.md [--seeds=3] [MODEL…]

Finished runs are not trained again and interrupted ones resume, so the command may be stopped and
given again at any time.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import analysis, create_model, get_spec, list_models
from train import cli, errors, files, logs

PAGE = """# The lineage on small digits

Each network of `{config}` is trained once for each seed on 4,000 of the
embedded digits, and evaluated on the other 1,000 after the last step. The digits are scaled up to
the size in the table; x3 has the grey value in three channels. Top-1 is the mean over the seeds,
with its range. The standard error of an accuracy of 98 % on 1,000 images is 0.4 points, so
differences of a few tenths say nothing. Minutes are those of the training steps at their median
speed, without compilation and evaluation.

{table}
"""


def train_one(config: str, workdir: Path, seed: int) -> bool:
    """One run in a process of its own. Returns whether it finished."""
    options = [f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}"]
    command = [sys.executable, "-m", "train", *options]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def summarize(workdir: Path) -> dict[str, Any] | None:
    """What the table needs to know of a run; None where it has not been evaluated at its end.

    Returns:
        top1, examples, config, and seconds: of the training steps, without compilation and
        evaluation.
    """
    rows, config = logs.read(workdir), json.loads((workdir / "config.json").read_text())
    evaluated = [row for row in rows if row["split"] == config["data"]["eval_split"]]
    trained = [row for row in rows if row["split"] == "train"]
    if not evaluated or not trained or evaluated[-1]["step"] != trained[-1]["step"]:
        return None
    # The median: a run may have been interrupted, or have shared the machine for a while.
    speeds = [row["images_per_second"] for row in trained if "images_per_second" in row]
    images = trained[-1]["step"] * config["data"]["batch_size"]
    return {
        "top1": evaluated[-1]["top1"],
        "examples": evaluated[-1]["examples"],
        "seconds": images / np.median(speeds) if speeds else np.nan,
        "config": config,
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One line a model, in Markdown."""
    lines = [
        "| model | paper | parameters | images | epochs | top-1 | seeds | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in [name for name in list_models() if runs.get(name)]:
        results = runs[name]
        config = results[0]["config"]
        side, channels = config["data"]["size"], config["data"]["channels"] or 1
        top1 = np.array([100 * result["top1"] for result in results])
        spread = f" ({top1.min():.1f} to {top1.max():.1f})" if len(results) > 1 else ""
        seconds = [result["seconds"] for result in results if not np.isnan(result["seconds"])]
        cells = [
            name,
            get_spec(name).paper,
            f"{count_parameters(config, (side, side, channels)):,}",
            f"{side}²x{channels}",
            f"{config['epochs']:g}",
            f"{top1.mean():.1f} %{spread}",
            len(results),
            f"{np.mean(seconds) / 60:.1f}" if seconds else "",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def count_parameters(config: dict[str, Any], image: tuple[int, int, int]) -> int:
    """Parameters of the evaluated network: ten classes, no auxiliary heads."""
    chosen = config["model"]
    model = create_model(chosen["name"], num_classes=10, **chosen["options"])
    return analysis.summarize(model, image).parameters


def recipe_models(path: str) -> list[str]:
    """The models of a recipe: the keys of its table ROWS."""
    try:
        return list(files.load_module(path).ROWS)
    except FileNotFoundError as error:
        raise errors.UserError(f"--config={error}") from None


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.lineage", __doc__)
    add = parser.add_argument
    add("--config", required=True, help="a recipe that takes a model's name, as file.py:MODEL")
    add("--workdir", required=True, help="a folder for the run folders")
    add("--out", required=True, help="the file for the table")
    add("--seeds", type=cli.whole("--seeds"), default=1, help="runs of each model")
    add("models", nargs="*", help="which to train; by default all that the recipe has")
    args = parser.parse_args(argv)
    known = recipe_models(args.config)
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in known:
        for seed in range(args.seeds):
            workdir = Path(args.workdir) / f"{name}-{seed}"
            chosen = name in (args.models or known)
            if chosen and not train_one(f"{args.config}:{name}", workdir, seed):
                print(f"warning: {workdir} did not finish", file=sys.stderr, flush=True)
            if (workdir / "config.json").exists() and (result := summarize(workdir)):
                runs.setdefault(name, []).append(result)
    text = table(runs)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, PAGE.format(config=args.config, table=text))
    print(text, file=sys.stderr)
    return {name: [run["top1"] for run in results] for name, results in runs.items()}


if __name__ == "__main__":
    sys.exit(errors.run(main))
