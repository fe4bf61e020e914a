"""Small photographs, smooth, so that decoders and kernels differ as little as on real ones."""

import io
import time

import numpy as np
from PIL import Image

from train import data
from train.config import Augment, Data
from train.data import Plan


def photo(height=60, width=80, seed=0, channels=3):
    """uint8 (H, W, C): soft blobs of colour."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (4, 5, channels)).astype(np.uint8)
    planes = [
        Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def encoded(pixels, kind="JPEG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, **options}
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    image.save(file, kind, **options)
    return file.getvalue()


def write_folder(root, classes=("cat", "dog"), train=12, held_out=5, height=60, width=80):
    """Writes root/train/CLASS/*.jpg and root/val/CLASS/*.jpg."""
    for split, count in (("train", train), ("val", held_out)):
        for label, name in enumerate(classes):
            for index in range(count):
                path = root / split / name / f"{index:03d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = 1000 * label + 100 * (split == "val") + index
                path.write_bytes(encoded(photo(height, width, seed=seed)))
    return root


def options(root, **changes):
    """A config that reads small crops from a folder."""
    changes = {"size": 32, "batch_size": 8, "eval_batch_size": 8, **changes}
    changes.setdefault("augment", Augment(crop="area", flip=True))
    return Data(source=f"folder:{root}", **changes)


def seconds_to_a_batch(split, config, step, attempts=3):
    """(of the first step, of another one): the least of what each took, in turn."""
    taken = {0: [], step: []}
    for attempt in range(attempts + 1):
        for begin, seconds in taken.items():
            began = time.perf_counter()
            plan = Plan(len(split), config.batch_size, seed=1)
            place = begin + attempt
            batches = data.train_batches(split, plan, config, start=place, stop=place + 1)
            assert len(next(batches)["label"]) == config.batch_size
            seconds.append(time.perf_counter() - began)
    return tuple(min(seconds[1:]) for seconds in taken.values())  # TensorFlow is warm then
