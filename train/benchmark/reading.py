"""How fast images come out of JPEG files, in turn with torchvision's loader and with bare decoding.

Other work on the machine slows all of them down alike, so what counts are the ratios within a round.
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from train.config import Augment, Data
from train.errors import UserError

BATCH = 64


def photograph(seed: int, height: int = 375, width: int = 500) -> bytes:
    """A JPEG file of about 100 kB: noise with the spectrum of natural images, so that it decodes like one."""
    random = np.random.RandomState(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequency = np.maximum(np.hypot(y, x), 1 / max(height, width))

    def field(power: float) -> np.ndarray:
        spectrum = random.randn(*frequency.shape) + 1j * random.randn(*frequency.shape)
        values = np.fft.irfft2(spectrum / frequency**power, (height, width))
        return values / values.std()

    light = 45 * field(1.1)
    pixels = np.stack([120 + light + 15 * field(1.3) for _ in range(3)], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def measure(
    peer: str = "", *, examples: int = 512, rounds: int = 5, workers: int = 2, size: int = 224
) -> dict:
    """Images per second of the training and the evaluation pipeline, each round by round in turn with its rivals.

    `peer` is "torchvision" or nothing. Ratios are medians over the rounds.
    """
    if peer not in ("", "torchvision"):
        raise UserError(f"--what=data compares with torchvision, not with {peer!r}")
    with tempfile.TemporaryDirectory() as place:
        files = [photograph(seed) for seed in range(64)]
        for index in range(examples):
            path = Path(place) / "train" / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[index % len(files)])
        rates = in_turn(contestants(place, peer, workers, size), rounds, examples)

    result: dict = {
        "images": examples,
        "kilobytes": round(statistics.mean(map(len, files)) / 1000),
        "workers": workers,
    }
    for name, values in rates.items():
        result[f"{name}_per_second"] = round(statistics.median(values))
    pairs = [("train", "decode"), ("eval", "decode")]
    pairs += (
        [("train", "peer_train"), ("train", "peer_train_uint8"), ("eval", "peer_eval")]
        if peer
        else []
    )
    for ours, rival in pairs:
        result[f"{ours}_over_{rival}"] = round(
            statistics.median(a / b for a, b in zip(rates[ours], rates[rival])), 2
        )
    return result


def contestants(
    place: str, peer: str, workers: int, size: int
) -> dict[str, Callable[[], Iterator[int]]]:
    """Each gives an iterator over the sizes of its batches, over all images once."""
    from train import data
    from train.data.tf import tf

    config = Data(source=f"folder:{place}", size=size, workers=workers, eval_batch_size=BATCH)
    config.augment = Augment(crop="area", flip=True)
    split = data.load(config.source, "train")
    plan = data.Plan(len(split), BATCH, seed=0)

    def bare() -> Iterator[int]:
        """What libjpeg-turbo alone can do: read and decode, on as many threads, and throw away."""
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = workers
        names = tf.data.Dataset.from_tensor_slices(
            [split.name(index) for index in range(len(split))]
        )
        decoded = names.map(
            lambda name: tf.io.decode_jpeg(tf.io.read_file(name))[0, 0], num_parallel_calls=workers
        )
        return (
            len(batch) for batch in decoded.batch(BATCH).with_options(options).as_numpy_iterator()
        )

    def train() -> Iterator[int]:
        batches = data.train_batches(split, plan, config, start=0, stop=len(split) // BATCH)
        return (len(batch["label"]) for batch in batches)

    def evaluation() -> Iterator[int]:
        return (int(batch["mask"].sum()) for batch in data.eval_batches(split, config))

    ours: dict[str, Callable[[], Iterator[int]]] = {
        "decode": bare,
        "train": train,
        "eval": evaluation,
    }
    # The peer goes first: its workers are forked before ours changes how memory is kept, and are as its users have them.
    return (torchvision(f"{place}/train", workers, size) if peer else {}) | ours


def torchvision(place: str, workers: int, size: int) -> dict[str, Callable[[], Iterator[int]]]:
    """Its reference transforms behind PyTorch's loader, as floats and, cheaper, as the bytes that ours gives."""
    transforms, datasets, loader = import_torchvision()
    crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)]

    def load(steps: list) -> Callable[[], Iterator[int]]:
        images = datasets.ImageFolder(place, transforms.Compose(steps))
        made = loader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
        return lambda: (len(labels) for _, labels in made)

    return {
        "peer_train": load([*crop, transforms.ToTensor()]),
        "peer_train_uint8": load([*crop, transforms.PILToTensor()]),
        "peer_eval": load([*centre, transforms.ToTensor()]),
    }


def import_torchvision():
    """(transforms, datasets, DataLoader)"""
    try:
        from torch.utils.data import DataLoader

        from train.benchmark.peers import torchvision_models

        torchvision_models()
        from torchvision import datasets, transforms
    except ModuleNotFoundError as error:
        raise UserError(
            "--peer=torchvision needs torch and torchvision: make parity installs them"
        ) from error
    return transforms, datasets, DataLoader


def in_turn(
    contestants: dict[str, Callable[[], Iterator[int]]], rounds: int, examples: int
) -> dict[str, list[float]]:
    """Images per second of each, round by round; starting threads, processes and graphs is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, start in contestants.items():
            batches = start()
            next(batches)
            began, count = time.perf_counter(), 0
            for size in batches:
                count += size
            if number:  # the first round warms up
                rates[name].append(count / (time.perf_counter() - began))
    return rates


if __name__ == "__main__":
    import json
    import sys

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(measure(*sys.argv[1:])))
