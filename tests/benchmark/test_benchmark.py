"""The benchmark as a command: what it prints, what it counts, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import create_model, get_spec
from cnnjax.analysis import abstract_variables, count_parameters
from cnnjax.models.layers import PooledConvBN
from tests.helpers import ROOT
from train.benchmark import contestants, peers, race, roofline, scaling, tpu
from train.benchmark.__main__ import main as benchmark
from train.benchmark.plain import plain_flax
from train.benchmark.workloads import for_model
from train.errors import UserError
from train.forecast import hlo, topology

HIDE = """
from importlib.machinery import PathFinder

ABSENT = ("tensorflow", "tensorflow_datasets", "torch", "torchvision", "timm", "keras")
find = PathFinder.find_spec
PathFinder.find_spec = (
    lambda name, *rest: None if name.split(".")[0] in ABSENT else find(name, *rest)
)
"""


@pytest.fixture
def without_peers(tmp_path):
    """Runs the benchmark as a command on a machine that has neither TensorFlow nor torch."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "train.benchmark", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600
        )

    return run


@pytest.mark.slow
def test_a_step_needs_no_other_framework(without_peers):
    done = without_peers("--what=step", "--batch=2,4", "--rounds=2", "--steps=2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [run["batch"] for run in result["runs"]] == [2, 4]
    for run in result["runs"]:
        row = run["contestants"]["cnnjax"]
        assert 0 < row["roofline"] < 1 and row["images_per_second"] > 0 and row["compile_s"] > 0
        # Forward, backward by the kernel, and by the input except for the first layer's: the image
        # needs no gradient.
        forward = run["batch"] * get_spec("lenet5").multiply_adds
        assert 2 * forward < run["work"]["multiply_adds"] < 3 * forward
        assert run["machine"]["multiply_adds"] > 0 and row["process_mib"] > row["peak_mib"] > 0
    assert "of the roofline" in done.stderr and "arning" not in done.stderr


@pytest.mark.parity
def test_a_peer_that_is_not_installed(without_peers):
    done = without_peers("--what=infer", "--batch=2", "--peer=keras-jax", "--rounds=1", "--steps=1")
    assert done.returncode == 2
    sentence = "error: --peer=keras-jax needs the package keras: pip install keras"
    assert done.stderr.splitlines()[-1] == sentence


@pytest.mark.parity
def test_loop_against_bare_step(capsys):
    result = benchmark(["--what=loop", "--model=lenet5", "--batch=16", "--rounds=2", "--steps=5"])
    (run,) = result["runs"]
    assert (run["model"], run["batch"], result["rounds"]) == ("lenet5", 16, 2)
    row = run["contestants"]["loop"]
    assert row["step_is_faster"] > 0 and 0 <= row["data_wait"] < 1
    assert "waits for data" in capsys.readouterr().err


@pytest.mark.parity
def test_a_step_is_loaded_where_it_was_compiled_before(capfd):
    job = contestants.Job(contestants.OURS, "step", for_model("lenet5", 4))
    contestant = contestants.Contestant(job)
    contestant.kill()
    about = contestant.about
    assert about["loaded"]
    assert min(about["trace_s"], about["compile_s"], about["planned_mib"]) > 0
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parity
def test_compilation():
    result = benchmark(["--what=compile", "--model=lenet5*", "--batch=4"])
    assert [run["model"] for run in result["runs"]] == ["lenet5", "lenet5_1998"]
    assert all(run["contestants"]["cnnjax"]["compile_s"] > 0 for run in result["runs"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--what=steps"], "--what='steps' is unknown; did you mean step"),
        (["--model=lenet6"], "no model is called 'lenet6'; did you mean"),
        (["--model=resnet*"], r"no model is called 'resnet\*'"),
        (
            ["--peer=jax"],
            "--what=step has no peer 'jax'; it has torch, torch-compile, keras, keras-jax",
        ),
        (
            ["--peer=keras", "--model=alexnet_owt"],
            "--peer=keras has no alexnet_owt; it has lenet5, vgg16",
        ),
        (["--what=loop", "--peer=torch"], "--what=loop has no peer 'torch'; it has none"),
        (["--what=data", "--peer=timm"], "--what=data has no peer 'timm'; it has torchvision"),
        (["--what=data", "--model=vgg16"], r"--model has no effect with --what=data\|growth"),
        (["--config=configs/vgg.py", "--batch=8"], "--batch has no effect with --config"),
        (["--rounds=0"], "are whole numbers from 1"),
        (["--batch=8,x"], "--batch takes several, as in 8,32"),
    ],
)
def test_mistakes(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        benchmark(arguments)


def test_ratios_are_those_of_the_rounds():
    rows = race.summary({"a": [1.0, 2.0, 4.0], "b": [2.0, 3.0, 12.0]}, 8)
    assert rows["a"] == {"ms": 2e3, "ms_range": [1e3, 4e3], "images_per_second": 4.0}
    assert (rows["b"]["a_is_faster"], rows["b"]["ratio_range"]) == (2.0, [1.5, 3.0])
    assert "a is 2.00x as fast (1.50 to 3.00)" in race.describe("b", rows["b"])


def test_work_is_counted_as_by_hand():
    """(2, 8, 8, 3) by 3x3 to 4 channels: strides, padding, and the gradient by the input."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    rows = 3 * 3 + 2  # of 3 for each of the 4 output rows, the last hangs over the edge by one
    work = roofline.count(convolve, x, kernel)
    size = 4 * (x.size + kernel.size + 2 * 4 * 4 * 4)
    # Read and written by the program, and by the convolution.
    assert work == (2 * rows**2 * 3 * 4, 2 * size, 0)
    backward = roofline.count(jax.grad(lambda x, k: convolve(x, k).sum()), x, kernel)
    assert backward.multiply_adds == 2 * work.multiply_adds  # forward, and by the input
    matmul = roofline.count(lambda a, b: a @ b, jnp.ones((5, 6)), jnp.ones((6, 7)))
    assert matmul.multiply_adds == 5 * 6 * 7
    assert roofline.Rates(10.0, 100.0).seconds(roofline.Work(20, 100, 0)) == 2.0


def test_all_reduces_of_a_program():
    text = (
        "%a = (f32[3,4]{1,0}, bf16[2]{0}, f32[]) all-reduce(%x, %y, %z), channel_id=1\n"
        " %b = f32[7]{0} all-reduce-start(%q)"
    )
    assert roofline.all_reduces(text) == [48 + 4 + 4, 28]


def test_the_line_through_points():
    np.testing.assert_allclose(scaling.fit([1, 2, 4], [5, 7, 11]), (3, 2, 0), atol=1e-9)


@pytest.mark.slow
def test_start_up():
    (run,) = benchmark(["--what=startup", "--rounds=1", "--batch=8"])["runs"]
    assert run["import_s"] < 1 and run["second_s"] < run["cold_s"]


@pytest.mark.parity
@pytest.mark.parametrize("model", peers.TORCH)
def test_torch_has_the_same_network(model):
    """As many parameters, with heads where both have them."""
    import torch

    heads, spec = peers.has_heads("torch", model), get_spec(model)
    with torch.device("meta"):
        network = peers.torch_network(model, (1, *spec.input_size), spec.num_classes, heads)
    ours = create_model(model, **({"aux": heads} if model.startswith("inception") else {}))
    variables = abstract_variables(ours, spec.input_size, train=True)
    assert sum(p.numel() for p in network.parameters()) == count_parameters(variables["params"])


@pytest.mark.parity
def test_a_race_with_torch(capsys):
    result = benchmark(["--what=step", "--batch=4", "--rounds=2", "--steps=2", "--peer=torch"])
    row = result["runs"][0]["contestants"]["torch"]
    assert row["ratio_range"][0] <= row["cnnjax_is_faster"] <= row["ratio_range"][1]
    assert "as fast" in capsys.readouterr().err


def test_tpu_figures_are_the_committed_ones(monkeypatch, tmp_path):
    """One per cent is allowed; more ends in a sentence with every figure."""
    step = topology.Step(
        "v5e:1x1", 1, "TPU v5 lite", "pmap", True, 10, 100, hlo.Work(10**12, 10**9, 0.02), 3
    )
    modules = []
    file = tmp_path / "tpu.json"
    monkeypatch.setattr(tpu, "FILE", file)
    monkeypatch.setattr(
        tpu, "compile_step", lambda config, name, module: modules.append(module) or step
    )
    result = benchmark(["--what=tpu", "--model=vgg16", "--write"])["runs"]["vgg16"]
    assert modules == ["train.forecast.topology", "train.benchmark.plain"]
    assert result["ours"]["bound_ms"] == 20 and result["ratio"] == 1
    assert json.loads(file.read_text()) == {"vgg16": result}
    benchmark(["--what=tpu", "--model=vgg16"])
    step = step._replace(total=102)
    with pytest.raises(UserError, match="vgg16, ours, device_bytes: 102, committed 100"):
        benchmark(["--what=tpu", "--model=vgg16"])
    with pytest.raises(UserError, match=r"--what=tpu is for alexnet_owt, .*, not lenet5"):
        benchmark(["--what=tpu"])


def test_tpu_figures_are_there_for_every_network_of_make_tpu():
    makefile = (ROOT / "Makefile").read_text()
    names = re.search(r"^TPU := (.*)$", makefile, re.MULTILINE)[1].split(",")
    assert names == list(tpu.IMAGES) == list(json.loads(tpu.FILE.read_text()))


def test_plain_flax_pools_before_the_projection():
    """And nothing else of it is ours: the variables are the same."""
    layer = PooledConvBN(4, norm=lambda name: lambda x: x)
    x = jnp.arange(2 * 5 * 5 * 3.0).reshape(2, 5, 5, 3)
    variables = layer.init(jax.random.key(0), x)
    with plain_flax():
        jaxpr = jax.make_jaxpr(layer.apply)(variables, x)
        expected = layer.apply(variables, x)
    order = [eqn.primitive.name for eqn in jaxpr.eqns]
    assert order.index("reduce_window_sum") < order.index("conv_general_dilated")
    assert "cond" not in order
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-4)
