"""The wheel: what it holds, what it declares, and that it works outside the checkout."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import analysis
from cnnjax.weights import Preprocessing, Pretrained
from tests.helpers import ROOT
from tests.models.values import starting_values

PACKAGES = ("cnnjax", "train")
# Imports that another name declares, and those that an error message or another package provides.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint"}
OPTIONAL = {"keras", "libtpu", "mlflow", "pyarrow", "trackio", "wandb"}

# What the console script does.
COMMAND = "import sys; sys.path.pop(0); from cnnjax.__main__ import main; sys.exit(main())"

SCRIPT = """
import json

import jax
import numpy as np

import cnnjax

model = cnnjax.create_model("lenet5", num_classes=10)
pretrained = cnnjax.weights.load("lenet5.safetensors")
outputs = jax.jit(model.apply)(pretrained.variables, np.ones((2, 32, 32, 1), np.float32))
found = {
    "file": cnnjax.__file__,
    "models": cnnjax.list_models(),
    "version": cnnjax.__version__,
    "logits": outputs.logits.tolist(),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder of an unpacked wheel. It is built from a copy: setuptools leaves files behind."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", out, copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as file:
        file.extractall(out / "unpacked")
    return out / "unpacked"


def away(wheel, folder, *arguments):
    """Runs Python in `folder` with the wheel's packages; returns its last line, read as JSON."""
    environment = os.environ | {"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def metadata(wheel):
    return HeaderParser().parsestr(next(wheel.glob("*.dist-info/METADATA")).read_text())


def test_it_holds_all_but_the_readmes(wheel):
    def files(root):
        found = {path.relative_to(root) for name in PACKAGES for path in (root / name).rglob("*.*")}
        return {str(path) for path in found if "__pycache__" not in path.parts}

    recipes = {f"train/recipes/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    ours = {name for name in files(ROOT) if not name.endswith(".md")}
    assert files(wheel) == ours | recipes
    assert (wheel / "train/py.typed").exists() and (wheel / "cnnjax/py.typed").exists()


def test_it_declares_what_it_imports(wheel):
    required = metadata(wheel).get_all("Requires-Dist")
    names = {re.match(r"[\w.-]+", line)[0].replace("_", "-").lower() for line in required}
    base = {re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line}
    assert base == {"flax", "jax", "numpy"}
    imported = set()
    for path in (path for name in PACKAGES for path in (wheel / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {*PACKAGES, *OPTIONAL}
    declared = {DISTRIBUTIONS.get(name, name).replace("_", "-").lower() for name in others}
    assert declared - names == set()


def test_its_extras_are_those_that_the_readme_names(wheel):
    extras = ["train", "data", "demo", "weights", "onnx", "tensorboard", "tpu", "parity", "test"]
    assert set(metadata(wheel).get_all("Provides-Extra")) == set(extras)


def test_networks_and_weights_work_from_it(wheel, tmp_path):
    model, images = cnnjax.create_model("lenet5"), np.ones((2, 32, 32, 1), np.float32)
    variables = starting_values(analysis.abstract_variables(model, images.shape[1:]))
    preprocessing = Preprocessing(32, mean=(0.0,), std=(255.0,), channels="L")
    pretrained = Pretrained(model, variables, preprocessing, None, "lenet5")
    cnnjax.weights.save(tmp_path / "lenet5.safetensors", pretrained)
    (tmp_path / "script.py").write_text(SCRIPT)
    found = away(wheel, tmp_path, "script.py")
    assert found["file"].startswith(str(wheel))
    assert found["models"] == cnnjax.list_models()
    assert found["version"] == metadata(wheel)["Version"]
    logits = jax.jit(model.apply)(variables, images).logits
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)


def test_a_recipe_trains_from_it(wheel, tmp_path):
    """By name, in a folder where `train` is something else."""
    (tmp_path / "train.py").write_text("raise SystemExit('the user's own')")
    options = ("epochs=0.1", "optim.warmup=0", "parallel.compile_cache=")
    flags = [f"--config.{option}" for option in options]
    result = away(wheel, tmp_path, "-c", COMMAND, "train", "lenet_mnist", "--workdir=run", *flags)
    assert result["step"] == 3 and 0 <= result["top1"] <= 1
    assert (tmp_path / "run/metrics.jsonl").exists()
