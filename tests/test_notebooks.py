"""The notebooks run from their first cell to their last.

That on pretrained networks needs a server, and runs in tests/weights.
"""

import json

import matplotlib.pyplot as plt
import pytest

from tests.helpers import ROOT

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "configs/notebooks").glob("*.ipynb"))}


def cells(name, kind):
    book = json.loads(NOTEBOOKS[name].read_text())
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def run(name):
    space: dict = {"__name__": "notebook"}
    for code in cells(name, "code"):
        exec(compile(code, f"{name}.ipynb", "exec"), space)
    return space


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.mark.parity
def test_the_lineage_in_one_lesson(capsys):
    space = run("lineage")
    said = capsys.readouterr().out
    assert all(name in said for name in space["NAMES"]) and "not reproduced" not in said
    assert space["result"]["top1"] > 0.2 and len(plt.gca().lines) == 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_text_is_in_both_languages(name):
    """English first, then Spanish, in italics or after a slash."""
    for text in cells(name, "markdown"):
        assert "*" in text or " / " in text, text
    assert all(not cell.get("outputs") for cell in json.loads(NOTEBOOKS[name].read_text())["cells"])
