"""From a named source to batches: `load` a split, then `train_batches` or `eval_batches`."""

from train.data.pipeline import Batch, eval_batches, read, train_batches
from train.data.plan import Plan
from train.data.shape import check, image_shape
from train.data.sources import load
from train.data.split import Arrays, Split

__all__ = [
    "Arrays",
    "Batch",
    "Plan",
    "Split",
    "check",
    "eval_batches",
    "image_shape",
    "load",
    "read",
    "train_batches",
]
