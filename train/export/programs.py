"""Writes a network for use elsewhere, after a check that it gives the network's answers there."""

import json
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
import numpy as np

from cnnjax import ops
from train.classifier import Classifier, describe
from train.cli import printable
from train.errors import CheckpointError, UserError
from train.report.explain import exact

CLOSE = 1e-5  # the largest difference of probabilities that an export may have
PARTIAL = ".partial"  # ends the name of what is not checked yet
PLATFORMS = ("cpu", "cuda", "tpu")

# Runs each kind of program with its runtime alone: images.npy to answers.npy.
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
images = tensorflow.constant(numpy.load("images.npy"))
numpy.save("answers.npy", answer(images=images)["probabilities"])
""",
}


def function(
    classifier: Classifier, preprocessing: bool = True
) -> Callable[[jax.Array], jax.Array]:
    """Images to probabilities: of uint8 images, or of what the preprocessing makes of them."""
    return partial(_answer, classifier, preprocessing, classifier.variables)


def _answer(
    classifier: Classifier, preprocessing: bool, variables: Any, images: jax.Array
) -> jax.Array:
    x = classifier.preprocess(images) if preprocessing else images
    return jax.nn.softmax(classifier.model.apply(variables, x, train=False).logits)


def preparation(classifier: Classifier) -> str:
    """What has to be done to a photograph before the program is given its pixels."""
    height, width, channels = classifier.image_shape
    colour = "grey" if channels == 1 else "RGB"
    images = f"images: uint8 (N, {height}, {width}, {channels}), {colour}"
    try:
        known = describe(classifier)
    except UserError:
        return images
    kernel = f"{known.interpolation}, {'with' if known.antialias else 'without'} antialiasing"
    if known.resize:
        return (
            f"{images}. Scale a photograph's short side to {known.resize} pixels ({kernel}), then "
            f"cut out the central {height}x{width}."
        )
    part = "whole photograph" if known.fraction == 1 else f"central {known.fraction:.1%} of a side"
    return f"{images}. Scale the {part} to {height}x{width} pixels ({kernel})."


def random_images(classifier: Classifier, preprocessing: bool, count: int = 3) -> np.ndarray:
    """Images (count, H, W, C) as the program reads them."""
    shape = count, *classifier.image_shape
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return images if preprocessing else np.asarray(classifier.preprocess(images))


# Kinds of programs: each function writes one. They hold the plain operations alone, for the tools
# that read them know no choice by platform.


def make_stablehlo(path: Path, classifier: Classifier, preprocessing: bool) -> None:
    """A program of jax.export for any of the platforms."""
    example = random_images(classifier, preprocessing, 1)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *example.shape[1:]), example.dtype)
    program = jax.jit(function(classifier, preprocessing))
    with ops.plain():
        exported = jax.export.export(program, platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def make_onnx(path: Path, classifier: Classifier, preprocessing: bool) -> None:
    """A graph that computes in float32."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  # for the check
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format=onnx needs the package {error.name}: pip install 'cnnjax[onnx]'"
        ) from None
    from train.export.onnx import to_onnx

    example = random_images(classifier, preprocessing, 1)
    program = function(classifier, preprocessing)
    model = to_onnx(program, example.shape[1:], example.dtype, classifier.name)
    about = {"preparation": preparation(classifier)}
    if classifier.classes:
        about["class_names"] = json.dumps([printable(name) for name in classifier.classes])
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def make_savedmodel(path: Path, classifier: Classifier, preprocessing: bool) -> None:
    """A folder of TensorFlow; the values are its variables, the rest is StableHLO in one op."""
    from train.data.tf import tf  # first, for it keeps TensorFlow quiet and off the accelerators

    from jax.experimental import jax2tf  # isort: skip

    example = random_images(classifier, preprocessing, 1)
    program = jax2tf.convert(
        partial(_answer, classifier, preprocessing),
        polymorphic_shapes=[None, "(batch, ...)"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    module = tf.Module()
    module.variables_ = tf.nest.map_structure(tf.Variable, jax.device_get(classifier.variables))
    images = tf.TensorSpec((None, *example.shape[1:]), example.dtype, "images")
    module.answer = tf.function(
        lambda images: {"probabilities": program(module.variables_, images)},
        autograph=False,
        input_signature=[images],
    )
    with ops.plain():
        tf.saved_model.save(module, str(path), signatures=module.answer)


PROGRAMS = {"stablehlo": make_stablehlo, "onnx": make_onnx, "savedmodel": make_savedmodel}


def check_elsewhere(
    program: Path, kind: str, classifier: Classifier, preprocessing: bool = True
) -> float:
    """Runs a program in another process, with its runtime alone, on random images.

    Returns:
        The largest difference of its probabilities from those of the network.

    Raises:
        CheckpointError: the program does not run.
        UserError: the runtime is too old for it.
    """
    images = random_images(classifier, preprocessing)
    platform = jax.default_backend() if kind == "stablehlo" else "cpu"
    environment = {**os.environ, "JAX_PLATFORMS": platform.replace("gpu", "cuda")}
    if platform == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        command = [sys.executable, "-I", "-c", ELSEWHERE[kind], str(program.resolve())]
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
    classifier = classifier._replace(variables=jax.device_get(classifier.variables))
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        expected = jax.jit(function(classifier, preprocessing))(images)
    return float(np.abs(answers - np.asarray(expected)).max())


def write_program(
    path: str, kind: str, classifier: Classifier, preprocessing: bool = True
) -> dict[str, Any]:
    """Writes a network as a program of images to probabilities, values included.

    The program is run in another process by its own runtime first, and compared with the network.

    Args:
        path: the file to write, or the folder of a SavedModel.
        kind: "stablehlo", "onnx" or "savedmodel".
        classifier: the network.
        preprocessing: whether the program reads uint8 images, or what the network reads.

    Returns:
        `file`, `format`, `bytes`, and `difference`, the largest of the probabilities.

    Raises:
        CheckpointError: the program does not run, or differs from the network.
        UserError: `path` is a folder, or a package that is needed is missing or too old.
    """
    if kind == "onnx":  # its runtimes have no bfloat16 on a CPU
        classifier = classifier._replace(model=exact(classifier.model))
    is_model = kind == "savedmodel" and (Path(path) / "saved_model.pb").exists()
    if Path(path).is_dir() and not is_model:
        raise UserError(f"--out={path} is a folder; name the file to write")
    part = Path(path.rstrip("/") + PARTIAL)
    _remove(part)
    try:
        PROGRAMS[kind](part, classifier, preprocessing)
        difference = check_elsewhere(part, kind, classifier, preprocessing)
        if not difference <= CLOSE:
            raise CheckpointError(
                f"the exported program differs from the network by {difference:.1e}: not written"
            )
        written = [part, *part.rglob("*")]
        size = sum(file.stat().st_size for file in written if file.is_file())
        _remove(Path(path))
        part.replace(path)
    finally:
        _remove(part)
    if preprocessing:
        print(f"{path} reads {preparation(classifier)}", file=sys.stderr, flush=True)
    return {"file": path, "format": kind, "bytes": size, "difference": difference}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
