"""Unusual images, names, options and files: an answer, or one sentence and its exit code.

Short cases of one kind, in one place: a new one is put beside its siblings.
"""

import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax import weights
from cnnjax.analysis import abstract_variables
from cnnjax.images import decode
from tests.helpers import ROOT, assert_trees_close
from train import cli, errors, metrics, predict
from train.__main__ import main as train
from train.classifier import from_weights
from train.errors import DataError, UserError
from train.evaluate import statistics
from train.evaluate.__main__ import main as evaluate
from train.export.__main__ import main as export
from train.export.programs import CLOSE
from train.options import read_names
from train.report.__main__ import main as report

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 28, 56), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a network that reads 28x56, and beside it its test images as files."""
    root = tmp_path_factory.mktemp("wide")
    labels = np.arange(24) % 4
    np.savez(root / "a.npz", x_train=IMAGES, y_train=labels, x_test=IMAGES[:8], y_test=labels[:8])
    for i, image in enumerate(IMAGES[:8]):
        for split in ("train", "test"):
            folder = root / f"photos/{split}/{labels[i]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    train(
        [
            f"--config={ROOT}/configs/lenet_mnist.py",
            f"--workdir={root}/run",
            f"--config.data.source=npz:{root}/a.npz",
            "--config.data.batch_size=8",
            "--config.data.eval_batch_size=4",
            "--config.epochs=1",
            "--config.optim.warmup=0",
        ]
    )
    return root / "run"


@pytest.fixture(scope="module")
def photo(run):
    return str(run.parent / "photos/test/0/0.png")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def json_lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# Images that are not square


@pytest.mark.parity
def test_wide_images_are_answered_alike(run, photo, tmp_path, capsys):
    """By evaluation of the arrays and of files, by predictions, and by both kinds of exports."""
    own = evaluate([f"--workdir={run}", "--predictions=csv"])
    other = evaluate([f"--workdir={run}", f"--data=folder:{run.parent}/photos", "--split=test"])
    assert other["loss"] == pytest.approx(own["loss"], abs=1e-5)
    flipped = [
        evaluate([f"--workdir={run}", "--protocol=flip", *more])["loss"]
        for more in ([], [f"--data=folder:{run.parent}/photos", "--split=test"])
    ]
    assert flipped[1] == pytest.approx(flipped[0], abs=1e-5)
    (row, *_) = rows(own["predictions"])
    expected = {row[f"class{k}"]: float(row[f"probability{k}"]) for k in range(1, 5)}

    program, file = tmp_path / "a.stablehlo", tmp_path / "a.safetensors"
    exported = export([f"--workdir={run}", f"--out={program}"])
    assert exported["difference"] <= CLOSE
    export([f"--workdir={run}", "--format=safetensors", f"--out={file}"])
    for network in (f"--workdir={run}", f"--weights={file}"):
        capsys.readouterr()
        predict.main([network, "--json", photo])
        (line,) = json_lines(capsys)
        for answer in line["top"]:
            assert answer["probability"] == pytest.approx(expected[answer["class"]], abs=1e-5)
    loaded = jax.export.deserialize(bytearray(program.read_bytes()))
    assert [str(n) for n in loaded.in_avals[0].shape] == ["batch", "28", "56", "1"]
    probabilities = np.asarray(loaded.call(IMAGES[:1, ..., None]))[0]
    assert probabilities == pytest.approx([expected[name] for name in "0123"], abs=1e-5)


def test_other_sizes_are_squeezed_and_squares_refused(run, tmp_path):
    Image.fromarray(IMAGES[0]).resize((112, 28)).save(tmp_path / "wide.png")
    file = tmp_path / "a.safetensors"
    export([f"--workdir={run}", "--format=safetensors", f"--out={file}"])
    classifier = from_weights(str(file), None, "cnnjax")
    assert classifier.image_shape == (28, 56, 1)
    content = (tmp_path / "wide.png").read_bytes()
    squeezed = predict.make_reader(classifier)(content)
    whole = Image.fromarray(decode(content, 1)[..., 0])
    expected = np.asarray(whole.resize((56, 28), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(squeezed[..., 0], expected)
    with pytest.raises(UserError, match="cuts squares, but 3 reads images of 28x56"):
        evaluate([f"--workdir={run}", "--protocol=ten_crop"])
    with pytest.raises(UserError, match=r"cut squares, but .* reads images of 28x56"):
        predict.main([f"--weights={file}", "--resize=64", str(tmp_path / "wide.png")])


# Many classes


def test_mistakes_are_counted_without_a_matrix():
    classes = 40_000
    labels = np.array([39_999, 39_999, 7, 5], np.int32)
    scores = np.full((4, classes), -np.log(classes), np.float32)
    names = [str(i) for i in range(classes)]
    before, limit = resource.getrlimit(resource.RLIMIT_AS), 2**33
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + limit, before[1]))
    try:
        result = statistics.summarize(scores, labels, names)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert result["mistakes"] == [["39999", "0", 2], ["5", "0", 1], ["7", "0", 1]]


def test_a_report_of_many_classes_lists_mistakes():
    from train.report.pages import Evaluation, confusion

    labels = np.arange(300)
    logs = statistics.log_softmax(10 * np.eye(300)[np.where(labels == 7, 8, labels)])
    numbers = statistics.summarize(logs, labels, [f"c{i}" for i in range(300)])
    text = confusion(Evaluation(None, None, None, None, numbers))
    assert "<td>c7</td><td>c8</td><td>1</td>" in text


# Options


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (predict.main, "--top=0"),
        (predict.main, "--top=x"),
        (predict.main, "--batch-size=0"),
        (predict.main, "--size=-1"),
        (evaluate, "--batch-size=-4"),
        (evaluate, "--devices=-1"),
        (evaluate, "--resize=0"),
        (evaluate, "--fraction=0"),
        (evaluate, "--fraction=1.5"),
        (evaluate, "--fraction=nan"),
        (evaluate, "--scales=256,0"),
        (export, "--size=9999999"),
        (report, "--images=-1"),
    ],
)
def test_numbers_have_bounds(command, option, capsys):
    assert errors.run(lambda: command([option])) == 2
    name, _, value = option.partition("=")
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: {name}={value.split(',')[-1]} must be a ")
    assert sentence.count("\n") == 1


PREDICT, EVALUATE, EXPORT, REPORT = (
    lambda *a: predict.main([*a, "photo.png"]),
    lambda *a: evaluate([*a]),
    lambda *a: export([*a, "--out=x"]),
    lambda *a: report([*a]),
)


@pytest.mark.parametrize("command", [PREDICT, EVALUATE, EXPORT])
@pytest.mark.parametrize(
    "option",
    [
        *("resize=64", "style=timm", "interpolation=bicubic", "size=64", "fraction=1"),
        *("model=vgg16", "source=timm", "class-names=names.txt"),
    ],
)
def test_options_of_weights_are_refused_for_a_run(command, option):
    name = option.partition("=")[0]
    owner = "--weights" if name in ("model", "source") else "--pretrained or --weights"
    with pytest.raises(UserError, match=f"--{name} has no effect without {owner}"):
        command("--workdir=run", f"--{option}")


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        (
            PREDICT,
            "--weights=x --step=best --raw",
            "--step, --raw have no effect without --workdir",
        ),
        (PREDICT, "--workdir=x --features=f.npz --json", "--json has no effect with --features"),
        (EVALUATE, "--workdir=x --watch --step=best", "--step has no effect with --watch"),
        (EVALUATE, "--compare a b --data=npz:x", "--data has no effect with --compare"),
        (EVALUATE, "--compare a b --watch", "--watch has no effect with --compare"),
        (
            EVALUATE,
            "--weights=x --data=npz:x --predictions=csv",
            "--predictions has no effect without --workdir or --out",
        ),
        (
            EXPORT,
            "--workdir=x --format=safetensors --without-preprocessing",
            "--without-preprocessing has no effect on a file of values",
        ),
        (EXPORT, "--weights=x --resize=64", "--resize has no effect on a program"),
        (EXPORT, "--weights=x --class-names=y", "--class-names has no effect on a program"),
        (EXPORT, "--weights=x --format=onnx --dtype=bfloat16", "--dtype has no effect with"),
        (REPORT, "--compare a b --step=best", "--step has no effect with --compare"),
        (REPORT, "--workdir=a --out=x.html", "--out has no effect without --compare"),
    ],
)
def test_an_option_without_effect_is_refused(command, options, sentence):
    with pytest.raises(UserError, match=sentence):
        command(*options.split())


def test_memory_that_does_not_suffice(capsys):
    def command():
        raise MemoryError("Unable to allocate 27.9 GiB")

    assert errors.run(command) == 2
    said = capsys.readouterr().err
    assert said == "error: memory does not suffice: Unable to allocate 27.9 GiB\n"


def test_a_folder_before_an_image(run, photo, capsys):
    assert predict.main(["--workdir", str(run), photo])["images"] == 1


def test_no_image_that_can_be_read(run, photo, tmp_path, capsys):
    missing = f"{tmp_path}/missing.png"
    assert errors.run(lambda: predict.main([f"--workdir={run}", missing])) == 3
    assert "error: none of the images can be read" in capsys.readouterr().err
    assert errors.run(lambda: predict.main([f"--workdir={run}", missing, photo])) == 0


def test_files_that_would_never_end(run, tmp_path, capsys):
    """A FIFO without a writer, and a device: named at once, wherever a file is read by its name."""
    fifo, device = str(tmp_path / "fifo.png"), str(tmp_path / "device.png")
    os.mkfifo(fifo)
    os.symlink("/dev/zero", device)
    for name in (fifo, device):
        assert errors.run(lambda name=name: predict.main([f"--workdir={run}", name])) == 3
        said = f"{name} cannot be read: it is not a regular file"
        assert said in capsys.readouterr().err
        with pytest.raises(DataError, match="not a regular file"):
            evaluate(["--compare", name, name])
        with pytest.raises(DataError, match="not a regular file"):
            evaluate([f"--workdir={run}", f"--data=npz:{name}"])
        with pytest.raises(weights.WeightsError, match="not a regular file"):
            weights.load(name)
        with pytest.raises(UserError, match="not a regular file"):
            read_names(name)


# Names and streams


def test_lists_from_windows(run, photo, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photo}\r\n{photo}\r\n"))
    assert predict.main([f"--workdir={run}", "--list"])["images"] == 2


def test_names_that_are_not_utf8(run, tmp_path, capsys, monkeypatch):
    shutil.copytree(run.parent / "photos", tmp_path / "photos")
    latin = os.fsencode(tmp_path / "photos/test/0") + b"/m\xfcll.png"
    os.rename(tmp_path / "photos/test/0/0.png", latin)
    source = [f"--data=folder:{tmp_path}/photos", "--split=test", f"--out={tmp_path}"]
    for kind in ("csv", "parquet"):
        evaluate([f"--workdir={run}", *source, f"--predictions={kind}"])
    (written,) = tmp_path.glob("*.csv")
    assert rows(written)[1]["file"] == f"{tmp_path}/photos/test/0/m\\udcfcll.png"
    stdin = io.TextIOWrapper(io.BytesIO(latin + b"\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    predict.main([f"--workdir={run}", "--list"])
    assert "m\\udcfcll.png" in capsys.readouterr().out
    predict.main([f"--workdir={run}", f"--features={tmp_path}/f.parquet", str(tmp_path / "photos")])
    assert cli.printable("müll") == "müll"


def test_a_closed_pipe_ends_quietly(run, photo):
    command = [sys.executable, "-m", "train.predict", f"--workdir={run}", *[photo] * 40]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment
    ) as process:
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "BrokenPipe" not in said and "Traceback" not in said
    assert process.returncode == 128 + 13


# Files of our own format


def pretrained(name, shape, **options):
    model = cnnjax.create_model(name, num_classes=4, **options)
    shapes = abstract_variables(model, shape, train=True)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), shapes)
    preprocessing = weights.Preprocessing(shape[0], channels="L" if shape[2] == 1 else "RGB")
    return weights.Pretrained(model, variables, preprocessing, None, name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5", (32, 32, 3)), ("lenet5", (48, 48, 1)), ("inception_v1_bn", (224, 224, 1))],
)
def test_other_shapes_than_the_registrys(name, shape, tmp_path):
    saved = pretrained(name, shape)
    weights.save(tmp_path / "a.safetensors", saved)
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.image_shape == shape
    assert_trees_close(loaded.variables, saved.variables)


def test_files_without_a_shape_have_the_registrys(tmp_path):
    from safetensors.numpy import load_file, save_file

    from cnnjax.weights.read import safetensors_metadata

    path = tmp_path / "a.safetensors"
    weights.save(path, pretrained("lenet5", (32, 32, 1)))
    content = json.loads(safetensors_metadata(path)["cnnjax"])
    assert content.pop("image_shape") == [32, 32, 1]
    save_file(load_file(path), path, {"cnnjax": json.dumps(content)})
    assert weights.load(path).image_shape is None


def test_the_mode_follows_the_umask(run, tmp_path):
    before = os.umask(0o027)
    try:
        weights.save(tmp_path / "a.safetensors", pretrained("lenet5", (32, 32, 1)))
        export([f"--workdir={run}", "--format=safetensors", f"--out={tmp_path}/b.safetensors"])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.safetensors": 0o640, "b.safetensors": 0o640}


# An evaluation without images


def test_no_image_to_evaluate(tmp_path):
    with pytest.raises(DataError, match="none of the images can be read"):
        metrics.finalize([{"loss": np.float32(0), "examples": np.int32(0)}], 10)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(4):
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(IMAGES[i]).save(path)
                if split == "val":
                    path.write_bytes(path.read_bytes()[:40])
    arguments = [
        f"--config={ROOT}/configs/lenet_mnist.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.source=folder:{tmp_path}",
        "--config.data.eval_split=val",
        "--config.data.on_bad_image=skip",
        "--config.data.size=32",
        "--config.data.channels=1",
        "--config.data.batch_size=4",
        "--config.data.eval_batch_size=4",
        "--config.epochs=1",
        "--config.optim.warmup=0",
    ]
    with pytest.raises(DataError, match="none of the 8 images of the evaluation split"):
        train(arguments)
