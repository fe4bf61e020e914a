"""Looking at data: broken files, training examples, statistics.

One file, because the three name splits and read images alike.
"""

import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from cnnjax.images import BadImage, decode
from train.cli import printable
from train.config import Config, Data
from train.data import bad
from train.data.counts import advice, describe, of_labels
from train.data.counts import counts as class_counts
from train.data.pipeline import Batch, read, train_batches
from train.data.plan import Plan
from train.data.sources import folder, load
from train.data.sources.arrays import MissingSplit, one_class, split_kind
from train.data.split import Split, Stream, in_words
from train.data.threads import ahead, threads
from train.errors import DataError
from train.progress import columns, waiting

ROWS, COLUMNS = 4, 8  # of the picture that `show` draws


def check(path: str, config: Data | None = None) -> dict[str, Any]:
    """Decodes every image below a folder, as training and as evaluation do.

    Standard error says what training would make of the folder: its splits and their classes.

    Returns:
        {"images": their number, "bad": how many cannot be read, "files": their sorted names,
        "left_out": how many files do not have the suffix of an image}.

    Raises:
        DataError: the folder is missing or has no images, or its splits have different classes.
    """
    path = folder.check_folder(path)
    config = config or Data()
    left_out: Counter[str] = Counter()
    found = folder.walk(path, ".", left_out)
    names = sorted(name.removeprefix("./") for name, _ in found)
    folder.report_left_out(path, left_out)
    if not names:
        raise DataError(f"{path} has no images ({', '.join(folder.SUFFIXES)})")
    split = folder.Files(path, names, np.zeros(len(names), np.int32), ("",))

    def reason(index: int) -> str | None:
        why = bad.reason(split, index, config)
        if why is not None:
            return why
        try:
            payload = split.fetch(np.array([index]))[0][0]
            decode(split.load(payload), 3, max_pixels=config.max_pixels)
        except (BadImage, OSError) as error:
            return str(error)
        return None

    for line in as_training(path):
        say(line)
    with waiting("reading the first image"):  # imports TensorFlow before the bar's clock starts
        reason(0)
    broken: list[str] = []
    with (
        ThreadPoolExecutor(threads(config)) as pool,
        tqdm(total=len(split), unit="image", disable=None) as bar,
    ):
        futures = ahead(lambda index: pool.submit(reason, index), range(len(split)), 64)
        for index, future in enumerate(futures):
            why = future.result()
            if why is not None:
                broken.append(split.name(index))
                bar.write(f"{split.name(index)}: {why}", file=sys.stderr)
            bar.update()
    say(
        f"{len(split):,} images: {len(broken):,} cannot be read"
        if broken
        else f"{len(split):,} images, all of which can be read"
    )
    return {
        "images": len(split),
        "bad": len(broken),
        "files": sorted(broken),
        "left_out": left_out.total(),
    }


def as_training(path: str) -> list[str]:
    """The splits and classes that training finds in a folder, or why it finds none.

    Raises:
        DataError: the splits have different classes.
    """
    if splits := folder.splits_of(path, path):
        evaluated = any(split_kind(name) in ("val", "test") for name in splits)
        return classes_of(f"folder:{path}", splits if evaluated else [*splits, "val"])
    try:
        lines = classes_of(f"folder:{path}", ["train", "test"])
    except DataError as error:  # any folder of images may be checked
        return [f"not ready for training: {error}"]
    return ["no folder train: a fifth of the images, by their names, is held out", *lines]


def classes_of(source: str, splits: list[str]) -> list[str]:
    """A line for each split: its classes and how many images they have, or that it is missing.

    Raises:
        DataError: the splits have different classes.
    """
    return [class_line(source, name) for name in splits]


def class_line(source: str, name: str) -> str:
    try:
        return f"{name}: {describe(load(source, name))}"
    except MissingSplit as error:  # any folder of images may be looked at
        return f"not ready for training: {error}"


def say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


class Repeated(Plan):
    """Each chosen example `times` times, at different positions, so differently augmented."""

    def __init__(self, chosen: np.ndarray, times: int, seed: int):
        super().__init__(len(chosen), len(chosen) * times, seed)
        self._indices = np.repeat(chosen, times)

    def indices(self, step: int) -> np.ndarray:
        return self._indices


def show(config: Config, out: str, split_name: str = "", images: int = 0) -> dict[str, Any]:
    """Writes a picture of training examples, each augmented 8 times; of a stream, once each.

    Args:
        config: whose `data` and `seed` count.
        out: the picture.
        split_name: the training split by default. Of another split, the picture shows what
            evaluation reads of each example.
        images: how many examples; 0: as many as fit into 4 rows.

    Returns:
        {"picture": out, "examples": their names; empty for a stream}.

    Raises:
        DataError: an image cannot be read, or the picture cannot be written.
    """
    name = split_name or config.data.train_split
    split = load(config.data.source, name)
    evaluated = name != config.data.train_split
    stream = isinstance(split, Stream)
    count = min(images or (ROWS * COLUMNS if evaluated or stream else ROWS), len(split))
    chosen = choose(split, count, config.seed)
    examples = [] if stream else [split.name(int(index)) for index in chosen]
    if evaluated:
        pixels, labels = read(split, chosen, config.data), split.fetch(chosen)[1]
        what = "as evaluation reads them"
    else:
        plan = (
            Plan(len(split), count, config.seed)
            if stream
            else Repeated(chosen, COLUMNS, config.seed)
        )
        with waiting("changing images"):
            batch = next(train_batches(split, plan, config.data, start=0, stop=1))
        pixels, labels = on_device(batch, config, len(split.class_names)), batch["label"]
        what = "as training reads them" + ("" if stream else f", each {COLUMNS} times")
    titles = [in_words(label, split.class_names) for label in labels]
    if not evaluated and not stream:  # a row of one example
        titles = [title if place % COLUMNS == 0 else "" for place, title in enumerate(titles)]
    try:
        montage(pixels, titles).save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"--out={out} cannot be written: {error}") from None
    say(f"open {out}: {count} {name} images, {what}")
    return {"picture": out, "examples": examples}


def choose(split: Split, count: int, seed: int) -> np.ndarray:
    """Examples (count,) at random, in order; in turn from each class where labels are at hand."""
    order = Plan(len(split), len(split), seed).indices(0)
    if class_counts(split) is not None:
        labels = one_class(split.labels)[order]
        turn = np.empty(len(order), int)
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.count_nonzero(labels == label))
        order = order[np.argsort(turn, kind="stable")]
    return np.sort(order[:count])


def on_device(batch: Batch, config: Config, classes: int) -> np.ndarray:
    """The images after the device's distortion, noise, mixup and CutMix, uint8 (n, H, W, C)."""
    import jax
    import jax.numpy as jnp

    from train.mix import make_mix, warp

    augment, images = config.data.augment, jnp.asarray(batch["image"])
    if "affine" in batch:
        images = warp(images, jnp.asarray(batch["affine"]))
    mix = make_mix(classes, noise=augment.noise, mixup=augment.mixup, cutmix=augment.cutmix)
    if mix:
        labels, key = jnp.asarray(batch["label"]), jax.random.key(config.seed)
        images = 255 * mix(images / 255, labels, key)[0]
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def montage(images: np.ndarray, titles: list[str]) -> Image.Image:
    """Images (N, H, W, C) in rows, each under its title; small images are enlarged."""
    zoom = max(1, 96 // images.shape[1])
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    height, width = images.shape[1] + 2, images.shape[2] + 2
    line, rows = 16, -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + 2, rows * (height + line) + 2), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (pixels, title) in enumerate(zip(images, titles)):
        left, top = place % COLUMNS * width + 2, place // COLUMNS * (height + line)
        draw.text((left + 2, top + 2), title, fill="black")
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        sheet.paste(picture, (left, top + line + 2))
    return sheet


def stats(config: Config, split_name: str = "", limit: int = 10_000) -> dict[str, Any]:
    """Examples of each class; mean and standard deviation of each channel, in [0, 1].

    Args:
        config: whose `data` counts.
        split_name: the training split by default.
        limit: the most images to measure mean and deviation on.

    Raises:
        DataError: the data or an image cannot be read.
    """
    name = split_name or config.data.train_split
    split = load(config.data.source, name)
    others = {config.data.train_split, config.data.eval_split} - {name}
    for line in [f"{name}: {describe(split)}", *classes_of(config.data.source, sorted(others))]:
        say(line)
    counts = of_labels(split.labels, len(split.class_names))
    sums, squares = np.zeros(1), np.zeros(1)
    pixels = measured = 0
    with tqdm(total=min(limit, len(split)), unit="image", disable=None) as bar:
        for image in sample(split, config.data, limit):
            levels = image.reshape(-1, image.shape[-1]).astype(np.float64) / 255
            sums, squares = sums + levels.sum(0), squares + (levels**2).sum(0)
            pixels += len(levels)
            measured += 1
            bar.update()
    if not measured:
        raise DataError(f"none of the images of {config.data.source} can be read")
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))  # rounding may leave -1e-17
    grey = len(mean) == 3 and bool(np.ptp(mean) < 1e-6 and np.ptp(std) < 1e-6)
    for line in advice(mean, std, grey, counts, split.class_names):
        say("\n".join(textwrap.wrap(line, min(columns(), 100), subsequent_indent="  ")))
    return {
        "split": name,
        "examples": len(split),
        "classes": {name: int(count) for name, count in zip(split.class_names, counts)},
        "mean": [round(float(x), 4) for x in mean],
        "std": [round(float(x), 4) for x in std],
        "measured": measured,
    }


def sample(split: Split, config: Data, limit: int) -> Iterator[np.ndarray]:
    """At most `limit` images uint8 (H, W, C), evenly spaced over a split.

    They are as in evaluation, or whole where they vary in size and `data.size` is not set.
    """
    places = np.linspace(0, len(split), min(limit, len(split)), endpoint=False).astype(int)
    if config.size or not split.encoded or None not in split.image_shape:
        for part in np.array_split(places, -(-len(places) // 256)):
            yield from read(split, part, config)
        return
    channels = config.channels or split.image_shape[2]

    def pixels(index: int, payload: Any) -> np.ndarray | None:
        try:
            data = split.load(payload)
            return decode(data, channels, exif=config.exif, max_pixels=config.max_pixels)
        except (BadImage, OSError) as error:
            bad.report(split, index, str(error), skip=config.on_bad_image == "skip")
            return None

    with ThreadPoolExecutor(threads(config)) as pool:

        def submit(index: int):
            return pool.submit(pixels, index, split.fetch(np.array([index]))[0][0])

        for future in ahead(submit, places, 2 * threads(config)):
            image = future.result()
            if image is not None:
                yield image
