"""How fast training reads JPEG files, in turn with torchvision's loader and with bare decoding."""

import io
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from train.benchmark import peers
from train.config import Augment, Data
from train.errors import UserError
from train.runtime import malloc

BATCH = 64
Reader = Callable[[], Iterator[int]]  # reads all images once; gives the sizes of its batches


def measure(
    peer: str = "", *, examples: int = 512, rounds: int = 5, workers: int = 2, size: int = 224
) -> dict:
    """Images per second of the training and the evaluation pipeline, in turn with their rivals.

    Args:
        peer: "torchvision" or nothing.
        examples: images to read in a round.
        workers: threads of ours, processes of the peer.
        size: side of the crops.

    Returns:
        Medians over the rounds of the speeds, and of the ratios within each round.
    """
    if peer not in ("", "torchvision"):
        raise UserError(f"--what=data has no peer {peer!r}; it has torchvision")
    with tempfile.TemporaryDirectory() as folder:
        files = [photograph(seed) for seed in range(64)]
        for index in range(examples):
            path = Path(folder) / "train" / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[index % len(files)])
        rivals = torchvision(f"{folder}/train", workers, size) if peer else {}
        warm_up(rivals)  # starts their processes, before the next line
        malloc.keep_memory()  # as the trainer has it
        own = ours(folder, workers, size)
        warm_up(own)
        rates = in_turn(rivals | own, rounds)

    result: dict = {
        "images": examples,
        "kilobytes": round(statistics.mean(map(len, files)) / 1000),
        "workers": workers,
    }
    for name, values in rates.items():
        result[f"{name}_per_second"] = round(statistics.median(values))
    pairs = [("train", "decode"), ("eval", "decode")]
    if peer:
        pairs += [("train", "peer_train"), ("train", "peer_train_uint8"), ("eval", "peer_eval")]
    for name, rival in pairs:
        ratios = (a / b for a, b in zip(rates[name], rates[rival]))
        result[f"{name}_over_{rival}"] = round(statistics.median(ratios), 2)
    return result


def photograph(seed: int, height: int = 375, width: int = 500) -> bytes:
    """A JPEG file of about 100 kB, which decodes like a photograph.

    It is noise with the spectrum of natural images.
    """
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


def ours(folder: str, workers: int, size: int) -> dict[str, Reader]:
    """Our training and evaluation pipelines, and bare decoding."""
    from train import data
    from train.data.tf import tf

    config = Data(source=f"folder:{folder}", size=size, workers=workers, eval_batch_size=BATCH)
    config.augment = Augment(crop="area", flip=True)
    split = data.load(config.source, "train")
    plan = data.Plan(len(split), BATCH, seed=0)

    def decode() -> Iterator[int]:
        """Reads and decodes on as many threads, and discards: the limit of libjpeg-turbo."""
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = workers
        names = tf.data.Dataset.from_tensor_slices([split.name(i) for i in range(len(split))])
        decoded = names.map(
            lambda name: tf.io.decode_jpeg(tf.io.read_file(name))[0, 0], num_parallel_calls=workers
        )
        batches = decoded.batch(BATCH).with_options(options).as_numpy_iterator()
        return (len(batch) for batch in batches)

    def train() -> Iterator[int]:
        batches = data.train_batches(split, plan, config, start=0, stop=len(split) // BATCH)
        return (len(batch["label"]) for batch in batches)

    def evaluation() -> Iterator[int]:
        return (int(batch["mask"].sum()) for batch in data.eval_batches(split, config))

    return {"decode": decode, "train": train, "eval": evaluation}


def torchvision(folder: str, workers: int, size: int) -> dict[str, Reader]:
    """torchvision's reference transforms in PyTorch's loader: as floats, and cheaper as bytes."""
    try:
        from torch.utils.data import DataLoader

        peers.torchvision_models()
        from torchvision import datasets, transforms
    except ModuleNotFoundError as error:
        raise UserError(
            "--peer=torchvision needs torch and torchvision: make parity installs them"
        ) from error
    crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)]

    def reader(steps: list) -> Reader:
        images = datasets.ImageFolder(folder, transforms.Compose(steps))
        options = {"shuffle": True, "num_workers": workers, "persistent_workers": True}
        loader = DataLoader(images, BATCH, **options)
        return lambda: (len(labels) for _, labels in loader)

    return {
        "peer_train": reader([*crop, transforms.ToTensor()]),
        "peer_train_uint8": reader([*crop, transforms.PILToTensor()]),
        "peer_eval": reader([*centre, transforms.ToTensor()]),
    }


def warm_up(readers: dict[str, Reader]) -> None:
    for start in readers.values():
        deque(start(), maxlen=0)


def in_turn(readers: dict[str, Reader], rounds: int) -> dict[str, list[float]]:
    """Images per second of each reader, round by round, from its second batch on.

    The first batch holds the start of threads, processes and graphs.
    """
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, start in readers.items():
            batches = start()
            next(batches)
            began = time.perf_counter()
            images = sum(batches)
            rates[name].append(images / (time.perf_counter() - began))
    return rates
