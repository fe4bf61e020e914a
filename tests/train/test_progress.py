"""What a terminal of 80 columns shows: rows that fit, seconds that tick, honest forecasts."""

import io
import re
import time
import types

import pytest

from tests.helpers import ROOT
from train import opening, progress, recipe
from train.build import Task
from train.errors import json_line
from train.progress import Progress, row, waiting

ROW = {
    "epoch": 12.5,
    "loss": 0.56123,
    "main": 0.5,
    "aux": 0.6,
    "top1": 0.8125,
    "grad_norm": 1.25,
    "lr": 0.05,
    "images_per_second": 12345.6,
    "data_wait": 0.031,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=stream))
    return stream


def lines(terminal):
    """Everything that stood in a line at some time."""
    return re.split(r"[\r\n]+", terminal.getvalue().replace(progress.CLEAR, ""))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_rows_fit_and_begin_with_loss_and_accuracy(width):
    told = row("train", ROW, "step 12,345/123,456  left 1:02:03", width)
    assert len(told) <= width
    assert told.startswith("train  loss 0.5612  top-1 81.25%  ")
    assert told.endswith("  step 12,345/123,456  left 1:02:03")
    assert ("grad_norm 1.25" in told) == (width == 160)
    assert "12,346 images/s" in told or width == 80


def test_a_skipped_update_comes_before_all_that_may_be_left_out():
    told = row("train", ROW | {"skipped": 3}, "step 1/9  left 0:00", 80)
    assert "skipped 3" in told and len(told) <= 80


def test_seconds_tick_on_a_terminal(terminal):
    with waiting("compiling") as done:
        time.sleep(0.6)
        done(7)
        time.sleep(0.6)
    assert "compiling… 1 s" in lines(terminal) and "compiling… 7 done, 1 s" in lines(terminal)


def test_a_notebook_has_the_line_without_codes_of_terminals(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    notebook = types.SimpleNamespace(stderr=stream, modules={"ipykernel": None})
    monkeypatch.setattr(progress, "sys", notebook)
    with waiting("compiling"):
        time.sleep(1.1)
    drawn = stream.getvalue().split("\r")
    assert {len(text) for text in drawn[:-1]} == {79} and progress.CLEAR not in drawn[0]
    assert "compiling… 1 s" in map(str.rstrip, drawn)


def test_elsewhere_a_wait_is_one_line(capsys):
    with waiting("compiling"):
        pass
    assert capsys.readouterr().err == "compiling…\n"


def test_the_forecast_is_of_steps_and_of_evaluations_to_come(monkeypatch, terminal):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    told = Progress(0, 100, 32, eval_every=25)

    def step(seconds):
        clock[0] += seconds
        told.step()

    told.wait_for("compiling lenet5")
    step(1000.0)  # compilation
    assert told._last_line() == "compiling lenet5… 1000 s"
    told.restart()
    told.row(1, "train", ROW)
    assert "step 1/100" in lines(terminal)[-2] and "left" not in lines(terminal)[-2]  # not known
    for _ in range(24):
        step(1.0)
    assert told._left() == pytest.approx(75)
    with told.evaluating("val"):
        clock[0] += 10
        assert told._last_line() == "evaluating val… 10 s"
    assert told._left() == pytest.approx(75 + 3 * 10)
    for _ in range(75):
        step(1.0)
    assert told._left() == 0
    told.row(100, "train", ROW)
    assert told._last_line().endswith("step 100/100  loss 0.5612  32 images/s  left 0:00")
    assert len(told._last_line()) < 80
    told.close()
    assert all(len(line) <= 80 for line in lines(terminal))


def test_the_json_line_has_six_digits():
    assert json_line({"top1": 2 / 3, "step": 1234567, "inf": float("inf")}) == (
        '{"top1": 0.666667, "step": 1234567, "inf": Infinity}'
    )


def test_first_lines_name_data_classes_network_and_what_trains(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    config = recipe.load(
        f"{ROOT}/configs/lenet_mnist.py",
        [
            "--config.data.source=synthetic:28x28x1/3",
            "--config.optim.lr_scale=('output=1', '=0')",
            "--config.parallel.devices=1",
        ],
    )
    told = opening.first_lines(Task(config), "runs/own")
    assert all(len(line) <= 80 for line in told.splitlines())
    said = " ".join(told.split())
    assert "data synthetic:28x28x1/3, 3 classes train: 2,048 images: grating0 683" in said
    assert "61,111 parameters, of which 255 train; frozen: c1, c3, c5, f6" in said
    assert "1,600 steps of 128 images 28x28x1 (100 epochs), into runs/own" in said
    assert "label smoothing of 0.1 and the images are changed at random" in said
