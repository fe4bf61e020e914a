"""Writes a network for use elsewhere, once what was written has given the network's answers."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.classifier import Classifier
from train.errors import CheckpointError, UserError
from train.report.explain import exact

CLOSE = 1e-5  # the largest difference of probabilities that an export may have
PLATFORMS = ("cpu", "cuda", "tpu")

# How each kind of program is run where there is nothing but its runtime: images.npy to answers.npy.
ELSEWHERE = {
    "stablehlo": """
import sys, numpy, jax.export
with open(sys.argv[1], "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
numpy.save("answers.npy", exported.call(numpy.load("images.npy")))
""",
    "onnx": """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save("answers.npy", session.run(None, {"images": numpy.load("images.npy")})[0])
""",
    "savedmodel": """
import sys, numpy, tensorflow
answer = tensorflow.saved_model.load(sys.argv[1]).signatures["serving_default"]
numpy.save("answers.npy", answer(images=tensorflow.constant(numpy.load("images.npy")))["probabilities"])
""",
}


def function(seen: Classifier, preprocessing: bool = True) -> Callable[[jax.Array], jax.Array]:
    """Images to probabilities: of uint8 images, or of what the preprocessing makes of them."""
    return partial(_answer, seen, preprocessing, seen.variables)


def _answer(seen: Classifier, preprocessing: bool, variables: Any, images: jax.Array) -> jax.Array:
    x = seen.preprocess(images) if preprocessing else images
    return jax.nn.softmax(seen.model.apply(variables, x, train=False).logits)


def image_shape(seen: Classifier) -> tuple[int, int, int]:
    return seen.data.size, seen.data.size, seen.data.channels


def random_images(seen: Classifier, preprocessing: bool, count: int = 3) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, *image_shape(seen)), np.uint8)
    return images if preprocessing else np.asarray(seen.preprocess(images))


# ---------------------------------------------------------------------------------------------- kinds of programs


def make_stablehlo(path: Path, seen: Classifier, preprocessing: bool) -> None:
    """A program for any of the platforms."""
    shape = random_images(seen, preprocessing, 1)
    (batch,) = jax.export.symbolic_shape("batch")
    arguments = jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype)
    exported = jax.export.export(jax.jit(function(seen, preprocessing)), platforms=PLATFORMS)(
        arguments
    )
    path.write_bytes(exported.serialize())


def make_onnx(path: Path, seen: Classifier, preprocessing: bool) -> None:
    """A graph that computes in float32."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  # for the check
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format=onnx needs the package {error.name}: pip install 'cnnjax[onnx]'"
        ) from None
    from train.export.onnx import to_onnx

    shape = random_images(seen, preprocessing, 1)
    model = to_onnx(function(seen, preprocessing), shape.shape[1:], shape.dtype, seen.name)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def make_savedmodel(path: Path, seen: Classifier, preprocessing: bool) -> None:
    """A folder; the values are TensorFlow's variables, the rest is one operation that holds StableHLO."""
    from train.data.tf import tf  # first, for it keeps TensorFlow quiet and off the accelerators

    from jax.experimental import jax2tf  # isort: skip

    shape = random_images(seen, preprocessing, 1)
    program = jax2tf.convert(
        partial(_answer, seen, preprocessing), polymorphic_shapes=[None, "(batch, ...)"], with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )  # fmt: skip
    module = tf.Module()
    module.variables_ = tf.nest.map_structure(tf.Variable, jax.device_get(seen.variables))
    images = tf.TensorSpec((None, *shape.shape[1:]), shape.dtype, "images")
    module.answer = tf.function(
        lambda images: {"probabilities": program(module.variables_, images)},
        autograph=False,
        input_signature=[images],
    )
    tf.saved_model.save(module, str(path), signatures=module.answer)


PROGRAMS = {"stablehlo": make_stablehlo, "onnx": make_onnx, "savedmodel": make_savedmodel}


def check_elsewhere(
    program: Path, kind: str, seen: Classifier, preprocessing: bool = True
) -> float:
    """The largest difference of probabilities between the network and its program, run in another process without cnnjax."""
    images = random_images(seen, preprocessing)
    where = jax.default_backend() if kind == "stablehlo" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        command = [sys.executable, "-I", "-c", ELSEWHERE[kind], str(program.resolve())]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": where.replace("gpu", "cuda"),
            "CUDA_VISIBLE_DEVICES": "",
        }
        if where != "cpu":
            del environment["CUDA_VISIBLE_DEVICES"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if "Cannot deserialize computation" in done.stderr:
            raise UserError(
                f"this TensorFlow does not read the StableHLO that jax {jax.__version__} writes: "
                "export with an older jax, or take --format=onnx"
            )
        if done.returncode:
            raise CheckpointError(
                f"the exported program does not run: {done.stderr.strip().splitlines()[-1]}"
            )
        answers = np.load(f"{folder}/answers.npy")
    with jax.default_device(jax.local_devices(backend=where)[0]):
        own = jax.jit(
            function(seen._replace(variables=jax.device_get(seen.variables)), preprocessing)
        )(images)
    return float(np.abs(answers - np.asarray(own)).max())


def write_program(
    path: str, kind: str, seen: Classifier, preprocessing: bool = True
) -> dict[str, Any]:
    """Writes the program where `path` says, once it has given the network's answers."""
    if kind == "onnx":  # its runtimes know no bfloat16 on a CPU
        seen = seen._replace(model=exact(seen.model))
    if Path(path).is_dir() and not (
        kind == "savedmodel" and (Path(path) / "saved_model.pb").exists()
    ):
        raise UserError(f"--out={path} is a folder; name what is to be written")
    partial = Path(path.rstrip("/") + ".partial")
    _remove(partial)
    try:
        PROGRAMS[kind](partial, seen, preprocessing)
        difference = check_elsewhere(partial, kind, seen, preprocessing)
        if not difference <= CLOSE:
            raise CheckpointError(
                f"the exported program differs from the network by {difference:.1e}: not written"
            )
        files = (
            [partial]
            if partial.is_file()
            else [file for file in partial.rglob("*") if file.is_file()]
        )
        size = sum(file.stat().st_size for file in files)
        _remove(Path(path))
        partial.replace(path)
    finally:
        _remove(partial)
    return {"file": path, "format": kind, "bytes": size, "difference": difference}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def write_safetensors(path: str, seen: Classifier) -> dict[str, Any]:
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
        pretrained = weights.Pretrained(
            seen.model, variables, preprocessing, seen.classes, seen.name
        )
        weights.save(partial, pretrained)
        again = weights.load(partial)
        images = jnp.asarray(random_images(seen, True))
        there = jax.nn.softmax(
            again.model.apply(again.variables, again.preprocessing(images)).logits
        )
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
