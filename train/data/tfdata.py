"""Augmented training batches by tf.data: read, decode, crop and change each image in parallel, in an order that is fixed.

Importing this module loads TensorFlow.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from train.config import Data
from train.data import bad
from train.data.augment import Change, apply_all
from train.data.crop import NO_CROP, make_crop, make_load
from train.data.plan import Plan, uniform
from train.data.shape import is_whole
from train.data.split import Split, Stream
from train.data.tf import tf
from train.data.threads import threads

LOOK_AHEAD = 4096  # at most so many images are looked through at once when some are unreadable


def augmented(
    split: Split,
    plan: Plan,
    config: Data,
    shape: tuple[int, int, int],
    changes: list[Change],
    steps: range,
    rows: slice,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images, labels) of these rows of the batches of some steps.

    tf.data fails at an unreadable image without naming it. Then the examples around are looked through, and it starts
    again at that step: good images cost nothing, and bad ones are known from then on.
    """
    bad.check_policy(config)
    batches = make_batches(split, plan, config, shape, changes, rows)
    step, window = steps.start, 1
    while step < steps.stop:
        try:
            for batch in batches(range(step, steps.stop)):
                yield batch
                step += 1
        except (
            tf.errors.InvalidArgumentError,
            tf.errors.UnknownError,
            tf.errors.NotFoundError,
        ) as error:
            near = range(step, min(step + window, steps.stop))
            if isinstance(split, Stream):
                ahead = islice(
                    split.shuffled(plan.seed, step * plan.batch_size), len(near) * plan.batch_size
                )
                examples: list = [item for item in ahead if item[2] not in split.bad]
            else:
                indices = np.concatenate([plan.indices(number)[rows] for number in near])
                examples = [index for index in np.unique(indices) if index not in split.bad]
            if not bad.find(split, examples, config, threads(config)):
                raise bad.DataError(
                    f"an image of step {step} of {config.source} cannot be read: {error.message}"
                ) from None
            window = min(2 * window, -(-LOOK_AHEAD // (rows.stop - rows.start)))


def make_batches(split: Split, plan: Plan, config: Data, shape, changes: list[Change], rows: slice):
    """(steps) -> (images, labels) of each."""
    share = rows.stop - rows.start
    if config.size and not is_whole(split, config):
        crop = make_crop(config)
        load = make_load(config, shape[2], crop, encoded=split.encoded)
    else:
        crop = NO_CROP
        load = as_is(shape, encoded=split.encoded)
    change = apply_all(changes)

    def draw(positions: np.ndarray) -> np.ndarray:
        """All parameters of each position in one row: of the interpolation, of the crop, of the changes."""
        names = [("interpolation", 1, lambda numbers: numbers), ("crop", crop.columns, crop.draw)]
        names += [(c.name, c.columns, c.draw) for c in changes]
        return np.concatenate(
            [f(uniform(plan.seed, name, positions, k)) for name, k, f in names], 1
        ).astype(np.float32)

    widths = [1, crop.draw(np.zeros((1, crop.columns), np.float32)).shape[1], -1]

    def batches(steps: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        def examples():
            """(payloads, labels, parameters) of these rows, a step at a time."""
            items = (
                split.shuffled(plan.seed, steps.start * plan.batch_size)
                if isinstance(split, Stream)
                else None
            )
            for step in steps:
                if items is None:
                    payloads, labels = split.fetch(
                        readable(split, plan.indices(step)[rows], config)
                    )
                else:
                    batch = [next(items) for _ in range(plan.batch_size)]
                    of_step = bad.replaced(split, batch, config)[rows]
                    payloads = np.empty(share, object)
                    payloads[:] = [payload for payload, _, _ in of_step]
                    labels = np.array([label for _, label, _ in of_step], np.int32)
                yield payloads, labels, draw(plan.positions(step)[rows])

        def prepare(payload, label, parameters):
            source = tf.io.read_file(payload) if split.payload_is_path else payload
            chooser, window, rest = tf.split(parameters, widths)
            return change(load(source, window, chooser[0]), rest), label

        payload = (
            tf.TensorSpec((share,), tf.string)
            if split.encoded
            else tf.TensorSpec((share, *split.image_shape), tf.uint8)
        )
        parameters = tf.TensorSpec((share, draw(np.zeros(1, np.int64)).shape[1]), tf.float32)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.deterministic = True
        options.threading.private_threadpool_size = threads(config)
        options.threading.max_intra_op_parallelism = 1
        dataset = tf.data.Dataset.from_generator(
            examples, output_signature=(payload, tf.TensorSpec((share,), tf.int32), parameters)
        )
        # As many threads; but more finished images may wait for one that takes long, and hold up none behind it.
        dataset = (
            dataset.prefetch(1)
            .unbatch()
            .map(prepare, num_parallel_calls=8 * threads(config), deterministic=True)
        )
        dataset = dataset.batch(share, drop_remainder=True).prefetch(2).with_options(options)
        yield from dataset.as_numpy_iterator()

    return batches


def readable(split: Split, indices: np.ndarray, config: Data) -> np.ndarray:
    """The indices, those of bad examples replaced."""
    if not split.bad:
        return indices
    return np.array(
        [bad.next_good(split, i, config) if int(i) in split.bad else i for i in indices]
    )


def as_is(shape: tuple[int, int, int], *, encoded: bool):
    """Images of one size, which no crop changes."""

    def load(source, window, chooser):
        image = (
            tf.io.decode_image(source, channels=shape[2], expand_animations=False)
            if encoded
            else source
        )
        return tf.ensure_shape(image, shape)

    return load
