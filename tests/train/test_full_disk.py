"""Where nothing more can be written, what is there stays whole, and what failed leaves nothing
behind.
"""

import resource
from unittest.mock import Mock

import numpy as np
import pytest

from train import logs
from train.checkpoint import Checkpoints
from train.errors import CheckpointError


def limit_files(size):
    """As a full disk does, this makes longer writes fail; the signal that comes with it is ignored
    by Python.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_what_a_failed_save_writes_behind_its_failure_is_removed_too(tmp_path, capsys):
    late = tmp_path / "checkpoints/1.orbax-checkpoint-tmp"
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        try:
            limit_files(2000)
            checkpoints.save(1, {"x": np.random.default_rng(0).random(10_000)}, {}, None)
            checkpoints.wait()
        finally:
            limit_files(resource.RLIM_INFINITY)
        assert "checkpoint 1 could not be written" in capsys.readouterr().err
        late.mkdir(exist_ok=True)  # as a thread does that has not heard of it
        (late / "part").write_text("of an array")
        checkpoints.save(2, {"x": np.zeros(3)}, {}, None)
        assert not late.exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_a_folder_that_cannot_be_made_is_a_failed_save(tmp_path, capsys):
    (tmp_path / "run").write_text("in its place")
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
        checkpoints.save(1, {"x": np.zeros(3)}, {}, None)
        assert "checkpoint 1 could not be written" in capsys.readouterr().err
        assert checkpoints.steps() == []
        (tmp_path / "run").unlink()
        checkpoints.save(2, {"x": np.zeros(3)}, {}, None)
        checkpoints.wait()
        assert checkpoints.steps() == [2]


def test_a_folder_that_cannot_be_opened_is_a_failed_save(tmp_path, capsys, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, monkeypatch.context() as patch:
        patch.setattr(
            "orbax.checkpoint.CheckpointManager", Mock(side_effect=OSError(5, "Input/output error"))
        )
        checkpoints.save(1, {"x": np.zeros(3)}, {}, None)
        assert "checkpoint 1 could not be written" in capsys.readouterr().err
        with pytest.raises(
            CheckpointError, match="checkpoints cannot be opened: Input/output error"
        ):
            checkpoints.steps()


def test_rows_that_cannot_be_written_are_kept_and_not_torn(tmp_path, capsys):
    rows = logs.Metrics(tmp_path)
    rows.write(1, "train", {"loss": 0.5})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    try:
        limit_files(size + 10)
        rows.write(2, "train", {"loss": 0.25})
        assert not rows.flush()
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert [row["step"] for row in logs.read(tmp_path)] == [1]
    rows.write(3, "train", {"loss": 0.125})
    assert [(row["step"], row["loss"]) for row in logs.read(tmp_path)] == [
        (1, 0.5),
        (2, 0.25),
        (3, 0.125),
    ]
    assert "metrics.jsonl cannot be written" in capsys.readouterr().err
