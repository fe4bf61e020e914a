"""Augmented training batches by tf.data: parallel, but in a fixed order.

Importing this module loads TensorFlow.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from train.config import Data
from train.data import bad
from train.data.augment import Change, apply_all, check_custom
from train.data.crop import NO_CROP, decode_with_pillow, is_plain_jpeg, make_crop, make_load
from train.data.plan import Plan, uniform
from train.data.shape import is_whole
from train.data.split import Split, Stream
from train.data.tf import tf
from train.data.threads import threads

LOOK_AHEAD = 4096  # the most images that are searched at once for unreadable ones
FAILURES = (tf.errors.InvalidArgumentError, tf.errors.UnknownError, tf.errors.NotFoundError)

Rows = tuple[np.ndarray, np.ndarray]  # images, labels


def augmented(
    split: Split,
    plan: Plan,
    config: Data,
    shape: tuple[int, int, int],
    changes: list[Change],
    steps: range,
    rows: slice,
) -> Iterator[Rows]:
    """(images, labels) of these rows of the global batches of some steps.

    tf.data fails at an unreadable image without naming it. The examples of the next steps are then
    searched for such images, which are recorded, and reading starts again at the same step. So
    readable images are checked only after a failure.

    Raises:
        DataError: an image cannot be read, and `data.on_bad_image` is "error".
    """
    bad.check_policy(config)
    for index, why in split.unreadable.items():  # tf.data would open them
        bad.report(split, index, why, skip=config.on_bad_image == "skip")
    reader = Reader(split, plan, config, shape, changes, rows)
    step, window = steps.start, 1
    while step < steps.stop:
        try:
            for batch in reader.batches(range(step, steps.stop)):
                yield batch
                step += 1
        except FAILURES as error:
            examples = reader.unchecked(range(step, min(step + window, steps.stop)))
            if not bad.find(split, examples, config, threads(config)):
                raise bad.DataError(
                    f"an image of step {step} of {config.source} cannot be read: {error.message}"
                ) from None
            window = min(2 * window, -(-LOOK_AHEAD // (rows.stop - rows.start)))


class Reader:
    """Reads the same rows of the batches of any steps; arguments as of `augmented`."""

    def __init__(
        self,
        split: Split,
        plan: Plan,
        config: Data,
        shape: tuple[int, int, int],
        changes: list[Change],
        rows: slice,
    ):
        self._split, self._plan, self._config, self._rows = split, plan, config, rows
        self._share = rows.stop - rows.start
        if config.size and not is_whole(split, config):
            crop = make_crop(config)
            self._load = make_load(config, shape[2], crop, encoded=split.encoded)
        else:
            crop = NO_CROP
            same_channels = shape[2] == split.image_shape[2]
            self._load = load_whole(config, shape, split.encoded, same_channels)
        check_custom(config.augment.custom, changes, shape)
        self._change = apply_all(changes)
        self._drawn = [
            ("interpolation", 1, lambda numbers: numbers),
            ("crop", crop.columns, crop.draw),
            *((change.name, change.columns, change.draw) for change in changes),
        ]
        self._widths = [1, crop.draw(np.zeros((1, crop.columns), np.float32)).shape[1], -1]

    def batches(self, steps: range) -> Iterator[Rows]:
        """(images, labels) of each step."""
        split, share, count = self._split, self._share, threads(self._config)
        if split.encoded:
            payload = tf.TensorSpec((share,), tf.string)
        else:
            payload = tf.TensorSpec((share, *split.image_shape), tf.uint8)
        columns = self._parameters(np.zeros(1, np.int64)).shape[1]
        signature = (
            payload,
            tf.TensorSpec((share, *split.label_shape), tf.int32),
            tf.TensorSpec((share, columns), tf.float32),
        )
        options = tf.data.Options()
        options.autotune.enabled = False
        options.deterministic = True
        options.threading.private_threadpool_size = count
        options.threading.max_intra_op_parallelism = 1
        dataset = tf.data.Dataset.from_generator(
            lambda: self._examples(steps), output_signature=signature
        )
        dataset = dataset.prefetch(1).unbatch()
        # More calls than threads, so that one slow image does not stop the others.
        dataset = dataset.map(self._prepare, num_parallel_calls=8 * count, deterministic=True)
        dataset = dataset.batch(share, drop_remainder=True).prefetch(2).with_options(options)
        yield from dataset.as_numpy_iterator()

    def unchecked(self, steps: range) -> list:
        """The examples of some steps that are not known to be bad, as `bad.find` takes them."""
        split, plan = self._split, self._plan
        if isinstance(split, Stream):
            items = split.shuffled(plan.seed, steps.start * plan.batch_size)
            items = islice(items, len(steps) * plan.batch_size)
            return [item for item in items if item[2] not in split.bad]
        indices = np.concatenate([plan.indices(step)[self._rows] for step in steps])
        return [index for index in np.unique(indices) if index not in split.bad]

    def _examples(self, steps: range) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(payloads, labels, parameters) of each step."""
        rows = self._from_stream(steps) if isinstance(self._split, Stream) else self._fetched(steps)
        for step, (payloads, labels) in zip(steps, rows):
            yield payloads, labels, self._parameters(self._plan.positions(step)[self._rows])

    def _fetched(self, steps: range) -> Iterator[Rows]:
        """(payloads, labels) of each step, with bad examples replaced."""
        split = self._split
        for step in steps:
            indices = self._plan.indices(step)[self._rows]
            if split.bad:
                indices = np.array(
                    [
                        bad.next_good(split, index, self._config) if index in split.bad else index
                        for index in indices.tolist()
                    ]
                )
            yield split.fetch(indices)

    def _from_stream(self, steps: range) -> Iterator[Rows]:
        """(payloads, labels) of each step, with bad examples replaced."""
        split, plan = self._split, self._plan
        assert isinstance(split, Stream)
        items = split.shuffled(plan.seed, steps.start * plan.batch_size)
        for _ in steps:
            batch = [next(items) for _ in range(plan.batch_size)]
            batch = bad.replaced(split, batch, self._config)[self._rows]
            payloads = np.empty(self._share, object)
            payloads[:] = [payload for payload, _, _ in batch]
            yield payloads, np.array([label for _, label, _ in batch], np.int32)

    def _parameters(self, positions: np.ndarray) -> np.ndarray:
        """(n, P) float32: the parameters of interpolation, crop and changes of each position."""
        seed = self._plan.seed
        columns = [draw(uniform(seed, name, positions, k)) for name, k, draw in self._drawn]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _prepare(self, payload, label, parameters):
        """One image: read, crop, change."""
        source = tf.io.read_file(payload) if self._split.payload_is_path else payload
        chooser, window, rest = tf.split(parameters, self._widths)
        return self._change(self._load(source, window, chooser[0]), rest), label


def load_whole(
    config: Data, shape: tuple[int, int, int], encoded: bool, same_channels: bool
) -> Callable:
    """Reads images of one size without a crop; as `crop.make_load`.

    TensorFlow reads PNG only without a change of channels: its grey is not Pillow's.
    """

    def load(source, window, chooser):
        if encoded:
            source = pixels(source)
        return tf.ensure_shape(source, shape)

    def pixels(source):
        def by_pillow():
            return decode_with_pillow(source, config, shape[2])

        if config.exif:
            return by_pillow()
        png = tf.strings.substr(source, 0, 4) == b"\x89PNG"
        return tf.cond(
            is_plain_jpeg(source) | (png & same_channels),
            lambda: tf.io.decode_image(source, shape[2], expand_animations=False),
            by_pillow,
        )

    return load
