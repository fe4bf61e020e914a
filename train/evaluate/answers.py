"""Answers of a network to every image of a split, under any protocol, on all devices of all processes.

Crops flow into buckets by their shape; a full bucket is one batch, and answers are added up by example. So every
protocol is the same loop, every example counts once, and no process waits for another before the end.
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from train import data
from train.config import Data
from train.data import bad
from train.data.decode import decode
from train.data.threads import ahead, threads
from train.errors import UserError
from train.parallel import each_row

Rows = Iterator[
    tuple[np.ndarray, np.ndarray]
]  # images (n, h, w, C) uint8 of one shape, their examples (n,)
TINY = np.finfo(np.float32).tiny  # probabilities that float32 rounded to zero


class Answers(NamedTuple):
    """For the examples that could be read, in the order of the split."""

    log_probabilities: np.ndarray  # (N, K) float32
    labels: np.ndarray  # (N,)
    examples: np.ndarray  # (N,) their places in the split
    views: int  # how many crops, mirrored ones included, the last of them was looked at with
    classes: tuple[str, ...]  # (K,) what the answers are about


def looks(
    split: data.Split, config: Data, look: Callable, examples: np.ndarray
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(example, groups of crops) of the examples, decoded and cut in threads, ahead of need. Unreadable ones are left out."""
    channels = config.channels or split.image_shape[2]

    def one(payload: Any) -> list[np.ndarray] | bad.BadImage | OSError:
        try:
            source = split.load(payload)
            if isinstance(source, bytes):
                source = decode(source, channels, exif=config.exif, max_pixels=config.max_pixels)
            return look(source)
        except (bad.BadImage, OSError) as error:
            return error

    with ThreadPoolExecutor(threads(config), thread_name_prefix="decode") as pool:

        def submit(example: int):
            (payload,), _ = split.fetch(np.array([example]))
            return example, pool.submit(one, payload)

        for example, future in ahead(submit, iter(examples), 4 * threads(config)):
            groups = future.result()
            if isinstance(groups, Exception):
                bad.report(split, example, str(groups), skip=config.on_bad_image == "skip")
            else:
                yield int(example), groups


def in_buckets(crops: Iterator[tuple[int, list[np.ndarray]]], batch: int) -> Rows:
    """Batches of crops of one shape; what is left over comes last, in smaller ones."""
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


def as_evaluated(split: data.Split, config: Data, process: int, processes: int) -> Rows:
    """One look at each example of this process's share: the evaluation transform."""
    share = config.eval_batch_size // processes
    batches = data.eval_batches(split, config, process=process, processes=processes)
    for number, batch in enumerate(batches):
        first = (number * processes + process) * share
        kept = np.flatnonzero(batch["mask"])
        yield (batch["image"] if len(kept) == share else batch["image"][kept]), first + kept


class Network:
    """A network on this process's devices that answers batches of any length: rows in, rows out."""

    def __init__(self, model: nn.Module, variables: Any, preprocess: Callable, *, devices: int = 0, mirror: bool = False,
                 average: str = "probabilities", batch: int = 32):  # fmt: skip
        def answer(variables: Any, images: jax.Array) -> jax.Array:
            logits = model.apply(variables, preprocess(images), train=False).logits
            return jax.nn.softmax(logits) if average == "probabilities" else logits

        def both(variables: Any, images: jax.Array) -> jax.Array:
            return answer(variables, images) + (
                answer(variables, images[:, :, ::-1]) if mirror else 0
            )

        self._apply, self._variables, self._count = each_row(both, variables, devices)
        self.classes: int = model.num_classes
        self.batch = -(-batch // self._count) * self._count
        self._full: set[tuple] = set()  # shapes for which the program of a whole batch is compiled

    def __call__(self, images: np.ndarray) -> jax.Array:
        """(n, K), computed in the background; fewer rows than a batch are filled up to a batch, or to a power of two."""
        n, shape = len(images), images.shape[1:]
        rows = self.batch
        if n == self.batch:
            self._full.add(shape)
        elif shape not in self._full:
            rows = min(rows, -(-(1 << (n - 1).bit_length()) // self._count) * self._count)
        if n < rows:
            images = np.pad(images, ((0, rows - n), *[(0, 0)] * 3))
        return self._apply(self._variables, images)[:n]


def ask(subject: Any, split: data.Split, look: Callable | None, *, mirror: bool = False, average: str = "probabilities",
        batch: int = 0, devices: int = 0, progress: Callable[[int], None] = lambda count: None) -> Answers:  # fmt: skip
    """The answers of a `Classifier` to a whole split, the same on all processes.

    `look` cuts crops from a decoded image (`protocols.bind`), None is the evaluation transform; `average` is what is
    averaged over the crops: probabilities or logits.
    """
    if average not in ("probabilities", "logits"):
        raise UserError(f"--average is probabilities or logits, got {average!r}")
    config: Data = subject.data
    process, processes = jax.process_index(), jax.process_count()
    batch = batch or config.eval_batch_size
    share = max(1, batch // processes)
    one_look = look is None and not mirror
    network = Network(subject.model, subject.variables, subject.preprocess, devices=devices, mirror=mirror,
                      average="logits" if one_look else average, batch=share)  # fmt: skip
    if look is None:
        rows = as_evaluated(
            split,
            dataclasses.replace(config, eval_batch_size=share * processes),
            process,
            processes,
        )
    else:
        rows = in_buckets(
            looks(split, config, look, np.arange(process, len(split), processes)), network.batch
        )

    total, views = np.zeros((len(split), network.classes)), np.zeros(len(split), np.int32)
    running: deque = deque()

    def finish() -> None:
        scores, examples = running.popleft()
        scores = np.asarray(scores, np.float64)
        if look is None:
            total[examples] = scores
        else:
            np.add.at(total, examples, scores)
        np.add.at(views, examples, 2 if mirror else 1)
        progress(int((views > 0).sum()) if look else int(views.sum()))

    for images, examples in rows:
        if len(examples):
            running.append((network(images), examples))
        if len(running) > 2:
            finish()
    while running:
        finish()
    if processes > 1:
        from jax.experimental import multihost_utils

        mine = np.flatnonzero(views)
        length = max(np.asarray(multihost_utils.process_allgather(np.array(len(mine)))))
        padded = np.pad(mine, (0, length - len(mine)), constant_values=len(split))
        parts = [
            np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1))[padded]
            for x in (total.astype(np.float32), views)
        ]
        places, scores, seen = map(
            np.concatenate, multihost_utils.process_allgather((padded, *parts))
        )
        kept = places < len(split)
        total[places[kept]], views[places[kept]] = scores[kept], seen[kept]
    readable = np.flatnonzero(views)
    if not len(readable):
        raise bad.DataError(f"none of the {len(split)} images of {config.source} can be read")
    mean = total[readable] / views[readable, None]
    if one_look or average == "logits":
        logs = np.asarray(jax.nn.log_softmax(jnp.asarray(mean, jnp.float32)))
    else:
        logs = np.log(np.maximum(mean, TINY)).astype(np.float32)
    return Answers(
        logs,
        np.asarray(split.labels)[readable],
        readable,
        int(views[readable[-1]]),
        split.class_names,
    )


def together(answers: list[Answers], average: str) -> Answers:
    """The mean of several networks' answers to the same examples."""
    first = answers[0]
    if any(not np.array_equal(other.examples, first.examples) for other in answers):
        raise UserError("the networks could not read the same images")
    if len(answers) == 1:
        return first
    logs = np.stack([each.log_probabilities.astype(np.float64) for each in answers])
    if average == "logits":
        mean = logs.mean(0)
        mean -= np.log(np.exp(mean).sum(-1, keepdims=True))
    else:
        mean = np.log(np.maximum(np.exp(logs).mean(0), TINY))
    return first._replace(
        log_probabilities=mean.astype(np.float32), views=sum(each.views for each in answers)
    )


def as_counted(answers: Answers, split: data.Split) -> Answers:
    """Answers and labels as the set is evaluated: among the classes that count, and each label the best one accepted.

    So top-k asks whether one of the accepted classes is among the first k (Beyer et al. 2020), and images that none was
    found for are left out.
    """
    if split.counted is not None:
        places = np.asarray(split.counted)
        names = tuple(answers.classes[place] for place in places)
        answers = of_classes(answers, places, len(places))
        answers = answers._replace(labels=np.searchsorted(places, answers.labels), classes=names)
    if split.accepted is not None:
        accepted = [split.accepted[example] for example in answers.examples]
        kept = np.flatnonzero([len(right) > 0 for right in accepted])
        logs = answers.log_probabilities[kept]
        best = [accepted[row][logs[i, accepted[row]].argmax()] for i, row in enumerate(kept)]
        answers = answers._replace(
            log_probabilities=logs, labels=np.array(best, np.int32), examples=answers.examples[kept]
        )
    return answers


def of_classes(answers: Answers, columns: np.ndarray | None, classes: int) -> Answers:
    """Restricted to some of the network's classes, in another order; None keeps the first ones, as many as there are."""
    logs = answers.log_probabilities
    if columns is None and logs.shape[1] == classes:
        return answers
    chosen = logs[:, :classes] if columns is None else logs[:, columns]
    chosen = np.asarray(jax.nn.log_softmax(chosen)) if columns is not None else chosen
    return answers._replace(log_probabilities=chosen)
