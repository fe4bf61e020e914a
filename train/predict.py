"""What a network sees in images: the likeliest classes with their probabilities.

python -m train.predict --workdir=runs/lenet photo.jpg photos/ 'more/*.png'
python -m train.predict --weights=inception_v3.h5 --source=keras --model=inception_v3 --class-names=imagenet.txt photo.jpg
cat photo.jpg | python -m train.predict --workdir=runs/lenet -              # one image; or with --list, their names
python -m train.predict --workdir=runs/lenet photos/ --json                 # a line of JSON for each image
python -m train.predict --workdir=runs/lenet photos/ --features=features.npz

An image that cannot be read is named, and the others go on.
"""

import glob
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import cli, errors
from train.classifier import Classifier, add_weights, from_run, one_of, published
from train.config import Data
from train.data.decode import BadImage
from train.data.sources.folder import is_image
from train.data.threads import ahead, threads
from train.data.transforms import make_transform
from train.errors import DataError, UserError
from train.run import Run
from train.start import start

BATCH = 32


def find_images(arguments: Sequence[str]) -> list[str]:
    """Files as they are named, the images of folders, and what patterns match; DataError for what is none of them."""
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
                matched = [argument]  # named as an image that cannot be read, when its turn comes
            if not matched:
                raise DataError(f"nothing matches {argument}")
            found += matched
    if found.count("-") > 1:
        raise UserError("standard input holds one image")
    return found


def read(names: Sequence[str], config: Data) -> Iterator[tuple[str, np.ndarray | str]]:
    """(name, uint8 (H, W, C)) of each image as the network reads it, or (name, why it cannot be read); "-" is what comes in."""
    transform = make_transform(config, config.channels)

    def one(name: str) -> np.ndarray | str:
        try:
            return transform(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
        except OSError as error:
            return error.strerror or str(error)
        except BadImage as error:
            return str(error)

    with ThreadPoolExecutor(threads(config), thread_name_prefix="decode") as pool:
        for name, image in ahead(
            lambda name: (name, pool.submit(one, name)), iter(names), 4 * threads(config)
        ):
            yield "standard input" if name == "-" else name, image.result()


def answers(
    seen: Classifier, names: Sequence[str], *, batch: int = BATCH, features: bool = False
) -> Iterator[tuple[str, np.ndarray | str]]:
    """(name, probabilities (K,) or features (D,)) of each image in order, or (name, why it cannot be read)."""

    @jax.jit
    def apply(variables, images):
        outputs = seen.model.apply(variables, seen.preprocess(images), train=False)
        return outputs.features if features else jax.nn.softmax(outputs.logits)

    batch, variables = min(batch, len(names)), jax.device_put(seen.variables)
    images = read(names, seen.data)
    while rows := list(itertools.islice(images, batch)):
        readable = [image for _, image in rows if not isinstance(image, str)]
        found: Iterator[np.ndarray] = iter(())
        if readable:
            stacked = np.stack(readable)
            padded = np.pad(stacked, ((0, batch - len(stacked)), *[(0, 0)] * 3))
            found = iter(np.asarray(apply(variables, padded)))
        yield from (
            (name, image if isinstance(image, str) else next(found)) for name, image in rows
        )


def best(probabilities: np.ndarray, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The k likeliest classes with their probabilities."""
    places = np.argsort(-probabilities[: len(names)], kind="stable")[:k]
    return [(names[place], float(probabilities[place])) for place in places]


def bars(rows: Sequence[tuple[str, float]], width: int = 80) -> str:
    """A line for each class: its name, its probability, and a bar as long as that."""
    longest = min(max(len(name) for name, _ in rows), max(10, width - 30))
    room = max(5, width - longest - 12)
    lines = []
    for name, share in rows:
        name = name if len(name) <= longest else name[: longest - 1] + "…"
        lines.append(f"  {name:<{longest}} {share:7.2%}  {bar(share, room)}".rstrip())
    return "\n".join(lines)


def bar(share: float, room: int) -> str:
    """Blocks in eighths."""
    eighths = round(share * room * 8) if np.isfinite(share) else 0
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def write_features(
    path: str, seen: Classifier, names: Sequence[str], batch: int = BATCH
) -> dict[str, Any]:
    """What the classifier reads of every readable image, as npz (files, features) or Parquet."""
    if not path.endswith((".npz", ".parquet")):
        raise UserError(f"--features={path} must end in .npz or .parquet")
    rows, unreadable = [], 0
    for name, answer in answers(seen, names, batch=batch, features=True):
        if isinstance(answer, str):
            unreadable += 1
            print(f"{name} cannot be read: {answer}", file=sys.stderr, flush=True)
        else:
            rows.append((name, answer))
    if not rows:
        raise DataError("none of the images can be read")
    files, features = [name for name, _ in rows], np.stack([answer for _, answer in rows])
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


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.predict", __doc__)
    parser.add_argument(
        "images", nargs="*", help="image files, folders, patterns; - for standard input"
    )
    add_weights(parser)
    parser.add_argument("--top", type=int, default=5, help="how many classes of each image")
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each image, without bars"
    )
    parser.add_argument(
        "--list", action="store_true", help="standard input holds the names of images, one a line"
    )
    parser.add_argument(
        "--features", default="", help="an .npz or .parquet file to write features to, instead"
    )
    parser.add_argument("--batch-size", type=int, default=BATCH, help="images at once")
    args = parser.parse_intermixed_args(argv)
    one_of(args, "workdir", "weights")
    if len(args.workdir) + len(args.weights) != 1:
        raise UserError("predictions are of one network")
    names = args.images + (
        [line.rstrip("\n") for line in sys.stdin if line.strip()] if args.list else []
    )
    if not names:
        raise UserError("which images? Files, folders, patterns, or - for standard input")
    images = find_images(names)
    start()
    if args.workdir:
        seen = from_run(Run(args.workdir[0]), args.step, raw=args.raw, dtype=args.dtype, source="-")
    else:
        (seen,) = published(args)
    if args.features:
        return write_features(args.features, seen, images, args.batch_size)

    classes = seen.classes or tuple(f"class {i}" for i in range(seen.model.num_classes))
    width, unreadable = shutil.get_terminal_size().columns, 0
    for name, answer in answers(seen, images, batch=args.batch_size):
        if isinstance(answer, str):
            unreadable += 1
            if args.json:
                print(json.dumps({"file": name, "error": answer}), flush=True)
            print(f"{name} cannot be read: {answer}", file=sys.stderr, flush=True)
            continue
        rows = best(answer, classes, args.top)
        if args.json:
            print(
                json.dumps(
                    {"file": name, "top": [{"class": c, "probability": p} for c, p in rows]}
                ),
                flush=True,
            )
        else:
            print(f"{name}\n{bars(rows, width)}", flush=True)
    return {
        "images": len(images) - unreadable,
        "unreadable": unreadable,
        "network": f"{seen.name} {seen.label}",
    }


if __name__ == "__main__":
    sys.exit(errors.run(main))
