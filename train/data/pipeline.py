"""From a split and a plan to host batches.

A training batch is a pure function of (seed, step); evaluation sees each example exactly once.
"""

from collections.abc import Iterator

import numpy as np

from train.config import Augment
from train.data.plan import Plan
from train.data.sources import Split

Batch = dict[str, np.ndarray]  # image (n, H, W, C) uint8, label (n,) int32, mask (n,) bool


def train_batches(
    split: Split, plan: Plan, augment: Augment, *, start: int, stop: int, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This process's rows of the global batches of steps start..stop-1: together the processes' rows are the batch."""
    share = plan.batch_size // processes
    rows = slice(process * share, (process + 1) * share)
    mask = np.ones(share, bool)
    if augment == Augment():
        for step in range(start, stop):
            indices = plan.indices(step)[rows]
            yield {"image": split.images[indices], "label": split.labels[indices], "mask": mask}
        return

    from train.data.augment import make_augment
    from train.data.tf import tf

    change = make_augment(augment)
    images, seed = tf.constant(split.images), plan.seed

    def load(step, indices):
        def uniform(k):
            numbers = tf.random.stateless_uniform((plan.batch_size, k), [seed, step], -1.0, 1.0)
            return numbers[rows]

        return change(tf.gather(images, indices), uniform), indices

    plans = tf.data.Dataset.from_generator(
        lambda: ((step, plan.indices(step)[rows]) for step in range(start, stop)),
        output_signature=(tf.TensorSpec((), tf.int64), tf.TensorSpec((share,), tf.int64)),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    for augmented, indices in plans.map(load).prefetch(8).with_options(options).as_numpy_iterator():
        yield {"image": augmented, "label": split.labels[indices], "mask": mask}


def eval_batches(split: Split, batch_size: int, *, process: int = 0, processes: int = 1) -> Iterator[Batch]:
    """This process's rows of consecutive global batches; the last one is padded with black and masked."""
    share = batch_size // processes
    for first in range(process * share, len(split) + process * share, batch_size):
        images, labels = split.images[first : first + share], split.labels[first : first + share]
        missing = share - len(images)
        yield {
            "image": np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(labels, (0, missing)),
            "mask": np.arange(share) < len(images),
        }
