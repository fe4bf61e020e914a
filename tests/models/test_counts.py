"""The stored counts and the printed table are those of the modules."""

from cnnjax import counts
from tests.helpers import command


def test_stored_counts_are_the_modules_own():
    assert counts.load() == counts.compute(), "the models changed: run python -m cnnjax.counts"


def test_printed_table_has_them():
    printed = command("cnnjax").stdout
    for name, row in counts.load().items():
        line = next(line for line in printed.splitlines() if line.split()[0] == name)
        assert f"{row['parameters']:,}" in line and f"{row['multiply_adds']:,}" in line
