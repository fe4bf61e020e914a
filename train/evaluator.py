"""Evaluation within a training run: counts over a whole split."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from train import data, metrics, step
from train.config import Data
from train.data.threads import ahead
from train.parallel import Parallel


class Evaluator:
    """Counts over whole splits, spread over the devices; every example counts once."""

    def __init__(self, spread: Parallel, model: nn.Module, preprocess: Callable, config: Data):
        spread.check("data.eval_batch_size", config.eval_batch_size)
        self._spread, self._config, self._classes = spread, config, model.num_classes
        self._step = spread.map(
            partial(step.eval_step, model=model, preprocess=preprocess), split=(False, True)
        )

    def __call__(self, variables: Any, split: data.Split) -> dict[str, float]:
        """The numbers of `metrics.finalize`. `variables` are replicated.

        Raises:
            DataError: none of the split's images can be read.
        """
        shares = dict(process=jax.process_index(), processes=jax.process_count())
        batches = data.eval_batches(split, self._config, **shares)
        counts = ahead(
            lambda batch: self._step(variables, self._spread.shard(batch)),
            batches,
            2 * self._spread.steps_ahead,
        )
        images = f"the {len(split)} images of the evaluation split of {self._config.source}"
        return metrics.finalize(counts, self._classes, images, multi_label=split.multi_label)
