"""Predictions from the command line equal evaluation's, however the images are named."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from pyarrow import parquet

from tests.data.pictures import encoded, photo
from tests.evaluate.classifiers import CLASSES, photos
from tests.evaluate.test_command import write
from train import predict
from train.errors import DataError, UserError
from train.evaluate.__main__ import main as evaluate


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "set"
    photos(root)
    write(root / "lenet.safetensors")
    return root


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_same_as_evaluation_says(place, tmp_path, capsys):
    weights = f"--weights={place}/lenet.safetensors"
    result = evaluate(
        [weights, f"--data=folder:{place}", "--split=val", "--predictions=csv", f"--out={tmp_path}"]
    )
    with open(result["predictions"]) as file:
        expected = {row["file"]: row for row in csv.DictReader(file)}
    result = predict.main([weights, "--json", "--batch-size=4", str(place / "val")])
    assert (result["images"], result["unreadable"]) == (17, 0)
    for row in lines(capsys):
        evaluated = expected[row["file"]]
        for k, answer in enumerate(row["top"], 1):
            probability = float(evaluated[f"probability{k}"])
            assert answer["class"] == evaluated[f"class{k}"]
            assert answer["probability"] == pytest.approx(probability, abs=1e-6)
        assert len(row["top"]) == 4


def test_files_patterns_and_a_broken_image(place, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    cat = str(place / "val/cat/000.jpg")
    arguments = [f"{tmp_path}/broken.jpg", cat, f"{tmp_path}/missing.png", f"{place}/val/dog/*.jpg"]
    result = predict.main([f"--weights={place}/lenet.safetensors", "--top=2", *arguments])
    out, err = capsys.readouterr()
    assert (result["images"], result["unreadable"]) == (5, 2)
    assert "broken.jpg cannot be read: no image format" in err
    assert "missing.png cannot be read: No such file" in err
    shown = out[out.index(cat) :].splitlines()
    assert all(line.split()[0] in CLASSES and "█" in line and "%" in line for line in shown[1:3])
    with pytest.raises(DataError, match="nothing matches"):
        predict.main([f"--weights={place}/lenet.safetensors", f"{tmp_path}/*.gif"])
    with pytest.raises(UserError, match="which images"):
        predict.main([f"--weights={place}/lenet.safetensors"])


def test_standard_input_is_an_image_or_names(place, capsys, monkeypatch):
    class Input(io.StringIO):
        buffer = io.BytesIO(encoded(photo(seed=5)))

    weights = f"--weights={place}/lenet.safetensors"
    monkeypatch.setattr(sys, "stdin", Input(f"{place}/val/cat/000.jpg\n{place}/val/cat/001.jpg\n"))
    predict.main([weights, "--json", "-"])
    assert [row["file"] for row in lines(capsys)] == ["standard input"]
    assert predict.main([weights, "--list"])["images"] == 2


def test_features(place, tmp_path):
    weights = f"--weights={place}/lenet.safetensors"
    result = predict.main([weights, f"--features={tmp_path}/f.npz", str(place / "val")])
    stored = np.load(tmp_path / "f.npz")
    assert (result["width"], stored["features"].shape) == (84, (17, 84))
    predict.main([weights, f"--features={tmp_path}/f.parquet", str(place / "val")])
    rows = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert rows["file"] == stored["files"].tolist()
    np.testing.assert_array_equal(np.array(rows["features"], np.float32), stored["features"])


def test_bars_are_as_long_as_the_probability():
    bars = [predict.bar(probability, 10) for probability in (1.0, 0.0, 0.25)]
    assert bars == ["█" * 10, "", "██▌"]
    text = predict.bars([("a name that is much too long for the line", 0.5), ("b", 0.25)], width=40)
    assert all(len(line) <= 40 for line in text.splitlines())
