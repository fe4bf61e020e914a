"""From a split and a plan to host batches.

A training batch is a pure function of (seed, step); evaluation sees each example exactly once. Three ways lead there:
by threads where nothing is random, in numpy for small images in memory that keep their size, and in tf.data for all else.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from train.config import Augment, Data
from train.data import affine, bad
from train.data.augment import apply_in_numpy, in_numpy, make_changes
from train.data.plan import Plan, uniform
from train.data.shape import image_shape, in_color, is_whole
from train.data.split import Split, Stream
from train.data.threads import ahead, threads
from train.data.transforms import make_transform

# image (n, H, W, C) uint8, label (n,) int32, mask (n,) bool; in training affine (n, 6) float32, where the device distorts
Batch = dict[str, np.ndarray]

SMALL = 60  # pixels a side, up to which numpy is faster than tf.data: mirroring 64 images of 128 takes 6.8 and 1.7 ms


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
    """This process's rows of the global batches of steps start..stop-1: together the processes' rows are the batch."""
    share = plan.batch_size // processes
    rows = slice(process * share, (process + 1) * share)
    batches = host_batches(split, plan, config, start=start, stop=stop, rows=rows)
    if not affine.wanted(config.augment):
        yield from batches
        return
    height, width, _ = image_shape(split, config)
    for step, batch in zip(range(start, stop), batches):
        places = plan.positions(step)[rows]
        yield batch | {"affine": affine.draw(config.augment, plan.seed, places, height, width)}


def host_batches(
    split: Split, plan: Plan, config: Data, *, start: int, stop: int, rows: slice
) -> Iterator[Batch]:
    """These rows of the batches, with all changes but those that are left to the device."""
    split, shape = in_color(split, config), image_shape(split, config)
    changes = make_changes(config.augment, shape)
    share = rows.stop - rows.start
    mask = np.ones(share, bool)
    whole = is_whole(split, config)

    if whole and in_numpy(changes) and max(shape[:2]) <= SMALL:
        for step in range(start, stop):
            images, labels = split.fetch(plan.indices(step)[rows])
            places = plan.positions(step)[rows]
            drawn = [
                change.draw(uniform(plan.seed, change.name, places, change.columns))
                for change in changes
            ]
            yield {"image": apply_in_numpy(changes, images, drawn), "label": labels, "mask": mask}
    elif (
        config.augment.crop == "center"
        and config.augment.interpolation == Augment.interpolation
        and not (changes or isinstance(split, Stream))
    ):  # nothing is random on the host, which reads as evaluation does
        orders = (plan.indices(step)[rows] for step in range(start, stop))
        yield from in_threads(split, config, shape, orders, share)
    else:
        from train.data.tfdata import augmented

        for images, labels in augmented(
            split, plan, config, shape, changes, range(start, stop), rows
        ):
            yield {"image": images, "label": labels, "mask": mask}


def eval_batches(
    split: Split, config: Data, *, process: int = 0, processes: int = 1, limit: int | None = None
) -> Iterator[Batch]:
    """This process's rows of consecutive global batches; what is missing in the last one is black and masked.

    With `on_bad_image = skip`, so is an example that cannot be read. `limit` leaves out what comes after so many.
    """
    split = in_color(split, config)
    batch_size, shape = config.eval_batch_size, image_shape(split, config)
    share = batch_size // processes
    end = len(split) if limit is None else min(limit, len(split))
    firsts = range(process * share, end + process * share, batch_size)
    orders = (np.arange(first, min(first + share, end)) for first in firsts)
    yield from in_threads(split, config, shape, orders, share, replace=False)


def read(split: Split, indices: np.ndarray, config: Data) -> np.ndarray:
    """Some examples as evaluation sees them."""
    return next(
        in_threads(split, config, image_shape(split, config), iter([indices]), len(indices))
    )["image"]


def in_threads(
    split: Split,
    config: Data,
    shape: tuple[int, int, int],
    orders: Iterable[np.ndarray],
    share: int,
    *,
    replace: bool = True,
) -> Iterator[Batch]:
    """Batches of `share` rows from orders of at most as many indices, by the evaluation transform, in threads, ahead of need.

    An unreadable example is an error, or is replaced, or left black and masked; so are the rows that an order lacks.
    """
    bad.check_policy(config)
    if not split.encoded and shape == split.image_shape:
        for indices in orders:
            images, labels = split.fetch(indices)
            missing = share - len(indices)
            if missing:
                images, labels = (
                    np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))),
                    np.pad(labels, (0, missing)),
                )
            yield {"image": images, "label": labels, "mask": np.arange(share) < len(indices)}
        return
    transform = make_transform(config, shape[2])
    skip = config.on_bad_image == "skip"

    def fill(batch: Batch, rows: range, payloads: np.ndarray, indices: np.ndarray) -> None:
        for row in rows:
            try:
                batch["image"][row] = checked(transform(split.load(payloads[row])), shape)
                batch["mask"][row] = True
            except (bad.BadImage, OSError) as error:
                bad.report(split, indices[row], str(error), skip=skip)
                batch["image"][row] = 0
                if replace:
                    stand_in, batch["label"][row : row + 1] = split.fetch(
                        np.array([bad.next_good(split, indices[row], config)])
                    )
                    batch["image"][row] = transform(split.load(stand_in[0]))
                    batch["mask"][row] = True

    def submit(indices: np.ndarray) -> tuple[Batch, list[Future]]:
        payloads, labels = split.fetch(indices)
        batch: Batch = {
            "image": np.empty(
                (share, *shape), np.uint8
            ),  # all of it black would take 1 to 2 % of the time
            "label": np.zeros(share, np.int32),
            "mask": np.zeros(share, bool),
        }
        batch["label"][: len(labels)] = labels
        batch["image"][len(labels) :] = 0
        parts = [range(len(labels))[first : first + 4] for first in range(0, len(labels), 4)]
        return batch, [pool.submit(fill, batch, rows, payloads, indices) for rows in parts]

    with ThreadPoolExecutor(threads(config), thread_name_prefix="decode") as pool:
        try:
            for batch, parts in ahead(submit, orders, 2):
                for part in parts:
                    part.result()
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def checked(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """BadImage where a source that says that all its images have one shape holds another."""
    if image.shape != shape:
        raise bad.BadImage(
            f"it is {'x'.join(map(str, image.shape))}, not {'x'.join(map(str, shape))}; say data.size"
        )
    return image
