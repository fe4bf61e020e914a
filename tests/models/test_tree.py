"""The names and shapes of all variables, against the golden lists."""

import pytest

import cnnjax
from tests.models import golden


def test_one_list_for_each_model():
    assert {path.stem for path in golden.FOLDER.glob("*.txt")} == set(cnnjax.list_models())


@pytest.mark.parametrize("name", cnnjax.list_models())
def test_names_and_shapes(name):
    expected = (golden.FOLDER / f"{name}.txt").read_text().splitlines()
    actual = golden.lines(name)
    lost, new = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
    assert not (lost or new), (
        f"lost {lost[:5]}, new {new[:5]}: if that was meant, see tests/models/golden/__init__.py"
    )
    assert actual == expected
