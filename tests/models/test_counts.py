"""The stored counts and the printed table are those of the modules."""

import pytest

from cnnjax import counts, list_models
from tests.helpers import command

QUICK = ("lenet5", "alexnet", "vgg16", "inception_v1", "inception_v3")  # one of each family


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in list_models()
    ],
)
def test_stored_counts_are_the_modules_own(name):
    stored = counts.load()
    assert list(stored) == list_models()
    assert stored[name] == counts.compute(name), "run python -m cnnjax.counts"


def test_printed_table_has_them():
    printed = command("cnnjax").stdout
    for name, row in counts.load().items():
        line = next(line for line in printed.splitlines() if line.split()[0] == name)
        assert f"{row['parameters']:,}" in line and f"{row['multiply_adds']:,}" in line
