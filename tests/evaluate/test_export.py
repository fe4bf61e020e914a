"""Exported networks give the network's answers, in a process that knows nothing of this project."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from cnnjax import weights
from tests.evaluate.subjects import photos
from tests.evaluate.test_command import write
from tests.helpers import ROOT
from train import export, predict, subject
from train.__main__ import main as train
from train.errors import CheckpointError


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "lenet.safetensors")


@pytest.mark.parametrize("preprocessing", [True, False])
def test_stablehlo_in_another_process(ours, tmp_path, preprocessing):
    out = tmp_path / "lenet.stablehlo"
    more = [] if preprocessing else ["--without-preprocessing"]
    result = export.main([f"--weights={ours}", f"--out={out}", *more])
    assert result["difference"] <= 1e-5 and result["bytes"] == out.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["lenet.stablehlo"]

    seen = subject.from_weights(ours, None, "cnnjax")
    images = np.random.default_rng(5).integers(0, 256, (7, 32, 32, 1), np.uint8)  # of another number than was checked
    np.save(tmp_path / "images.npy", images if preprocessing else seen.preprocess(images))
    code = (
        "import sys, jax.export, numpy as np; "
        f"run = jax.export.deserialize(bytearray(open({str(out)!r}, 'rb').read())); "
        "np.save('answers.npy', run.call(np.load('images.npy'))); "
        "sys.exit(any(name in sys.modules for name in ('cnnjax', 'train', 'flax')))"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu"})
    logits = seen.model.apply(seen.variables, seen.preprocess(images)).logits
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), jax.nn.softmax(logits), atol=1e-5)


def test_a_program_that_differs_is_not_written(ours, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "check_elsewhere", lambda *_: 1e-3)
    with pytest.raises(CheckpointError, match=r"differs from the network by .* not written"):
        export.main([f"--weights={ours}", f"--out={tmp_path}/x.stablehlo"])
    assert not list(tmp_path.iterdir())


def test_a_run_as_safetensors_gives_the_same_predictions(tmp_path, capsys):
    root = tmp_path / "set"
    photos(root)
    train([f"--config={ROOT}/configs/lenet_mnist.py", f"--workdir={tmp_path}/run", f"--config.data.source=folder:{root}",
           "--config.data.size=32", "--config.data.eval_split=val", "--config.data.batch_size=4", "--config.epochs=1",
           "--config.data.channels=1", "--config.data.mean=(0.4,)", "--config.data.std=(0.2,)"])  # fmt: skip
    result = export.main([f"--workdir={tmp_path}/run", "--format=safetensors", f"--out={tmp_path}/run.safetensors"])
    assert result["difference"] <= 1e-5
    assert weights.load(tmp_path / "run.safetensors").class_names == ("ant", "bee", "cat", "dog")
    capsys.readouterr()
    said = []
    for which in (f"--workdir={tmp_path}/run", f"--weights={tmp_path}/run.safetensors"):
        predict.main([which, str(root / "val")])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
