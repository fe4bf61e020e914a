"""Writes a network for use elsewhere, and checks what was written against the network before it says so.

python -m train.export --workdir=runs/lenet --format=stablehlo --out=lenet.stablehlo [--without-preprocessing]
python -m train.export --workdir=runs/lenet --format=safetensors --out=lenet.safetensors
python -m train.export --weights=vgg16.h5 --source=keras --model=vgg16 --format=stablehlo --out=vgg16.stablehlo

StableHLO: probabilities of images uint8 (N, H, W, C) of any number N, values included; it runs wherever jax does,
without this project: jax.export.deserialize(open(path, "rb").read()).call(images).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train import errors
from train.errors import CheckpointError, UserError
from train.evaluate import add_weights, one_of, published
from train.run import Run
from train.subject import Subject, from_run

CLOSE = 1e-5  # the largest difference of probabilities that an export may have

ELSEWHERE = """
import sys, numpy, jax, jax.export
program, images, answers = sys.argv[1:]
with open(program, "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
numpy.save(answers, numpy.asarray(exported.call(numpy.load(images))))
"""


def function(seen: Subject, preprocessing: bool = True) -> Callable[[jax.Array], jax.Array]:
    """Images to probabilities: of uint8 images, or of what the preprocessing makes of them."""

    def answer(images: jax.Array) -> jax.Array:
        x = seen.preprocess(images) if preprocessing else images
        return jax.nn.softmax(seen.model.apply(seen.variables, x, train=False).logits)

    return answer


def image_shape(seen: Subject) -> tuple[int, int, int]:
    return seen.data.size, seen.data.size, seen.data.channels


def random_images(seen: Subject, preprocessing: bool, count: int = 3) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, *image_shape(seen)), np.uint8)
    return images if preprocessing else np.asarray(seen.preprocess(images))


def to_stablehlo(
    seen: Subject, preprocessing: bool = True, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
) -> bytes:
    """The network as a program for a batch of any size on any of the platforms, its values inside."""
    shape = random_images(seen, preprocessing, 1)
    (batch,) = jax.export.symbolic_shape("batch")
    arguments = jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype)
    exported = jax.export.export(jax.jit(function(seen, preprocessing)), platforms=platforms)(arguments)
    return bytes(exported.serialize())


def check_elsewhere(program: Path, seen: Subject, preprocessing: bool = True) -> float:
    """The largest difference of probabilities between the network and its program, run in another process without cnnjax."""
    images = random_images(seen, preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        command = [sys.executable, "-I", "-c", ELSEWHERE, str(program.resolve()), "images.npy", "answers.npy"]
        environment = {**os.environ, "JAX_PLATFORMS": jax.default_backend().replace("gpu", "cuda")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CheckpointError(f"the exported program does not run: {done.stderr.strip().splitlines()[-1]}")
        answers = np.load(f"{folder}/answers.npy")
    return float(np.abs(answers - np.asarray(jax.jit(function(seen, preprocessing))(images))).max())


def write_stablehlo(path: str, seen: Subject, preprocessing: bool = True) -> dict[str, Any]:
    """Writes the program where `path` says, once it has given the network's answers."""
    partial = Path(path + ".partial")
    partial.write_bytes(to_stablehlo(seen, preprocessing))
    try:
        difference = check_elsewhere(partial, seen, preprocessing)
        if not difference <= CLOSE:
            raise CheckpointError(f"the exported program differs from the network by {difference:.1e}: not written")
        size = partial.stat().st_size
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": path, "format": "stablehlo", "bytes": size, "difference": difference}


def write_safetensors(path: str, seen: Subject) -> dict[str, Any]:
    """Writes our own format, which `cnnjax.weights.load` needs nothing else for."""
    from cnnjax import weights
    from train.data.transforms import STYLES

    if isinstance(seen.preprocess, weights.Preprocessing):
        preprocessing = seen.preprocess
    else:
        chosen = seen.data.transform
        style = STYLES.get(chosen.style)
        known: dict[str, Any] = getattr(seen.preprocess, "keywords", {})
        if style is None or "mean" not in known:
            raise UserError("this preprocessing has no place in the file format")
        size = seen.data.size
        fraction = chosen.fraction or (0.0 if chosen.resize else style.fraction)
        preprocessing = weights.Preprocessing(
            size,
            mean=tuple(255 * value for value in known["mean"]),
            std=tuple(255 * value for value in known["std"]),
            resize=None if fraction else chosen.resize or style.round_short_side(size / 0.875),
            fraction=fraction or 1.0,
            interpolation=chosen.interpolation or style.interpolation,
            antialias=style.half_pixels is None,
            channels="L" if seen.data.channels == 1 else "RGB",
        )
    variables = jax.device_get(seen.variables)
    variables = {name: variables[name] for name in variables if variables[name]}
    partial = Path(path + ".partial")
    try:
        pretrained = weights.Pretrained(seen.model, variables, preprocessing, seen.classes, seen.name)
        weights.save(partial, pretrained)
        again = weights.load(partial)
        images = jnp.asarray(random_images(seen, True))
        there = jax.nn.softmax(again.model.apply(again.variables, again.preprocessing(images)).logits)
        difference = float(np.abs(there - function(seen)(images)).max())
        if not difference <= CLOSE:
            raise CheckpointError(f"what was written differs from the network by {difference:.1e}")
        size = partial.stat().st_size
        partial.replace(path)
    except (weights.WeightsError, ValueError) as error:
        raise CheckpointError(f"--out={path}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return {"file": path, "format": "safetensors", "bytes": size, "difference": difference}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m train.export",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights(parser)
    parser.add_argument("--format", default="stablehlo", choices=["stablehlo", "safetensors"])
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--without-preprocessing", action="store_true", help="stablehlo: reads what the network reads")
    args = parser.parse_args(argv)
    one_of(args, "workdir", "weights")
    if len(args.workdir) + len(args.weights) != 1:
        raise UserError("an export is of one network")
    if args.workdir:
        seen = from_run(Run(args.workdir[0]), args.step, raw=args.raw, dtype=args.dtype, source="-")
    else:
        (seen,) = published(args)
    if not Path(args.out).resolve().parent.is_dir():
        raise UserError(f"--out={args.out}: there is no such folder")
    if args.format == "safetensors":
        return write_safetensors(args.out, seen)
    return write_stablehlo(args.out, seen, not args.without_preprocessing)


if __name__ == "__main__":
    sys.exit(errors.run(main))
