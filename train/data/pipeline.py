"""From a split and a plan to batches on the host.

A training batch is a pure function of (seed, step); evaluation reads each example exactly once.
Training takes one of three ways: numpy for small images in memory that keep their size, threads
where nothing is random on the host, and tf.data otherwise. Evaluation always takes threads.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from train.config import Augment, Data
from train.data import affine, bad
from train.data.augment import apply_in_numpy, in_numpy, make_changes
from train.data.plan import Plan, uniform
from train.data.shape import image_shape, in_channels, is_whole
from train.data.split import Split, Stream
from train.data.threads import ahead, threads
from train.data.transforms import make_transform

# image (n, H, W, C) uint8, label (n,) or (n, K) int32, mask (n,) bool;
# in training also affine (n, 6) float32, where the device distorts
Batch = dict[str, np.ndarray]

SMALL = 60  # pixels a side, up to which numpy is faster than tf.data


def train_batches(
    split: Split,
    plan: Plan,
    config: Data,
    *,
    start: int,
    stop: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the global training batches of steps start..stop-1.

    Args:
        split: to read from.
        plan: which examples make up each global batch.
        config: how to read and augment them.
        start, stop: the steps.
        process, processes: this process and their number, which divides the batch size. The rows of
            all processes, in order, are the global batch.

    Returns:
        One batch a step: {"image": uint8 (n, H, W, C), "label": int32 (n,), "mask": bool (n,)},
        and "affine": float32 (n, 6) where the device distorts the images. With several labels an
        image, "label" is (n, K) zeros and ones.

    Raises:
        UserError: an option is unknown, or does not fit the images.
        DataError: an image cannot be read.

    >>> from train import data
    >>> split = data.load("synthetic:28x28x1/10", "train")
    >>> plan = data.Plan(len(split), batch_size=32, seed=0)
    >>> batch = next(data.train_batches(split, plan, Data(), start=100, stop=101))
    >>> batch["image"].shape, batch["label"].shape
    ((32, 28, 28, 1), (32,))
    """
    share = plan.batch_size // processes
    rows = slice(process * share, (process + 1) * share)
    batches = host_batches(split, plan, config, start=start, stop=stop, rows=rows)
    if not affine.wanted(config.augment):
        yield from batches
        return
    height, width, _ = image_shape(split, config)
    for step, batch in zip(range(start, stop), batches):
        positions = plan.positions(step)[rows]
        yield batch | {"affine": affine.draw(config.augment, plan.seed, positions, height, width)}


def host_batches(
    split: Split, plan: Plan, config: Data, *, start: int, stop: int, rows: slice
) -> Iterator[Batch]:
    """These rows of the training batches, with all changes but those that the device applies."""
    split, shape = in_channels(split, config), image_shape(split, config)
    changes = make_changes(config.augment, shape)
    share = rows.stop - rows.start
    mask = np.ones(share, bool)
    random = bool(changes) or config.augment.crop != "center" or isinstance(split, Stream)

    if is_whole(split, config) and in_numpy(changes) and max(shape[:2]) <= SMALL:
        for step in range(start, stop):
            images, labels = split.fetch(plan.indices(step)[rows])
            positions = plan.positions(step)[rows]
            parameters = [
                change.draw(uniform(plan.seed, change.name, positions, change.columns))
                for change in changes
            ]
            images = apply_in_numpy(changes, images, parameters)
            yield {"image": images, "label": labels, "mask": mask}
    elif not random and config.augment.interpolation == Augment.interpolation:
        orders = (plan.indices(step)[rows] for step in range(start, stop))
        yield from in_threads(split, config, shape, orders, share)
    else:
        from train.data.tfdata import augmented

        steps = range(start, stop)
        for images, labels in augmented(split, plan, config, shape, changes, steps, rows):
            yield {"image": images, "label": labels, "mask": mask}


def eval_batches(
    split: Split, config: Data, *, process: int = 0, processes: int = 1, limit: int | None = None
) -> Iterator[Batch]:
    """This process's rows of consecutive global batches of `data.eval_batch_size` examples.

    The missing rows of the last batch are black and masked. With `on_bad_image=skip`, so are
    unreadable examples.

    Args:
        split: to read from, in its own order.
        config: how to read it.
        process, processes: this process and their number, which divides the batch size. Every
            process gets as many batches.
        limit: the most examples to read.

    Returns:
        Batches {"image": uint8 (n, H, W, C), "label": int32 (n,), "mask": bool (n,)}, with "label"
        as in `train_batches`.

    Raises:
        UserError: an option is unknown, or does not fit the images.
        DataError: an image cannot be read.

    >>> from train import data
    >>> split = data.load("synthetic:28x28x1/10", "test")
    >>> batches = list(data.eval_batches(split, Data(eval_batch_size=500)))
    >>> [int(batch["mask"].sum()) for batch in batches], batches[1]["image"].shape
    ([500, 12], (500, 28, 28, 1))
    """
    split = in_channels(split, config)
    batch_size, shape = config.eval_batch_size, image_shape(split, config)
    share = batch_size // processes
    end = len(split) if limit is None else min(limit, len(split))
    firsts = range(process * share, end + process * share, batch_size)
    orders = (np.arange(first, min(first + share, end)) for first in firsts)
    yield from in_threads(split, config, shape, orders, share, replace=False)


def read(split: Split, indices: np.ndarray, config: Data) -> np.ndarray:
    """The images of some examples after the evaluation transform, uint8 (n, H, W, C)."""
    split, shape = in_channels(split, config), image_shape(split, config)
    return next(in_threads(split, config, shape, [indices], len(indices)))["image"]


def in_threads(
    split: Split,
    config: Data,
    shape: tuple[int, int, int],
    orders: Iterable[np.ndarray],
    share: int,
    *,
    replace: bool = True,
) -> Iterator[Batch]:
    """Batches after the evaluation transform, read by threads ahead of need.

    Args:
        split: to read from.
        config: how to read it.
        shape: of the images.
        orders: for each batch at most `share` indices; the rows that it lacks are black and masked.
        share: rows of a batch.
        replace: with `on_bad_image=skip`, whether the next readable example replaces an unreadable
            one, which is otherwise black and masked.

    Raises:
        DataError: an image cannot be read.
    """
    bad.check_policy(config)
    if not split.encoded and shape == split.image_shape:
        yield from (padded(*split.fetch(indices), share) for indices in orders)
        return
    transform = make_transform(config, shape[2])

    def put(batch: Batch, row: int, payload) -> None:
        image = transform(split.load(payload))
        if image.shape != shape:
            actual, expected = ("x".join(map(str, sides)) for sides in (image.shape, shape))
            raise bad.BadImage(f"it is {actual}, not {expected}; set data.size")
        batch["image"][row], batch["mask"][row] = image, True

    def fill(batch: Batch, rows: range, payloads: np.ndarray, indices: np.ndarray) -> None:
        for row in rows:
            try:
                put(batch, row, payloads[row])
            except (bad.BadImage, OSError) as error:
                bad.report(split, indices[row], str(error), skip=config.on_bad_image == "skip")
                batch["image"][row] = 0
                if replace:
                    other = np.array([bad.next_good(split, indices[row], config)])
                    payload, batch["label"][row : row + 1] = split.fetch(other)
                    put(batch, row, payload[0])

    def submit(indices: np.ndarray) -> tuple[Batch, list[Future]]:
        payloads, labels = split.fetch(indices)
        count = len(labels)
        image = np.empty((share, *shape), np.uint8)
        image[count:] = 0
        label = with_zeros(labels, share - count)
        batch: Batch = {"image": image, "label": label, "mask": np.zeros(share, bool)}
        parts = [range(first, min(first + 4, count)) for first in range(0, count, 4)]
        return batch, [pool.submit(fill, batch, rows, payloads, indices) for rows in parts]

    with ThreadPoolExecutor(threads(config), thread_name_prefix="decode") as pool:
        try:
            for batch, parts in ahead(submit, orders, 2):
                for part in parts:
                    part.result()
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def padded(images: np.ndarray, labels: np.ndarray, share: int) -> Batch:
    """A batch of `share` rows; the rows after the images are black and masked."""
    mask = np.arange(share) < len(labels)
    if missing := share - len(labels):
        images, labels = with_zeros(images, missing), with_zeros(labels, missing)
    return {"image": images, "label": labels, "mask": mask}


def with_zeros(rows: np.ndarray, missing: int) -> np.ndarray:
    """Rows, and so many of zeros after them."""
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
