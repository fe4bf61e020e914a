"""Evaluates a checkpoint of a run folder; config, data and class names come from there.

python -m train.evaluate --workdir=runs/lenet [--step=best] [--split=test]
"""

import argparse
import json
import sys
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from train import checkpoint, data, errors, loop, state
from train import config as configs
from train.build import build_model, build_optimizer, build_preprocess, count_steps
from train.errors import CheckpointError, DataError, UserError
from train.parallel import Parallel


class Run:
    """A run folder, opened to look at: its config, its classes, its model and any of its checkpoints."""

    def __init__(self, workdir: str):
        self.folder = epath.Path(workdir)
        path = self.folder / "config.json"
        if not path.exists():
            raise UserError(f"{workdir} is no run folder: it has no config.json")
        try:
            values = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise UserError(f"{path} is not JSON") from None
        self.config: configs.Config = configs.from_dict(values)
        self.class_names = tuple(values["class_names"])
        self.model: nn.Module = build_model(self.config, len(self.class_names))

    def load_split(self, name: str = "") -> data.Split:
        """A split of the run's data, the evaluation split by default; DataError where its classes are not the run's."""
        split = data.load(self.config.data.source, name or self.config.data.eval_split)
        if split.class_names != self.class_names:
            pairs = [
                f"{i}: {a!r} is now {b!r}"
                for i, (a, b) in enumerate(zip(self.class_names, split.class_names))
                if a != b
            ]
            counts = f"{len(self.class_names)} classes were trained, the data has {len(split.class_names)}"
            raise DataError(
                f"{self.config.data.source} has other classes than {self.folder}: {'; '.join(pairs[:3]) or counts}"
            )
        return split

    def restore(self, step: str, split: data.Split) -> tuple[int, Any]:
        """(step, variables) of a checkpoint: 'latest', 'best' or a number. Moving averages where the run keeps them."""
        with checkpoint.Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise CheckpointError(f"{self.folder} has no checkpoint yet")
            wanted = {"latest": steps[-1], "best": checkpoints.best()}.get(step) or (
                int(step) if step.isdigit() else None
            )
            if wanted is None or wanted not in steps:
                raise CheckpointError(f"{self.folder} has no checkpoint {step}; there are {', '.join(map(str, steps))}")
            tx, _ = build_optimizer(self.config, count_steps(self.config, len(split)))
            create = partial(
                state.create_state, self.model, tx, image_shape=split.images.shape[1:], ema=self.config.optim.ema > 0
            )
            like = jax.eval_shape(create, jax.random.key(0))
            restored, _ = checkpoints.restore(wanted, checkpoint.on_one_device(like))
        return wanted, restored.variables


def predict(model: nn.Module, variables: Any, preprocess, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """(N, K) float32 probabilities of images (N, H, W, C) uint8, in their order."""
    apply = jax.jit(lambda variables, x: jax.nn.softmax(model.apply(variables, preprocess(x), train=False).logits))
    parts = []
    for first in range(0, len(images), batch_size):
        part = images[first : first + batch_size]
        padded = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)))  # one shape, one compilation
        parts.append(np.asarray(apply(variables, padded))[: len(part)])
    return np.concatenate(parts)


def evaluate(workdir: str, step: str = "latest", split_name: str = "", protocol: str = "center") -> dict[str, Any]:
    """Evaluates one checkpoint over all devices and writes `eval/<protocol>-<step>.json`."""
    run = Run(workdir)
    split = run.load_split(split_name)
    number, variables = run.restore(step, split)
    spread = Parallel(run.config.parallel.mapping, run.config.parallel.devices)
    spread.check("data.eval_batch_size", run.config.data.eval_batch_size)
    eval_step = loop.map_eval(spread, run.model, build_preprocess(run.config, split.images.shape[-1]))
    result = loop.evaluate_split(
        eval_step, spread, split, run.config.data.eval_batch_size, run.model.num_classes, spread.replicate(variables)
    )
    about = {"step": number, "split": split_name or run.config.data.eval_split, "protocol": protocol}
    if jax.process_index() == 0:
        (run.folder / "eval").mkdir(exist_ok=True)
        (run.folder / "eval" / f"{protocol}-{number}.json").write_text(json.dumps(about | result))
    return about | result


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="a run folder")
    parser.add_argument("--step", default="latest", help="latest, best or a number")
    parser.add_argument("--split", default="", help="a split of the run's data; the evaluation split by default")
    parser.add_argument("--protocol", default="center", choices=["center"], help="how each image is looked at")
    args = parser.parse_args(argv)
    return evaluate(args.workdir, args.step, args.split, args.protocol)


if __name__ == "__main__":
    sys.exit(errors.run(main))
