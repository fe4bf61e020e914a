"""Evaluates a checkpoint of a run folder; config, data and class names come from there.

python -m train.evaluate --workdir=runs/lenet [--step=best] [--split=test]
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from train import data, errors, metrics, step
from train.build import build_preprocess
from train.config import Data
from train.parallel import Parallel
from train.run import Run


class Evaluator:
    """Counts over whole splits, spread over the devices: every example exactly once, whatever the batch size."""

    def __init__(self, spread: Parallel, model: nn.Module, preprocess: Callable, config: Data):
        spread.check("data.eval_batch_size", config.eval_batch_size)
        self._spread, self._config, self._classes = spread, config, model.num_classes
        self._step = spread.map(partial(step.eval_step, model=model, preprocess=preprocess), split=(False, True))

    def __call__(self, variables: Any, split: data.Split) -> dict[str, float]:
        """loss, top1, top5 (above ten classes) and the number of examples; `variables` are replicated."""
        shares = dict(process=jax.process_index(), processes=jax.process_count())
        batches = data.eval_batches(split, self._config, **shares)
        return metrics.finalize([self._step(variables, self._spread.shard(batch)) for batch in batches], self._classes)


def predict(
    model: nn.Module, variables: Any, preprocess: Callable, batches: Iterable[data.Batch]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities (N, K) float32, labels (N,), places (N,) in the split) of the examples that evaluation batches hold."""
    apply = jax.jit(lambda variables, x: jax.nn.softmax(model.apply(variables, preprocess(x), train=False).logits))
    parts = [(np.asarray(apply(variables, batch["image"])), batch["label"], batch["mask"]) for batch in batches]
    probabilities, labels, mask = (np.concatenate(columns) for columns in zip(*parts))
    return probabilities[mask], labels[mask], np.flatnonzero(mask)


def evaluate(workdir: str, step: str = "latest", split_name: str = "", protocol: str = "center") -> dict[str, Any]:
    """Evaluates one checkpoint over all devices and writes `eval/<protocol>-<step>.json`."""
    run = Run(workdir)
    split = run.load_split(split_name)
    number, variables = run.restore(step, split)
    spread = Parallel(run.config.parallel.mapping, run.config.parallel.devices)
    preprocess = build_preprocess(run.config, data.image_shape(split, run.config.data)[-1])
    evaluator = Evaluator(spread, run.model, preprocess, run.config.data)
    result = evaluator(spread.replicate(variables), split)
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
