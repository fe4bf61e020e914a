"""The index plan: a pure function of (seed, step) that sees every example exactly once a pass."""

import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT
from train.data import Plan


@pytest.mark.parametrize(("examples", "batch"), [(100, 10), (100, 7), (5, 16), (1, 3)])
def test_every_example_once_a_pass(examples, batch):
    plan = Plan(examples, batch, seed=3)
    stream = np.concatenate([plan.indices(step) for step in range(4 * examples // batch + 1)])
    for epoch in range(len(stream) // examples):
        assert sorted(stream[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


def test_order_differs_between_passes_and_seeds():
    orders = [Plan(1000, 1000, seed).indices(step) for seed in (0, 1) for step in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[i + 1 :]:
            assert np.mean(a == b) < 0.02  # two random orders agree in one place of a thousand


def test_starting_in_the_middle_is_the_same_stream():
    whole = Plan(50, 8, seed=1)
    first = [whole.indices(step) for step in range(40)]
    np.testing.assert_array_equal(Plan(50, 8, seed=1).indices(33), first[33])


def test_same_in_another_process_and_for_ever():
    code = "from train.data import Plan; print(*Plan(12, 12, 7).indices(5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    # If this list changes, every run in the world that is under way resumes with another order.
    assert (
        done.stdout.split()
        == [str(i) for i in Plan(12, 12, 7).indices(5)]
        == ["2", "5", "4", "7", "6", "10", "0", "11", "9", "3", "8", "1"]
    )
