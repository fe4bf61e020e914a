"""A step's counts are the committed ones. `python -m tests.train.counts` writes them again."""

import json

import jax
import pytest

from tests.train import counts

COMMITTED = json.loads(counts.FILE.read_text())
# Each version of the compiler counts differently. Of a version that is not in the file, only the
# equations are compared.
PROGRAMS = COMMITTED["programs"].get(jax.__version__, {})
WRITE = "if this was meant: python -m tests.train.counts"


LARGE = ("inception_v1_bn", "inception_v3", "inception_resnet_v2")


@pytest.mark.parametrize(
    "model",
    [pytest.param(x, marks=pytest.mark.slow) if x in LARGE else x for x in counts.TRACED],
)
def test_equations(model):
    assert counts.of_equations(model) == COMMITTED["equations"][model], WRITE


@pytest.mark.parametrize("model", [model for model in counts.COMPILED if model in PROGRAMS])
def test_program(model):
    assert counts.of_program(model) == PROGRAMS[model], WRITE


def test_compilations_do_not_grow_with_the_run():
    programs = counts.compilations(6, 3)
    assert programs == PROGRAMS.get("compilations", programs), WRITE
    assert counts.compilations(12, 3) == programs
