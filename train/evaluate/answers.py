"""A network's answers to every image of a split, by any protocol, on all devices and processes.

Crops are collected by their shape; as many as a batch holds go to the network together, and its
answers are added up by example. So every protocol is the same loop, every example counts once, and
no process waits for another before the end.

One file: crops, batches, network and sum are stages of one loop.
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.images import BadImage, decode
from cnnjax.spelling import choice
from train import data
from train.classifier import Classifier
from train.config import Data
from train.data import bad
from train.data.shape import in_channels
from train.data.threads import ahead, threads
from train.errors import DataError, UserError
from train.evaluate.protocols import Crop
from train.evaluate.statistics import TINY, log_complement
from train.parallel import each_row

# Images (n, h, w, C) uint8 of one shape, and the examples (n,) that they are of.
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
AVERAGES = ("probabilities", "logits")


class Answers(NamedTuple):
    """For the examples that could be read, in the order of the split."""

    log_probabilities: np.ndarray  # (N, K) float32
    labels: np.ndarray  # (N,), or (N, K) zeros and ones
    examples: np.ndarray  # (N,) their places in the split
    views: int  # crops of an example, mirrored ones included
    classes: tuple[str, ...]  # (K,)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, and each class its own probability."""
        return self.labels.ndim == 2


# The crops


def cut(
    split: data.Split, config: Data, crop: Crop, examples: np.ndarray
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Decodes examples and cuts their crops, in threads, ahead of need.

    Yields:
        (example, groups of crops); unreadable examples are left out.

    Raises:
        DataError: an example cannot be read and `config.on_bad_image` is "error".
    """
    split = in_channels(split, config)
    channels = config.channels or split.image_shape[2]

    def cut_one(payload: Any) -> list[np.ndarray] | BadImage | OSError:
        try:
            source = split.load(payload)
            if isinstance(source, bytes):
                source = decode(source, channels, exif=config.exif, max_pixels=config.max_pixels)
            return crop(source)
        except (BadImage, OSError) as error:
            return error

    with ThreadPoolExecutor(threads(config), thread_name_prefix="decode") as pool:

        def submit(example: int):
            (payload,), _ = split.fetch(np.array([example]))
            return example, pool.submit(cut_one, payload)

        for example, future in ahead(submit, iter(examples), 4 * threads(config)):
            groups = future.result()
            if isinstance(groups, Exception):
                bad.report(split, example, str(groups), skip=config.on_bad_image == "skip")
            else:
                yield int(example), groups


def by_shape(crops: Iterator[tuple[int, list[np.ndarray]]], batch: int) -> Batches:
    """Batches of crops of one shape; the rest of each shape comes last, in smaller batches."""
    waiting: dict[tuple, list[tuple[np.ndarray, int]]] = defaultdict(list)
    for example, groups in crops:
        for group in groups:
            bucket = waiting[group.shape[1:]]
            bucket += [(crop, example) for crop in group]
            while len(bucket) >= batch:
                yield _stack(bucket[:batch])
                del bucket[:batch]
    for bucket in waiting.values():
        if bucket:
            yield _stack(bucket)


def _stack(bucket: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    images, examples = zip(*bucket)
    return np.stack(images), np.array(examples)


def transformed(split: data.Split, config: Data, process: int, processes: int) -> Batches:
    """The evaluation transform of each example of this process's share."""
    share = config.eval_batch_size // processes
    batches = data.eval_batches(split, config, process=process, processes=processes)
    for number, batch in enumerate(batches):
        first = (number * processes + process) * share
        rows = np.flatnonzero(batch["mask"])
        yield (batch["image"] if len(rows) == share else batch["image"][rows]), first + rows


# The network


class Network:
    """A network on this process's devices that answers batches of any length."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        devices: int = 0,
        mirror: bool = False,
        average: str = "probabilities",
        batch: int = 32,
    ):
        def answer(variables: Any, images: jax.Array) -> jax.Array:
            images = classifier.preprocess(images)
            logits = classifier.model.apply(variables, images, train=False).logits
            return classifier.probabilities(logits) if average == "probabilities" else logits

        def answer_both(variables: Any, images: jax.Array) -> jax.Array:
            mirrored = answer(variables, images[:, :, ::-1]) if mirror else 0
            return answer(variables, images) + mirrored

        self._apply, self._variables, self._count = each_row(
            answer_both, classifier.variables, devices
        )
        self.classes: int = classifier.model.num_classes
        self.batch = -(-batch // self._count) * self._count
        self._full: set[tuple] = set()  # shapes for which the program of a whole batch is compiled

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Scores (n, K) of images (n, h, w, C), computed in the background.

        Fewer images than a batch are padded to a batch, or to a power of two where no whole batch
        of their shape has come yet.
        """
        n, shape = len(images), images.shape[1:]
        rows = self.batch
        if n == self.batch:
            self._full.add(shape)
        elif shape not in self._full:
            rows = min(rows, -(-(1 << (n - 1).bit_length()) // self._count) * self._count)
        if n < rows:
            images = np.pad(images, ((0, rows - n), *[(0, 0)] * 3))
        return self._apply(self._variables, images)[:n]


def ask(
    classifier: Classifier,
    split: data.Split,
    crop: Crop | None,
    *,
    mirror: bool = False,
    average: str = "probabilities",
    batch: int = 0,
    devices: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> Answers:
    """A network's answers to a whole split, the same on all processes.

    Args:
        classifier: the network.
        split: the images.
        crop: cuts a decoded image into groups of crops (`protocols.bind`); None for the
            evaluation transform of `classifier.data`.
        mirror: add the mirror image of each crop.
        average: what is averaged over the crops, "probabilities" or "logits".
        batch: crops at once, over all processes; by default `data.eval_batch_size`.
        devices: how many of the local devices; 0 for all.
        progress: is called with the number of examples that this process has begun to answer.

    Raises:
        DataError: images cannot be read.
        UserError: `average` or `devices` is impossible.
    """
    choice("--average", average, AVERAGES, UserError)
    config, process, processes = classifier.data, jax.process_index(), jax.process_count()
    share = max(1, (batch or config.eval_batch_size) // processes)
    if crop is None and not mirror:
        average = "logits"  # there is one view, so nothing to average
    network = Network(classifier, devices=devices, mirror=mirror, average=average, batch=share)
    if crop is None:
        config = dataclasses.replace(config, eval_batch_size=share * processes)
        batches = transformed(split, config, process, processes)
    else:
        share_of_examples = np.arange(process, len(split), processes)
        batches = by_shape(cut(split, config, crop, share_of_examples), network.batch)

    total, views = np.zeros((len(split), network.classes)), np.zeros(len(split), np.int32)
    for scores, examples in _run(network, batches):
        for row, example in zip(scores, examples):  # an example may have several rows
            total[example] += row
            views[example] += 2 if mirror else 1
        progress(int(np.count_nonzero(views)))
    if processes > 1:
        _gather(total, views)
    readable = np.flatnonzero(views)
    if not len(readable):
        raise DataError(f"none of the {len(split)} images of {config.source} can be read")
    return Answers(
        log_probabilities=_log_mean(total[readable], views[readable], average, classifier),
        labels=np.asarray(split.labels)[readable],
        examples=readable,
        views=int(views[readable[-1]]),
        classes=split.class_names,
    )


def _run(network: Network, batches: Batches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(scores, examples) of the batches; two further batches are computed meanwhile."""
    running: deque = deque()
    for images, examples in batches:
        if len(examples):
            running.append((network(images), examples))
        if len(running) > 2:
            scores, examples = running.popleft()
            yield np.asarray(scores), examples
    for scores, examples in running:
        yield np.asarray(scores), examples


def _gather(total: np.ndarray, views: np.ndarray) -> None:
    """Fills in the rows that other processes have answered."""
    from jax.experimental import multihost_utils

    answered = np.flatnonzero(views)
    most = int(np.max(multihost_utils.process_allgather(np.array(len(answered)))))
    none = len(views)  # stands for no example; the rows of all processes have the same length
    rows = np.pad(answered, (0, most - len(answered)), constant_values=none)
    parts = [
        np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1))[rows]
        for x in (total.astype(np.float32), views)
    ]
    rows, scores, counts = map(np.concatenate, multihost_utils.process_allgather((rows, *parts)))
    real = rows < none
    total[rows[real]], views[rows[real]] = scores[real], counts[real]


def _log_mean(
    total: np.ndarray, views: np.ndarray, average: str, classifier: Classifier
) -> np.ndarray:
    """(N, K) log-probabilities of sums over views."""
    mean = total / views[:, None]
    if average == "logits":
        return np.asarray(classifier.log_probabilities(jnp.asarray(mean, jnp.float32)))
    if classifier.multi_label:  # no sigmoid is 1, though float32 may round it to that
        mean = np.minimum(mean, 1 - np.finfo(np.float32).epsneg)
    return np.log(np.maximum(mean, TINY)).astype(np.float32)


# What becomes of answers


def combine(answers: list[Answers], average: str) -> Answers:
    """The mean of several networks' answers to the same examples.

    Raises:
        UserError: the networks have not answered the same examples.
    """
    first = answers[0]
    if any(not np.array_equal(other.examples, first.examples) for other in answers):
        raise UserError("the networks could not read the same images")
    if len(answers) == 1:
        return first
    logs = np.stack([member.log_probabilities.astype(np.float64) for member in answers])
    if average == "logits" and first.multi_label:
        odds = (logs - log_complement(logs)).mean(0)
        mean = -np.logaddexp(0, -odds)
    elif average == "logits":
        mean = logs.mean(0)
        mean -= np.log(np.exp(mean).sum(-1, keepdims=True))
    else:
        mean = np.log(np.maximum(np.exp(logs).mean(0), TINY))
    return first._replace(
        log_probabilities=mean.astype(np.float32), views=sum(member.views for member in answers)
    )


def as_counted(answers: Answers, split: data.Split) -> Answers:
    """The answers as the split is evaluated.

    Only the classes that count (`split.counted`) remain. Where several labels are accepted
    (`split.accepted`), the label becomes the most probable of them, so that top-k asks whether one
    of them is among the first k (Beyer et al. 2020); images without an accepted label are left out.

    Raises:
        DataError: no image has an accepted label.
    """
    if split.counted is not None:
        places = np.asarray(split.counted)
        names = tuple(answers.classes[place] for place in places)
        answers = select_classes(answers, places, len(places))
        answers = answers._replace(labels=np.searchsorted(places, answers.labels), classes=names)
    if split.accepted is not None:
        accepted = [split.accepted[example] for example in answers.examples]
        rows = np.flatnonzero([len(labels) > 0 for labels in accepted])
        if not len(rows):
            raise DataError(f"none of the {len(accepted)} images has an accepted label")
        logs = answers.log_probabilities[rows]
        best = [accepted[row][logs[i, accepted[row]].argmax()] for i, row in enumerate(rows)]
        answers = answers._replace(
            log_probabilities=logs, labels=np.array(best, np.int32), examples=answers.examples[rows]
        )
    return answers


def select_classes(answers: Answers, columns: np.ndarray | None, classes: int) -> Answers:
    """The answers over some of the network's classes; where one is right, normalised again.

    Args:
        answers: over all of the network's classes.
        columns: the classes, in their new order; None for the first ones, as they are.
        classes: how many.
    """
    logs = answers.log_probabilities
    if columns is not None and answers.multi_label:
        return answers._replace(log_probabilities=logs[:, columns])
    if columns is not None:
        return answers._replace(log_probabilities=np.asarray(jax.nn.log_softmax(logs[:, columns])))
    if logs.shape[1] == classes:
        return answers
    return answers._replace(log_probabilities=logs[:, :classes])
