"""From a named source to host batches: `load` a split, then `train_batches` or `eval_batches` of it."""

from train.data.pipeline import Batch, eval_batches, train_batches
from train.data.plan import Plan
from train.data.sources import Split, load

__all__ = ["Batch", "Plan", "Split", "eval_batches", "load", "train_batches"]
