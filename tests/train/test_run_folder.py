"""A run folder has one writer and one run on the same data; damage gets a sentence."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.helpers import ROOT
from train import logs
from train.__main__ import main
from train.checkpoint import Checkpoints, checksums
from train.errors import CheckpointError, UserError
from train.evaluate.__main__ import main as evaluate
from train.lock import Lock
from train.run import Run, read_config

SHORT = [
    f"--config={ROOT}/configs/lenet_mnist.py",
    "--config.data.source=synthetic:28x28x1/10",
    "--config.epochs=0.5",
    "--config.log.every=2",
    "--config.log.eval_every=8",
    "--config.checkpoint.every=4",
    "--config.parallel.devices=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    main([*SHORT, f"--workdir={workdir}"])
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", finished, copy], check=True)
    return copy


def test_a_second_writer_is_refused_with_the_holders_name(run):
    with Lock(run), pytest.raises(CheckpointError) as caught:
        main([*SHORT, f"--workdir={run}"])
    assert f"{run} is in use by process {os.getpid()} on " in str(caught.value)
    assert main([*SHORT, f"--workdir={run}"])["step"] == 8


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        f"from train.lock import Lock; import os; Lock({str(tmp_path)!r}); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert "process" in json.loads((tmp_path / ".lock").read_text())
    with Lock(tmp_path):
        pass
    with Lock(tmp_path):
        pass


def flip(path):
    """Bits a twentieth of the file apart: the large arrays fill more of it than that."""
    content = bytearray(path.read_bytes())
    for part in range(1, 20):
        content[part * len(content) // 20] ^= 0x40
    path.write_bytes(content)


def test_flipped_bits_are_found(run, capfd):
    for path in (run / "checkpoints/8").rglob("d/*"):
        if path.stat().st_size > 30_000:  # arrays, in no fixed order
            flip(path)
    with pytest.raises(CheckpointError, match=r"checkpoints/8 cannot be restored"):
        evaluate([f"--workdir={run}"])
    main([*SHORT, f"--workdir={run}"])
    said = capfd.readouterr().err
    assert "cannot be restored" in said and "going back" in said
    assert "resuming at step 4 of 8" in said
    assert (run / "damaged/8").is_dir() and Run(str(run)).steps() == [4, 8]
    evaluate([f"--workdir={run}"])


def test_checksums_are_those_of_the_values(run):
    state = {"a": jax.numpy.arange(3.0), "b": {"c": np.int32(1)}}
    sums = checksums(state)
    assert set(sums) == {"a", "b/c"} and sums == checksums(jax.tree.map(np.asarray, state))
    assert checksums({"a": state["a"].at[1].add(1e-6)})["a"] != sums["a"]


def test_metrics_of_a_checkpoint_that_cannot_be_read(run, capfd):
    (run / "checkpoints/8/metrics/metrics").write_text("")
    with pytest.raises(CheckpointError, match="8 is damaged: metrics cannot be read"):
        evaluate([f"--workdir={run}"])
    main([*SHORT, f"--workdir={run}"])
    assert "8 is damaged: metrics cannot be read; going back" in capfd.readouterr().err
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best() is not None


@pytest.mark.parametrize("file", ["metrics/metrics", "_CHECKPOINT_METADATA"])
@pytest.mark.parametrize("text", ["3.5", "[]", "null", "{", "\x00"])
def test_a_file_of_a_checkpoint_that_is_no_object(run, file, text):
    (run / "checkpoints/8" / file).write_text(text)
    name = file.rpartition("/")[2]
    with pytest.raises(CheckpointError, match=f"8 is damaged: {name} cannot be read"):
        Run(str(run)).restore("latest")


def test_a_fifo_in_a_checkpoint(run, capfd):
    (run / "checkpoints/8/_CHECKPOINT_METADATA").unlink()
    os.mkfifo(run / "checkpoints/8/_CHECKPOINT_METADATA")
    with pytest.raises(CheckpointError, match="8 is damaged: _CHECKPOINT_METADATA cannot be read"):
        evaluate([f"--workdir={run}"])
    main([*SHORT, f"--workdir={run}"])
    assert "_CHECKPOINT_METADATA cannot be read; going back" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b"null", b"{}", b'{"data": 5}'])
def test_a_config_that_is_none(run, content):
    (run / "config.json").write_bytes(content)
    for command in (lambda: main([*SHORT, f"--workdir={run}"]), lambda: Run(str(run))):
        with pytest.raises(UserError, match=r"config\.json is not"):
            command()


@pytest.mark.parametrize(
    "row", ["3", "[]", '{"split": "train"}', '{"step": "x", "split": "train"}']
)
def test_a_row_that_is_none(run, row):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(CheckpointError, match="is not a row"):
        logs.read(run)


def test_lost_rows_are_said_once_and_training_continues(run, capfd):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[2:]))
    subprocess.run(["rm", "-r", run / "checkpoints/8"], check=True)
    main([*SHORT, f"--workdir={run}"])
    assert capfd.readouterr().err.count("row(s) of training are missing in metrics.jsonl") == 1


def test_rows_that_are_there_twice_become_one(run):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + text)
    assert len(logs.read(run)) == len(text.splitlines())


def test_resuming_on_other_data_is_refused(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (40, 28, 28), np.uint8)
    y = np.arange(40) % 10
    options = [
        *SHORT,
        f"--config.data.source=npz:{tmp_path}/d.npz",
        "--config.data.batch_size=8",
        "--config.data.eval_batch_size=8",
        f"--workdir={tmp_path}/run",
    ]
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    main(options)
    for changed in ({"y_train": (y + 1) % 10}, {"x_train": 255 - x}, {"x_test": 255 - x}):
        arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changed
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(UserError, match=r"the data has changed since the run in .* began"):
            main(options)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    main(options)


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError):
        main([*SHORT, f"--workdir={tmp_path}/run", "--config.init.weights=none.safetensors"])
    assert not (tmp_path / "run").exists()


def test_training_on_the_evaluation_split_is_said(tmp_path, capfd):
    main([*SHORT, f"--workdir={tmp_path}/run", "--config.data.train_split=test"])
    assert "warning: the run is evaluated on the split that it trains on" in capfd.readouterr().err


@pytest.mark.parametrize("workdir", ["", "~/run"])
def test_names_of_run_folders(tmp_path, monkeypatch, workdir):
    monkeypatch.setenv("HOME", str(tmp_path))
    if not workdir:
        with pytest.raises(UserError, match="--workdir is empty"):
            main([*SHORT, "--workdir="])
    else:
        main([*SHORT, f"--workdir={workdir}"])
        assert read_config(Run(workdir).folder / "config.json") and (tmp_path / "run").is_dir()
