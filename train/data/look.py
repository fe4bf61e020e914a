"""Looking at data: which files are broken, what training sees, how many of what."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw
from tqdm import tqdm

from train.config import Config, Data
from train.data import bad, decode
from train.data.pipeline import Batch, read, train_batches
from train.data.plan import Plan
from train.data.shape import image_shape
from train.data.sources import folder, load
from train.data.split import Split, Stream
from train.data.threads import ahead, threads
from train.errors import DataError

ROWS, COLUMNS = 4, 8


def check(path: str, config: Data | None = None) -> dict[str, Any]:
    """Decodes every image below a folder, by both decoders that are in use, and lists those that cannot be read."""
    if not epath.Path(path).is_dir():
        raise DataError(
            f"{path} is not a folder" if epath.Path(path).exists() else f"{path} does not exist"
        )
    config = config or Data()
    names = sorted(folder.walk(path, "."))
    if not names:
        raise DataError(f"{path} has no images ({', '.join(folder.SUFFIXES)})")
    split = folder.Files(
        path, [name.removeprefix("./") for name in names], np.zeros(len(names), np.int32), ("",)
    )
    broken: dict[str, str] = {}

    def reason(index: int) -> str | None:
        why = bad.reason(split, index, config)
        if why is None:
            try:
                decode.decode(
                    split.load(split.fetch(np.array([index]))[0][0]),
                    3,
                    max_pixels=config.max_pixels,
                )
            except (decode.BadImage, OSError) as error:
                why = str(error)
        return why

    with (
        ThreadPoolExecutor(threads(config)) as pool,
        tqdm(total=len(split), unit="image", disable=None) as bar,
    ):
        for index, future in enumerate(
            ahead(lambda i: pool.submit(reason, i), iter(range(len(split))), 64)
        ):
            why = future.result()
            if why is not None:
                broken[split.name(index)] = why
                bar.write(f"{split.name(index)}: {why}", file=sys.stderr)
            bar.update()
    return {"images": len(split), "bad": len(broken), "files": sorted(broken)}


class Repeated(Plan):
    """The same few examples over and over, at places in the stream of their own: what augmentation makes of each."""

    def __init__(self, chosen: np.ndarray, times: int, seed: int):
        super().__init__(len(chosen), len(chosen) * times, seed)
        self._indices = np.repeat(chosen, times)

    def indices(self, step: int) -> np.ndarray:
        return self._indices


def show(config: Config, out: str) -> dict[str, Any]:
    """Writes a picture of 4 examples, each as 8 training examples come out of it."""
    split = load(config.data.source, config.data.train_split)
    chosen = np.sort(Plan(len(split), ROWS, config.seed).indices(0))
    if isinstance(split, Stream):
        plan = Plan(len(split), ROWS * COLUMNS, config.seed)
    else:
        plan = Repeated(chosen, COLUMNS, config.seed)
    batch = next(train_batches(split, plan, config.data, start=0, stop=1))
    images = on_device(batch, config, len(split.class_names))
    try:
        montage(images, [split.class_names[label] for label in batch["label"][::COLUMNS]]).save(out)
    except (OSError, ValueError) as error:
        raise DataError(f"--out={out} cannot be written: {error}") from None
    return {
        "picture": out,
        "examples": [split.name(int(i)) for i in chosen] if type(plan) is Repeated else [],
    }


def on_device(batch: Batch, config: Config, classes: int) -> np.ndarray:
    """Images uint8 with the distortion, noise, mixup or CutMix that is left to the device."""
    import jax
    import jax.numpy as jnp

    from train.mix import make_mix, warp

    chosen, images = config.data.augment, jnp.asarray(batch["image"])
    if "affine" in batch:
        images = warp(images, jnp.asarray(batch["affine"]))
    if mix := make_mix(classes, noise=chosen.noise, mixup=chosen.mixup, cutmix=chosen.cutmix):
        images = (
            255 * mix(images / 255, jnp.asarray(batch["label"]), jax.random.key(config.seed))[0]
        )
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def montage(images: np.ndarray, names: list[str]) -> Image.Image:
    """Images (rows * COLUMNS, H, W, C) side by side, every row under its name; small ones are enlarged."""
    zoom = max(1, 96 // images.shape[1])
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    height, width = images.shape[1] + 2, images.shape[2] + 2
    line = 16
    sheet = Image.new("RGB", (COLUMNS * width + 2, len(names) * (height + line) + 2), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        top = row * (height + line)
        draw.text((4, top + 2), name, fill="black")
        for column in range(COLUMNS):
            pixels = images[row * COLUMNS + column]
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            sheet.paste(picture, (2 + column * width, top + line + 2))
    return sheet


def stats(config: Config, split_name: str = "", limit: int = 10_000) -> dict[str, Any]:
    """Examples of each class; mean and standard deviation of the channels, in [0, 1], over at most `limit` images."""
    name = split_name or config.data.train_split
    split = load(config.data.source, name)
    counts = np.bincount(split.labels, minlength=len(split.class_names))
    total, square, pixels = np.zeros(3), np.zeros(3), 0
    seen = 0
    with tqdm(total=min(limit, len(split)), unit="image", disable=None) as bar:
        for image in sample(split, config.data, limit):
            levels = image.reshape(-1, image.shape[-1]).astype(np.float64) / 255
            total, square = (
                total[: levels.shape[1]] + levels.sum(0),
                square[: levels.shape[1]] + (levels**2).sum(0),
            )
            pixels += len(levels)
            seen += 1
            bar.update()
    mean = total / pixels
    std = np.sqrt(square / pixels - mean**2)
    return {
        "split": name,
        "examples": len(split),
        "classes": {name: int(count) for name, count in zip(split.class_names, counts)},
        "mean": [round(float(x), 4) for x in mean],
        "std": [round(float(x), 4) for x in std],
        "measured": seen,
    }


def sample(split: Split, config: Data, limit: int):
    """Images uint8 (H, W, C), evenly spread over a split: as evaluation sees them, or whole where no size is said."""
    places = np.linspace(0, len(split), min(limit, len(split)), endpoint=False).astype(int)
    if config.size or not split.encoded or None not in split.image_shape:
        image_shape(split, config)
        for part in np.array_split(places, -(-len(places) // 256)):
            yield from read(split, part, config)
        return

    def one(index: int):
        payload = split.fetch(np.array([index]))[0][0]
        return index, payload

    def pixels(index: int, payload) -> np.ndarray | None:
        try:
            channels = config.channels or split.image_shape[2]
            return decode.decode(
                split.load(payload), channels, exif=config.exif, max_pixels=config.max_pixels
            )
        except (decode.BadImage, OSError) as error:
            bad.report(split, index, str(error), skip=config.on_bad_image == "skip")
            return None

    with ThreadPoolExecutor(threads(config)) as pool:
        for future in ahead(
            lambda i: pool.submit(pixels, *one(i)), iter(places), 2 * threads(config)
        ):
            image = future.result()
            if image is not None:
                yield image
