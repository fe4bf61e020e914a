"""Trains every architecture of a recipe with several seeds, and writes the table of what they came to.

python -m train.lineage --config=configs/lineage_mnist5k.py --workdir=runs/lineage --out=.readme/lineage.md [--seeds=3] [MODEL…]

Finished runs are not trained again, and interrupted ones go on, so the command may be ended and given again at will.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import get_spec, list_models
from train import errors, logs

ABOUT = """`{config}`, trained once for each seed on 4,000 of the embedded digits, scaled up and in three channels, and
evaluated on the other 1,000 behind the last step: top-1 as mean and range. With one seed there is no range, and the standard
error of an accuracy of 98 % on 1,000 images is 0.4 points, so that differences of a few tenths say nothing. Minutes are
those of the training steps on this machine at their median speed, without compilation and evaluation."""


def train_one(config: str, workdir: Path, seed: int) -> bool:
    """One run in a process of its own; whether it came to its end."""
    command = [
        sys.executable,
        "-m",
        "train",
        f"--config={config}",
        f"--workdir={workdir}",
        f"--config.seed={seed}",
    ]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def summarize(workdir: Path) -> dict[str, Any] | None:
    """Accuracy behind the last step, the seconds of training without compilation and evaluation, and the images' size."""
    rows, config = logs.read(workdir), json.loads((workdir / "config.json").read_text())
    finals = [row for row in rows if row["split"] == config["data"]["eval_split"]]
    trained = [row for row in rows if row["split"] == "train"]
    if not finals or not trained or finals[-1]["step"] != trained[-1]["step"]:
        return None
    # The median, for a run that was interrupted, or had to share the machine for a while.
    speeds = [row["images_per_second"] for row in trained if "images_per_second" in row]
    seconds = (
        trained[-1]["step"] * config["data"]["batch_size"] / np.median(speeds) if speeds else np.nan
    )
    return {
        "top1": finals[-1]["top1"],
        "examples": finals[-1]["examples"],
        "seconds": seconds,
        "config": config,
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One line a model: its top-1 accuracy as mean, range and number of seeds."""
    lines = [
        "| model | paper | parameters | images | epochs | top-1 | seeds | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in [name for name in list_models() if runs.get(name)]:
        results, spec = runs[name], get_spec(name)
        config = results[0]["config"]
        accuracy = np.array([100 * result["top1"] for result in results])
        spread = f" ({accuracy.min():.1f} to {accuracy.max():.1f})" if len(results) > 1 else ""
        channels = config["data"]["channels"] or 1
        seconds = [result["seconds"] for result in results if not np.isnan(result["seconds"])]
        minutes = f"{np.mean(seconds) / 60:.1f}" if seconds else ""
        lines.append(
            f"| {name} | {spec.paper} | {count(config, channels):,} | {config['data']['size']}²x{channels} "
            f"| {config['epochs']:g} "
            f"| {accuracy.mean():.1f} %{spread} | {len(results)} | {minutes} |"
        )
    return "\n".join(lines)


def count(config: dict[str, Any], channels: int) -> int:
    """Parameters of the network that was evaluated: with ten classes, without auxiliary heads."""
    from cnnjax import analysis, create_model

    size = config["data"]["size"]
    model = create_model(config["model"]["name"], num_classes=10, **config["model"]["options"])
    return analysis.summarize(model, (size, size, channels)).parameters


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m train.lineage", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--config", required=True, help="a recipe that takes a model's name, as file.py:MODEL"
    )
    parser.add_argument("--workdir", required=True, help="a folder of run folders")
    parser.add_argument("--out", required=True, help="where the table goes")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs of each model")
    parser.add_argument("models", nargs="*", help="by default all that the recipe has")
    args = parser.parse_args(argv)
    known = recipe_models(args.config)
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in known:
        for seed in range(args.seeds):
            workdir = Path(args.workdir) / f"{name}-{seed}"
            if name in (args.models or known) and not train_one(
                f"{args.config}:{name}", workdir, seed
            ):
                print(f"warning: {workdir} did not come to its end", file=sys.stderr, flush=True)
            if (workdir / "config.json").exists() and (result := summarize(workdir)):
                runs.setdefault(name, []).append(result)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    text = table(runs)
    Path(args.out).write_text(
        f"# The lineage on small digits\n\n{ABOUT.format(config=args.config)}\n\n{text}\n"
    )
    print(text, file=sys.stderr)
    return {name: [run["top1"] for run in results] for name, results in runs.items()}


def recipe_models(path: str) -> list[str]:
    """The names that a recipe takes: the keys of its table ROWS."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("recipe", path)
    if not spec or not spec.loader or not Path(path).is_file():
        raise errors.UserError(f"--config={path} does not exist")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.ROWS)


if __name__ == "__main__":
    sys.exit(errors.run(main))
