"""Published networks by name: fetched from a server on this machine, kept, verified, used.

The server and its files are made once, for all that is fetched.
"""

import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import cnnjax
from cnnjax import weights
from cnnjax.trees import nest
from cnnjax.weights import fetch, metadata, named
from tests import test_notebooks as notebooks
from tests.helpers import assert_trees_close
from tests.weights.files import torchvision_tensors, variables, write
from train.errors import CheckpointError, UserError
from train.export.__main__ import main as export

NAME, FILE = "torchvision/inception_v1_bn", "googlenet-1378be20.pth"
CLASSES = 3


class Server(http.server.ThreadingHTTPServer):
    """Serves files by name, parts of them if asked, and keeps the requests."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut: int | None = None  # after so many bytes the next answer breaks off
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = urllib.parse.unquote(self.path).lstrip("/")
        part = self.headers.get("Range")
        self.server.requests.append((name, part))
        if name not in self.server.files:
            return self.send_error(404)
        start = int(part.removeprefix("bytes=").rstrip("-")) if part else 0
        content = self.server.files[name][start:]
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(content[:cut])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def values():
    """Variables of a small network, with features that depend on the image."""
    rng = np.random.default_rng(0)
    shapes = variables("inception_v1_bn", num_classes=CLASSES, aux=False)
    scaled = {
        path: x * np.float32((2 / np.prod(x.shape[:-1])) ** 0.5) if x.ndim > 1 else x / 10
        for path, x in shapes.items()
    }
    return {
        path: rng.uniform(0.8, 1.25, x.shape).astype(np.float32)
        if path.endswith(("/scale", "/var"))
        else x
        for path, x in scaled.items()
    }


@pytest.fixture(scope="module")
def file(values, tmp_path_factory):
    """What torchvision publishes, of three classes."""
    tensors = torchvision_tensors("inception_v1_bn", values)
    return write(tmp_path_factory.mktemp("published") / FILE, tensors).read_bytes()


@pytest.fixture
def server(file, tmp_path, monkeypatch):
    server = Server()
    server.files[FILE] = file
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CNNJAX_MIRROR", server.address)
    for name in ("CNNJAX_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KERAS_HOME", "TORCH_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(file)
    hash = f"sha256:{metadata.digest(tmp_path / 'file', 'sha256')[:8]}"
    replaced = tuple(
        record._replace(hash=hash) if record.file == FILE else record for record in weights.RECORDS
    )
    monkeypatch.setattr(metadata, "RECORDS", replaced)
    yield server
    server.shutdown()


def umask():
    before = os.umask(0)
    os.umask(before)
    return before


def sentence(name=NAME):
    with pytest.raises(ValueError) as error:
        cnnjax.pretrained(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_fetched_once(server, values, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = cnnjax.pretrained(NAME)
        again = cnnjax.pretrained(NAME, num_classes=CLASSES)
    assert [name for name, _ in server.requests] == [FILE]
    assert_trees_close(net.variables, nest(values))
    assert_trees_close(again.variables, net.variables)
    assert (net.name, net.origin["top1"], net.fresh) == ("inception_v1_bn", 69.778, ())
    kept = tmp_path / "cache" / "torchvision" / "inception_v1_bn" / FILE
    assert kept.exists() and not list(kept.parent.glob("*.partial"))


def test_interrupted_and_resumed(server, file):
    server.cut = 1_000_000
    assert "was interrupted after 1,000,000 of" in sentence()
    assert cnnjax.pretrained(NAME).name == "inception_v1_bn"
    assert server.requests == [(FILE, None), (FILE, "bytes=1000000-")]


def test_wrong_hash(server, tmp_path):
    server.files[FILE] = server.files[FILE][:-1] + b"\x01"
    assert "wrong hash" in sentence() and "was removed" in sentence()
    assert not [
        path for path in (tmp_path / "cache").rglob("*googlenet*") if path.suffix != ".lock"
    ]


def test_not_found_offline_no_network_no_space(server, monkeypatch):
    del server.files[FILE]
    assert f"was not found at {server.address}/{FILE}" in sentence()
    asked = len(server.requests)
    monkeypatch.setenv("CNNJAX_OFFLINE", "1")
    assert "CNNJAX_OFFLINE" in sentence() and FILE in sentence()
    monkeypatch.delenv("CNNJAX_OFFLINE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in sentence()
    assert len(server.requests) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("CNNJAX_MIRROR", "http://127.0.0.1:1")
    assert "cannot be fetched from http://127.0.0.1:1/" in sentence()
    monkeypatch.setenv("CNNJAX_MIRROR", "mirror.example")
    assert sentence() == "CNNJAX_MIRROR=mirror.example is no address: it begins with https://"
    monkeypatch.setenv("CNNJAX_MIRROR", server.address)
    server.files[FILE] = b"0" * 1000
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert "needs 1,000 bytes" in sentence() and "CNNJAX_CACHE" in sentence()


@pytest.mark.parametrize(
    ("variable", "place"), [("TORCH_HOME", "hub/checkpoints"), ("CNNJAX_CACHE", None)]
)
def test_files_of_other_libraries_are_used_as_they_are(
    server, file, tmp_path, monkeypatch, variable, place
):
    folder = tmp_path / "theirs" / (place or "torchvision/inception_v1_bn")
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(file)
    monkeypatch.setenv(variable, str(tmp_path / "theirs"))
    assert cnnjax.pretrained(NAME).origin["file"] == FILE
    assert not server.requests


def test_a_damaged_file_of_another_library_is_not(server, file, tmp_path, monkeypatch):
    folder = tmp_path / "theirs" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(file[:-1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "theirs"))
    cnnjax.pretrained(NAME)
    assert len(server.requests) == 1


def test_archives_and_several_processes(server, tmp_path):
    """TF-slim's archive is fetched once by processes that start together."""
    content = b"checkpoint" * 1000
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as members:
        member = tarfile.TarInfo("./inception_v1.ckpt")
        member.size = len(content)
        members.addfile(member, io.BytesIO(content))
    server.files["inception_v1_2016_08_28.tar.gz"] = archive.getvalue()
    code = (
        "from cnnjax.weights import fetch, named;"
        "print(fetch.fetch(named.find_record('slim/inception_v1_bn')))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {process.communicate()[0].strip() for process in processes}
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == content
    assert len(server.requests) == 1


def test_a_file_of_the_hub_from_a_mirror(server):
    record = named.find_record("timm/inception_v3.tf_adv_in1k")
    server.files["inception_v3.tf_adv_in1k/model.safetensors"] = b"values"
    assert fetch.fetch(record).read_bytes() == b"values"


def test_the_hub_without_a_network(server, monkeypatch):
    import huggingface_hub

    cause = None

    def unanswered(*_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot connect") from cause

    name = "timm/inception_v3.tf_adv_in1k"
    monkeypatch.delenv("CNNJAX_MIRROR")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unanswered)
    text = sentence(name)
    assert "which does not answer: without a network, put it at" in text and "not found" not in text
    cause = Exception()
    cause.response = SimpleNamespace(status_code=429)
    assert "which answers 429: try again later, or put it at" in sentence(name)

    path = Path(text.partition("put it at ")[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"values")
    assert fetch.fetch(named.find_record(name)) == path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inception_v5", "did you mean inception_v"),
        ("keras/vgg16_bn", "keras publishes no vgg16_bn; there are timm/vgg16_bn, torchvision/vgg"),
        ("tim/inception_v3", "source='tim' is unknown; did you mean timm"),
        ("lenet5", "no weights of lenet5 are published"),
        ("no/such/file.pth", "there is no file no/such/file.pth"),
        ("file.pth", "there is no file file.pth"),
        ("./inception_v3", "there is no file ./inception_v3"),
        ("timm/inception_v3.gluon", "did you mean inception_v3.gluon_in1k"),
    ],
)
def test_unknown_names(name, text):
    assert text in sentence(name)


def test_the_best_published_accuracy():
    assert named.find_record("inception_v3").tag == "gluon_in1k"
    assert named.find_record("keras/inception_v3").file.endswith("kernels.h5")
    assert all(fetch.fetchable(named.find_record(r.model)) for r in weights.RECORDS)


def test_a_run_folder_without_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(weights.WeightsError, match="is not the config of a run"):
        cnnjax.pretrained(tmp_path)


def test_a_random_classifier_does_not_predict(server):
    with pytest.warns(weights.WeightsWarning, match="initialised at random"):
        net = cnnjax.pretrained(NAME, num_classes=5)
    assert net.model.num_classes == 5 and net.fresh == ("head",)
    with pytest.raises(weights.WeightsError, match="head was initialised at random"):
        net.predict(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parity
def test_files_are_recognised(values, tmp_path):
    """As people have them: wrapped, without a word about who wrote them."""
    tensors = torchvision_tensors("inception_v1_bn", values)
    wrapped = {f"module.{name}": x.astype(np.float16) for name, x in tensors.items()}
    path = write(tmp_path / "mine.safetensors", wrapped)
    with pytest.warns(weights.WeightsWarning, match=r"module\. was removed from the names"):
        net = cnnjax.pretrained(path)
    assert (net.name, net.origin["source"]) == ("inception_v1_bn", "torchvision")
    assert_trees_close(net.variables, nest(values), atol=1e-3, rtol=1e-3)
    strange = write(tmp_path / "strange.safetensors", {"layer": np.zeros(3, np.float32)})
    assert "holds none of the published networks" in sentence(str(strange))


def test_trunk(values, tmp_path):
    """A classifier of two layers stays out, and the message without `trunk` says how."""
    tensors = torchvision_tensors("inception_v1_bn", values)
    trunk = {name: x for name, x in tensors.items() if not name.startswith("fc.")}
    sizes = {"fc.0.weight": (8, 1024), "fc.0.bias": (8,), "fc.2.weight": (2, 8), "fc.2.bias": (2,)}
    top = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    path = write(tmp_path / "mine.safetensors", trunk | top)
    with pytest.raises(weights.WeightsError, match="trunk=True loads the network without its"):
        weights.load(path, "inception_v1_bn", "torchvision")
    with pytest.warns(weights.WeightsWarning, match=r"left out are fc.0.bias, fc.0.weight, fc.2"):
        net = weights.load(path, "inception_v1_bn", "torchvision", trunk=True)
    assert net.fresh == ("head",)
    kept = {name: x for name, x in net.variables["params"].items() if name != "head"}
    given = {name: x for name, x in nest(values)["params"].items() if name != "head"}
    assert_trees_close(kept, given)


def test_the_readme_from_a_name_to_an_own_classifier(server, tmp_path, monkeypatch, capsys):
    text = (Path(weights.__file__).parent / "README.md").read_text()
    code = text.partition("From a name to an own classifier")[2].split("```")[1]
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photo", "other")):
        image = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8)
        Image.fromarray(image).save(f"{name}.jpg")
    exec(code.removeprefix("python"), {})
    predictions, loss = capsys.readouterr().out.splitlines()
    assert "probability=" in predictions and float(loss) < np.log(2)


def test_there_and_back_by_command(server, values, tmp_path, capsys):
    """`--pretrained` into a publisher's file: the tensors are those that the publisher had."""
    out = tmp_path / "out.safetensors"
    done = export([f"--pretrained={NAME}", "--format=torchvision", f"--out={out}"])
    assert done["format"] == "torchvision" and done["bytes"] == out.stat().st_size
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask()
    written, published = load_file(out), torchvision_tensors("inception_v1_bn", values)
    counters = {name for name in written if name.endswith("num_batches_tracked")}
    assert set(written) - counters == set(published) and len(counters) == 57
    assert all(np.array_equal(written[name], x) for name, x in published.items())
    with pytest.raises(CheckpointError, match="keras has no inception_v1_bn; it has vgg16, vgg19"):
        export([f"--pretrained={NAME}", "--format=keras", f"--out={tmp_path}/out.h5"])
    with pytest.raises(CheckpointError, match="slim's inception_v1_bn has bn_scale=False"):
        export([f"--pretrained={NAME}", "--format=slim", f"--out={tmp_path}/out.ckpt"])
    with pytest.raises(UserError, match="did you mean inception_v1_bn"):
        export(["--pretrained=torchvision/inception_v1bn", f"--out={tmp_path}/out"])
    with pytest.raises(UserError, match="--model has no effect without --weights"):
        export([f"--pretrained={NAME}", "--model=vgg16", f"--out={tmp_path}/out"])


@pytest.mark.parity  # it takes long
def test_the_notebook(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = notebooks.run("pretrained")
    assert space["features"].shape == (48, 1024) and space["right"].mean() >= 0.75
    assert space["result"]["examples"] == 12
