"""What the demo promises: LeNet-5 on real digits, over five seeds."""

import statistics
import time

import pytest

from tests.helpers import ROOT
from train.__main__ import main


@pytest.mark.slow
def test_five_seeds_reach_98_7_percent_on_the_test_digits(tmp_path, capsys):
    top1, seconds = [], []
    for seed in range(5):
        began = time.perf_counter()
        result = main(
            [
                f"--config={ROOT}/configs/lenet_mnist.py",
                f"--workdir={tmp_path / str(seed)}",
                f"--config.seed={seed}",
            ]
        )
        seconds.append(time.perf_counter() - began)
        assert result["examples"] == 1000
        top1.append(result["top1"])
    with capsys.disabled():
        print(
            f"\ntop-1 of seeds 0 to 4: {top1}, mean {statistics.mean(top1):.4f}; "
            f"seconds {[round(s) for s in seconds]}"
        )
    assert statistics.mean(top1) >= 0.987
