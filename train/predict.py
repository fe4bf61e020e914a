"""Classifies images: the most probable classes with their probabilities.

With several labels an image, each class has a probability of its own: the --top most probable
classes are shown, and all of a half or more.

python -m train.predict --workdir=runs/lenet photo.jpg photos/ 'more/*.png'
python -m train.predict --pretrained=keras/inception_resnet_v2 photo.jpg
python -m train.predict --weights=inception_v3.h5 --source=keras --model=inception_v3 photo.jpg
cat photo.jpg | python -m train.predict --workdir=runs/lenet -       # one image from standard input
ls *.jpg | python -m train.predict --workdir=runs/lenet --list       # the names of images
python -m train.predict --workdir=runs/lenet photos/ --json          # a line of JSON for each image
python -m train.predict --workdir=runs/lenet photos/ --features=features.npz

An image that cannot be read is named on standard error, and the others are still classified. If
no image can be read, the exit code is 3.
"""

import glob
import io
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.images import BadImage
from train import cli, errors, files
from train.classifier import Classifier
from train.cli import bar
from train.data.sources.folder import is_image
from train.data.threads import ahead, threads
from train.data.transforms import make_transform
from train.errors import DataError, UserError
from train.evaluate.protocols import squeeze
from train.options import add_weights, one_classifier
from train.start import start

BATCH = 32
NOTHING = "none of the images can be read"


def find_images(arguments: Sequence[str]) -> list[str]:
    """The files that the arguments name: files, folders of images, and patterns.

    Raises:
        DataError: a folder holds no images, or a pattern matches none.
        UserError: standard input is named twice.
    """
    found: list[str] = []
    for argument in arguments:
        if argument == "-" or Path(argument).is_file():
            found.append(argument)
        elif Path(argument).is_dir():
            inside = sorted(
                str(path)
                for path in Path(argument).rglob("*")
                if path.is_file() and is_image(path.name)
            )
            if not inside:
                raise DataError(f"{argument} holds no images")
            found += inside
        else:
            matched = sorted(
                path for path in glob.glob(argument, recursive=True) if Path(path).is_file()
            )
            if not matched and not glob.has_magic(argument):
                matched = [argument]  # reading it will fail, and name it
            if not matched:
                raise DataError(f"nothing matches {argument}")
            found += matched
    if found.count("-") > 1:
        raise UserError("standard input holds one image: name - once")
    return found


def make_reader(classifier: Classifier) -> Callable[[bytes], np.ndarray]:
    """From the bytes of an image file to the image (H, W, C) that the network reads."""
    height, width, channels = classifier.image_shape
    decode = make_transform(classifier.data, channels)
    if height == width:
        return decode
    scale = squeeze(height, width, classifier.data.transform)
    return lambda content: scale(decode(content))


def read(names: Sequence[str], classifier: Classifier) -> Iterator[tuple[str, np.ndarray | str]]:
    """Decodes and resizes images in threads, ahead of need.

    Yields:
        (name, image) in order: uint8 (H, W, C) as the network reads it, or why it cannot be read.
        The name "-" is standard input.
    """
    transform, count = make_reader(classifier), threads(classifier.data)

    def read_one(name: str) -> np.ndarray | str:
        try:
            return transform(sys.stdin.buffer.read() if name == "-" else files.read(name))
        except OSError as error:
            return error.strerror or str(error)
        except BadImage as error:
            return str(error)

    with ThreadPoolExecutor(count, thread_name_prefix="decode") as pool:
        for name, image in ahead(
            lambda name: (name, pool.submit(read_one, name)), iter(names), 4 * count
        ):
            yield "standard input" if name == "-" else name, image.result()


def answers(
    classifier: Classifier, names: Sequence[str], *, batch: int = BATCH, features: bool = False
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Runs the network over images.

    Yields:
        (name, answer) in order: probabilities (K,), or with `features` what the last layer
        reads (D,), or why the image cannot be read.
    """

    @jax.jit
    def apply(variables, images):
        outputs = classifier.model.apply(variables, classifier.preprocess(images), train=False)
        return outputs.features if features else classifier.probabilities(outputs.logits)

    batch, variables = min(batch, len(names)), jax.device_put(classifier.variables)
    images = read(names, classifier)
    while rows := list(itertools.islice(images, batch)):
        readable = [image for _, image in rows if not isinstance(image, str)]
        results: Iterator[np.ndarray] = iter(())
        if readable:
            stacked = np.stack(readable)
            padded = np.pad(stacked, ((0, batch - len(stacked)), *[(0, 0)] * 3))
            results = iter(np.asarray(apply(variables, padded)))
        for name, image in rows:
            yield name, image if isinstance(image, str) else next(results)


def best(probabilities: np.ndarray, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The k most probable classes with their probabilities."""
    places = np.argsort(-probabilities[: len(names)], kind="stable")[:k]
    return [(names[place], float(probabilities[place])) for place in places]


def bars(rows: Sequence[tuple[str, float]], width: int = 80) -> str:
    """A line for each class: name, probability, and a bar whose length is the probability."""
    longest = min(max(len(name) for name, _ in rows), max(10, width - 30))
    room = max(5, width - longest - 12)
    lines = []
    for name, probability in rows:
        name = name if len(name) <= longest else name[: longest - 1] + "…"
        lines.append(f"  {name:<{longest}} {probability:7.2%}  {bar(probability, room)}".rstrip())
    return "\n".join(lines)


def write_features(
    path: str, classifier: Classifier, names: Sequence[str], batch: int = BATCH
) -> dict[str, Any]:
    """Writes the features of every readable image, as .npz (files, features) or .parquet."""
    if not path.endswith((".npz", ".parquet")):
        raise UserError(f"--features={path} must end in .npz or .parquet")
    rows, unreadable = [], 0
    for name, answer in answers(classifier, names, batch=batch, features=True):
        if isinstance(answer, str):
            unreadable += 1
            complain(name, answer)
        else:
            rows.append((name, answer))
    if not rows:
        raise DataError(NOTHING)
    files = [cli.printable(name) for name, _ in rows]
    features = np.stack([answer for _, answer in rows])
    if path.endswith(".npz"):
        np.savez(path, files=np.array(files), features=features)
    else:
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError("Parquet needs the package pyarrow: pip install pyarrow") from None
        parquet.write_table(pyarrow.table({"file": files, "features": list(features)}), path)
    return {
        "features": path,
        "images": len(files),
        "unreadable": unreadable,
        "width": features.shape[1],
    }


def complain(name: str, reason: str) -> None:
    """Says on standard error why an image cannot be read."""
    print(cli.printable(f"{name} cannot be read: {reason}"), file=sys.stderr, flush=True)


def listed_names() -> list[str]:
    """The lines of standard input, which may end as on Windows and hold bytes that are no UTF-8."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.predict", __doc__)
    add = parser.add_argument
    add("images", nargs="*", help="image files, folders, patterns; - for standard input")
    add_weights(parser)
    top, batch = cli.whole("--top"), cli.whole("--batch-size", 1, cli.BATCH)
    add("--top", type=top, default=5, help="how many classes of each image")
    add("--json", action="store_true", help="a line of JSON for each image, without bars")
    add("--list", action="store_true", help="read the names of images from standard input")
    add("--features", default="", help="write features to this .npz or .parquet file instead")
    add("--batch-size", type=batch, default=BATCH, help="images at once")
    parser.no_effect("with --features", lambda args: args.features, "--top", "--json")
    args = parser.parse_intermixed_args(argv)
    names = args.images + (listed_names() if args.list else [])
    if not names:
        raise UserError("which images? Name files, folders or patterns, or - for standard input")
    images = find_images(names)
    start()
    classifier = one_classifier(args)
    if args.features:
        return write_features(args.features, classifier, images, args.batch_size)
    classes = classifier.classes or tuple(f"class {i}" for i in range(classifier.model.num_classes))
    width, unreadable = shutil.get_terminal_size().columns, 0
    for name, answer in answers(classifier, images, batch=args.batch_size):
        if isinstance(answer, str):
            unreadable += 1
            if args.json:
                print(json.dumps({"file": name, "error": answer}), flush=True)
            complain(name, answer)
            continue
        half = int((answer >= 0.5).sum()) if classifier.multi_label else 0
        rows = best(answer, classes, max(args.top, half))
        if args.json:
            shown = [{"class": c, "probability": p} for c, p in rows]
            print(json.dumps({"file": name, "top": shown}), flush=True)
        else:
            print(cli.printable(f"{name}\n{bars(rows, width)}"), flush=True)
    if unreadable == len(images):
        raise DataError(NOTHING)
    return {
        "images": len(images) - unreadable,
        "unreadable": unreadable,
        "network": f"{classifier.name} {classifier.label}",
    }


if __name__ == "__main__":
    sys.exit(errors.run(main))
