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
from train import data
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
    "tflite": """
import sys, numpy, tensorflow
images = numpy.load("images.npy")
program = tensorflow.lite.Interpreter(sys.argv[1])
place = program.get_input_details()[0]["index"]
program.resize_tensor_input(place, images.shape)
program.allocate_tensors()
program.set_tensor(place, images)
program.invoke()
numpy.save("answers.npy", program.get_tensor(program.get_output_details()[0]["index"]))
""",
}
MOST_SHOWN = 200  # images that show the ranges of values for 8 bits


def function(
    classifier: Classifier, preprocessing: bool = True
) -> Callable[[jax.Array], jax.Array]:
    """Images to probabilities: of uint8 images, or of what the preprocessing makes of them."""
    return partial(_answer, classifier, preprocessing, classifier.variables)


def _answer(
    classifier: Classifier, preprocessing: bool, variables: Any, images: jax.Array
) -> jax.Array:
    x = classifier.preprocess(images) if preprocessing else images
    return classifier.probabilities(classifier.model.apply(variables, x, train=False).logits)


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
    try:
        with ops.plain():
            exported = jax.export.export(program, platforms=PLATFORMS)(images)
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        raise UserError(
            f"{classifier.name} does not take any number of images: {error}. In its code, write "
            "x.shape[0] instead of len(x)"
        ) from error
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
    if classifier.multi_label:
        about["probabilities"] = "sigmoid"
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def make_savedmodel(path: Path, classifier: Classifier, preprocessing: bool) -> None:
    """A folder of TensorFlow, in TensorFlow's own operations."""
    from train.data.tf import tf

    module = _in_tensorflow(classifier, preprocessing)
    tf.saved_model.save(module, str(path), signatures=module.answer)


def typical_images(classifier: Classifier, split: data.Split) -> np.ndarray:
    """Up to 200 images (M, H, W, C) uint8 of a split, as the network is given them."""
    chosen = np.random.RandomState(0).permutation(len(split))[:MOST_SHOWN]
    return data.read(split, np.sort(chosen), classifier.data)


def make_tflite(
    path: Path, classifier: Classifier, preprocessing: bool, images: np.ndarray | None = None
) -> None:
    """A file for phones and boards; in 8 bits where `images` show the ranges of the values."""
    from train.data.tf import tf

    module = _in_tensorflow(classifier, preprocessing)
    program = module.answer.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([program], module)
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    path.write_bytes(converter.convert())


def _in_tensorflow(classifier: Classifier, preprocessing: bool) -> Any:
    from train.export.tensorflow import to_tensorflow

    example = random_images(classifier, preprocessing, 1)
    return to_tensorflow(function(classifier, preprocessing), example.shape[1:], example.dtype)


PROGRAMS: dict[str, Callable[..., None]] = {
    "stablehlo": make_stablehlo,
    "onnx": make_onnx,
    "savedmodel": make_savedmodel,
    "tflite": make_tflite,
    "tflite_int8": make_tflite,
}


def check_elsewhere(
    program: Path,
    kind: str,
    classifier: Classifier,
    preprocessing: bool = True,
    images: np.ndarray | None = None,
) -> dict[str, float]:
    """Runs a program in another process, with its runtime alone, on images, or on random ones.

    Returns:
        `difference`, the largest of its probabilities from those of the network, and `agreement`,
        the share of the images to which both give the same answer.

    Raises:
        CheckpointError: the program does not run.
    """
    if images is None:
        images = random_images(classifier, preprocessing)
    platform = jax.default_backend() if kind == "stablehlo" else "cpu"
    environment = {**os.environ, "JAX_PLATFORMS": platform.replace("gpu", "cuda")}
    if platform == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        runner = ELSEWHERE[kind.removesuffix("_int8")]
        command = [sys.executable, "-I", "-c", runner, str(program.resolve())]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise CheckpointError(
                f"the exported program does not run: {done.stderr.strip().splitlines()[-1]}"
            )
        answers = np.load(f"{folder}/answers.npy")
    classifier = classifier._replace(variables=jax.device_get(classifier.variables))
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        expected = np.asarray(jax.jit(function(classifier, preprocessing))(images))
    return {
        "difference": float(np.abs(answers - expected).max()),
        "agreement": float(np.mean(answers.argmax(-1) == expected.argmax(-1))),
    }


def write_program(
    path: str,
    kind: str,
    classifier: Classifier,
    preprocessing: bool = True,
    images: np.ndarray | None = None,
) -> dict[str, Any]:
    """Writes a network as a program of images to probabilities, values included.

    The program is run in another process by its own runtime first, and compared with the network.

    Args:
        path: the file to write, or the folder of a SavedModel.
        kind: one of `PROGRAMS`.
        classifier: the network.
        preprocessing: whether the program reads uint8 images, or what the network reads.
        images: (N, H, W, C) uint8, for "tflite_int8": what the network is made for.

    Returns:
        `file`, `format`, `bytes`, and `difference`, the largest of the probabilities; of 8 bits
        also `agreement`, the share of `images` with the same answer.

    Raises:
        CheckpointError: the program does not run, or differs from the network.
        UserError: `path` is a folder, or a package that is needed is missing.
    """
    if images is not None and not preprocessing:
        images = np.asarray(classifier.preprocess(images))
    if kind != "stablehlo":  # runtimes have no bfloat16 on a CPU
        classifier = classifier._replace(model=exact(classifier.model))
    is_model = kind == "savedmodel" and (Path(path) / "saved_model.pb").exists()
    if Path(path).is_dir() and not is_model:
        raise UserError(f"--out={path} is a folder; name the file to write")
    part = Path(path.rstrip("/") + PARTIAL)
    _remove(part)
    try:
        shown = {} if images is None else {"images": images}
        PROGRAMS[kind](part, classifier, preprocessing, **shown)
        found = check_elsewhere(part, kind, classifier, preprocessing, **shown)
        if images is None and not found["difference"] <= CLOSE:
            raise CheckpointError(
                f"the exported program differs from the network by {found['difference']:.1e}: "
                "not written"
            )
        if images is None:
            del found["agreement"]
        written = [part, *part.rglob("*")]
        size = sum(file.stat().st_size for file in written if file.is_file())
        _remove(Path(path))
        part.replace(path)
    finally:
        _remove(part)
    if preprocessing:
        print(f"{path} reads {preparation(classifier)}", file=sys.stderr, flush=True)
    return {"file": path, "format": kind, "bytes": size, **found}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
