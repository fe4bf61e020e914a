"""A short piece of the chaos test; `make chaos` is the long one."""

import random

import pytest

from tests.train import chaos


@pytest.mark.parity
def test_disturbed_runs_end_bit_identical(tmp_path):
    codes, said = chaos.end(chaos.start(tmp_path / "whole", 1))
    assert codes == [0], said
    events = ["kill in a save", "full disk", "term"]
    workdir, happened = chaos.one_run(tmp_path, 0, random.Random(1), events, 1)
    assert chaos.differences(workdir, tmp_path / "whole") == [], happened
