"""`python -m cnnjax weights` and `python -m cnnjax import`, as a user runs them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cnnjax import weights
from cnnjax.__main__ import main as cnnjax_command
from tests.helpers import ROOT, command, signal_handlers
from tests.weights.files import torchvision_tensors, variables, write

MODEL = "inception_v1_bn"


def test_the_table():
    done = command("cnnjax", "weights")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(weights.RECORDS) + 1
    assert "inception_v3_google-0cc3c7bd.pth" in done.stdout
    assert "https://huggingface.co/timm/inception_v3.gluon_in1k" in done.stdout
    done = command("cnnjax", "weights", "vgg19")
    assert {line.split()[1].partition(".")[0] for line in done.stdout.splitlines()[1:]} == {"vgg19"}
    done = command("cnnjax", "weights", "vgg91")
    assert done.returncode == 2 and done.stderr.startswith(
        "error: model='vgg91' is unknown; did you mean vgg"
    )


# argparse may swallow the error of its help.
@pytest.mark.parametrize(("word", "codes"), [("weights", {128 + 13}), ("--help", {0, 128 + 13})])
def test_a_closed_pipe_ends_quietly(word, codes):
    arguments = [sys.executable, "-m", "cnnjax", word]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in codes


def test_the_command_leaves_its_process_as_it_is(monkeypatch, capsys):
    """Where it is called as a function, a broken pipe must not end the process later on."""
    monkeypatch.setattr(sys, "argv", ["cnnjax", "weights", "vgg19"])
    before = signal_handlers()
    assert cnnjax_command() == 0 and "vgg19" in capsys.readouterr().out
    assert signal_handlers() == before


def test_import(tmp_path):
    values = variables(MODEL, num_classes=2, aux=False)
    file = write(tmp_path / "googlenet-1378be20.pth", torchvision_tensors(MODEL, values))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    out = tmp_path / "out.safetensors"
    done = command(
        "cnnjax",
        "import",
        "--source=torchvision",
        f"--model={MODEL}",
        f"--class-names={tmp_path}/names.txt",
        file,
        out,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"warning: {file} is not the published file: its sha256 is ")
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["model"], result["num_classes"], result["out"]) == (MODEL, 2, str(out))
    assert result["source"] == "torchvision" and "top1" not in result
    loaded = weights.load(out)
    assert loaded.class_names == ("cat", "dog")
    np.testing.assert_array_equal(
        loaded.variables["params"]["conv1"]["conv"]["kernel"], values["params/conv1/conv/kernel"]
    )
    assert loaded.preprocessing.size == 224


def test_import_of_a_bad_file(tmp_path):
    (tmp_path / "page.pth").write_text("<html>")
    out = tmp_path / "out.safetensors"
    done = command(
        "cnnjax", "import", "--source=torchvision", f"--model={MODEL}", tmp_path / "page.pth", out
    )
    assert (done.returncode, done.stderr) == (
        4,
        f"error: {tmp_path}/page.pth is a web page, not weights: the download went wrong\n",
    )
    done = command(
        "cnnjax", "import", "--source=torchvision", "--model=vgg61", tmp_path / "page.pth", out
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "error: model='vgg61' is unknown; did you mean"
    )
    assert (
        command("cnnjax", "import", "--source=torchvision", tmp_path / "page.pth", out).returncode
        == 2
    )
    assert not out.exists()
