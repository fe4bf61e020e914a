"""Exported networks give the network's answers, in a process that knows nothing of this project."""

import dataclasses
import json
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import weights
from tests.evaluate.classifiers import photos, random_variables
from tests.evaluate.test_command import write
from tests.helpers import ROOT
from train import predict
from train.__main__ import main as train
from train.classifier import from_weights
from train.config import Data, Transform
from train.errors import CheckpointError, UserError
from train.export import onnx, programs
from train.export.__main__ import main as export
from train.step import normalize


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "lenet.safetensors")


READERS = {
    "stablehlo": "import jax.export; "
    "run = jax.export.deserialize(bytearray(open({0!r}, 'rb').read())).call",
    "onnx": "import onnxruntime; session = onnxruntime.InferenceSession({0!r}); "
    "run = lambda x: session.run(None, dict(images=x))[0]",
}


@pytest.mark.parametrize("preprocessing", [True, False])
@pytest.mark.parametrize("kind", READERS)
def test_programs_in_another_process(weights_file, tmp_path, kind, preprocessing):
    out = tmp_path / "lenet"
    more = [] if preprocessing else ["--without-preprocessing"]
    result = export([f"--weights={weights_file}", f"--format={kind}", f"--out={out}", *more])
    assert result["difference"] <= 1e-5 and result["bytes"] > 4 * 61_706
    assert [path.name for path in tmp_path.iterdir()] == ["lenet"]

    classifier = from_weights(weights_file, None, "cnnjax")
    # Another number of images than the export was checked with.
    images = np.random.default_rng(5).integers(0, 256, (7, 32, 32, 1), np.uint8)
    np.save(tmp_path / "images.npy", images if preprocessing else classifier.preprocess(images))
    code = (
        f"import sys, numpy as np; {READERS[kind].format(str(out))}; "
        "np.save('answers.npy', run(np.load('images.npy'))); "
        "sys.exit(any(name in sys.modules for name in ('cnnjax', 'train', 'flax')))"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu"}
    )
    logits = classifier.model.apply(classifier.variables, classifier.preprocess(images)).logits
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), jax.nn.softmax(logits), atol=1e-5)


@pytest.mark.parity
def test_a_savedmodel_answers_alike_here_and_in_another_process(weights_file, tmp_path):
    """The check that each export passes is in another process."""
    import tensorflow as tf

    out = tmp_path / "lenet"
    out.mkdir()
    (out / "saved_model.pb").touch()  # an old one, which is replaced
    result = export([f"--weights={weights_file}", "--format=savedmodel", f"--out={out}"])
    assert result["difference"] <= 1e-5 and [path.name for path in tmp_path.iterdir()] == ["lenet"]
    classifier = from_weights(weights_file, None, "cnnjax")
    images = np.random.default_rng(5).integers(0, 256, (7, 32, 32, 1), np.uint8)
    logits = classifier.model.apply(classifier.variables, classifier.preprocess(images)).logits
    program = tf.saved_model.load(str(out)).signatures["serving_default"]
    answers = program(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(answers, jax.nn.softmax(logits), atol=1e-5)


@pytest.mark.parity
def test_tflite(weights_file, tmp_path, monkeypatch):
    """In float32, and in 8 bits by images that show the ranges of values."""
    import tensorflow as tf

    exact, small = tmp_path / "lenet.tflite", tmp_path / "small.tflite"
    base = [f"--weights={weights_file}"]
    result = export([*base, "--format=tflite", f"--out={exact}"])
    assert result["difference"] <= 1e-5 and "agreement" not in result
    with pytest.raises(UserError, match="needs --data"):
        export([*base, "--format=tflite_int8", f"--out={small}"])
    monkeypatch.setattr(programs, "MOST_SHOWN", 20)
    shown = ["--format=tflite_int8", "--data=synthetic:32x32x1/10"]
    result = export([*base, *shown, f"--out={small}"])
    assert 0 < result["difference"] < 0.2 and result["agreement"] > 0.7
    assert small.stat().st_size < 0.4 * exact.stat().st_size
    kinds = {tensor["dtype"] for tensor in tf.lite.Interpreter(str(small)).get_tensor_details()}
    assert np.int8 in kinds


def test_programs_say_how_a_photograph_becomes_an_image(weights_file, tmp_path, capsys):
    import onnxruntime

    loaded = from_weights(weights_file, None, "cnnjax")
    classifier = loaded._replace(
        classes=("cat", "dog"),
        preprocess=partial(normalize, mean=(0.5,), std=(0.5,)),
        data=Data(size=96, channels=3),
        image_shape=(96, 96, 3),
    )
    cut = programs.preparation(classifier)
    assert "uint8 (N, 96, 96, 3), RGB" in cut and "short side to 110 pixels (bilinear, with" in cut
    whole = dataclasses.replace(classifier.data, transform=Transform(fraction=1.0))
    told = programs.preparation(classifier._replace(data=whole))
    assert "Scale the whole photograph to 96x96 pixels" in told
    path = str(tmp_path / "lenet.onnx")
    programs.write_program(path, "onnx", loaded._replace(classes=tuple("abcdefghij")))
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list("abcdefghij")
    assert about["preparation"] in capsys.readouterr().err


def test_a_program_that_differs_is_not_written(weights_file, tmp_path, monkeypatch):
    answer = {"difference": 1e-3, "agreement": 1.0}
    monkeypatch.setattr(programs, "check_elsewhere", lambda *_, **__: answer)
    with pytest.raises(CheckpointError, match=r"differs from the network by .* not written"):
        export([f"--weights={weights_file}", f"--out={tmp_path}/x.stablehlo"])
    assert not list(tmp_path.iterdir())


def test_a_network_for_a_fixed_number_of_images_is_refused(weights_file, tmp_path):
    class Fixed(nn.Module):
        def __call__(self, images, train):
            return images.reshape(len(images), -1)

    loaded = from_weights(str(weights_file), None, "cnnjax")._replace(model=Fixed(), variables={})
    with pytest.raises(UserError, match=r"write x\.shape\[0\] instead of len\(x\)"):
        programs.make_stablehlo(tmp_path / "x", loaded, preprocessing=False)


def test_a_folder_is_not_written_over(weights_file, tmp_path):
    for kind in ("onnx", "savedmodel"):
        with pytest.raises(UserError, match="is a folder"):
            export([f"--weights={weights_file}", f"--format={kind}", f"--out={tmp_path}"])


OTHERS = [*{*cnnjax.list_models()} - {"lenet5_1998", "inception_v1", "inception_v3"}]
V3 = pytest.param("inception_v3", 75, marks=pytest.mark.slow)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "size"),
    [("lenet5_1998", 32), ("inception_v1", 64), V3]
    + [pytest.param(name, 0, marks=pytest.mark.slow) for name in sorted(OTHERS)],
)
def test_other_networks_in_onnx_and_tensorflow(name, size):
    """What LeNet-5 lacks: partial connections, normalisation, branches, groups, residuals."""
    import onnxruntime

    from train.export.tensorflow import to_tensorflow

    height, width, channels = cnnjax.get_spec(name).input_size
    shape = (size or height, size or width, channels)
    model = cnnjax.create_model(name, num_classes=10)
    variables = random_variables(model, shape)

    def answer(images):
        return model.apply(variables, images / 127.5 - 1, train=False).logits

    program = onnx.to_onnx(answer, shape, np.dtype(np.float32), name).SerializeToString()
    images = np.random.default_rng(1).uniform(0, 255, (2, *shape)).astype(np.float32)
    (answers,) = onnxruntime.InferenceSession(program).run(None, {"images": images})
    logits = jax.jit(answer)(images)
    assert logits.std() > 0.01
    np.testing.assert_allclose(answers, logits, atol=1e-4 * float(logits.std()))
    answers = to_tensorflow(answer, shape, np.dtype(np.float32)).answer(images)["probabilities"]
    np.testing.assert_allclose(answers, logits, atol=1e-4 * float(logits.std()))


def test_an_operation_without_translation_is_an_error():
    with pytest.raises(UserError, match="no translation for jax's sort"):
        onnx.to_onnx(lambda x: jax.numpy.sort(x, axis=1), (4,), np.dtype(np.float32), "sorted")


def test_a_run_as_safetensors_gives_the_same_predictions(tmp_path, capsys):
    root = tmp_path / "set"
    photos(root)
    train(
        [
            f"--config={ROOT}/configs/lenet_mnist.py",
            f"--workdir={tmp_path}/run",
            f"--config.data.source=folder:{root}",
            "--config.data.size=32",
            "--config.data.channels=1",
            "--config.data.mean=(0.4,)",
            "--config.data.std=(0.2,)",
            "--config.data.eval_split=val",
            "--config.data.batch_size=4",
            "--config.epochs=1",
        ]
    )
    result = export(
        [f"--workdir={tmp_path}/run", "--format=safetensors", f"--out={tmp_path}/run.safetensors"]
    )
    assert result["difference"] <= 1e-5
    assert weights.load(tmp_path / "run.safetensors").class_names == ("ant", "bee", "cat", "dog")
    capsys.readouterr()
    outputs = []
    for which in (f"--workdir={tmp_path}/run", f"--weights={tmp_path}/run.safetensors"):
        predict.main([which, str(root / "val")])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
