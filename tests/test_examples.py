"""The examples in the docstrings of public functions run as they are printed."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from tests.helpers import ROOT

# Module -> its functions whose docstrings have an example, with Args, Returns and Raises.
EXAMPLES = {
    "cnnjax.registry": ["create_model", "get_spec"],
    "cnnjax.analysis": ["summarize"],
    "cnnjax.spelling": ["choice"],
    "cnnjax.stages": ["apply_with_stages"],
    "cnnjax.trees": ["flatten"],
    "cnnjax.weights": ["load", "save"],
    "train.data": ["load", "train_batches", "eval_batches", "Plan"],
    "train.data.fingerprint": ["fingerprint"],
    "train.evaluate.statistics": ["summarize", "wilson"],
    "train.losses": ["cross_entropy"],
    "train.optim": ["make_schedule", "rate_factors"],
    "train.recipe": ["load"],
    "train.schema": ["parse_rule"],
    "train.seeds": ["mean"],
    "train.step": ["train_step"],
    "train.sweep.grid": ["split_values"],
}
PAIRS = [(module, name) for module, names in EXAMPLES.items() for name in names]


@pytest.fixture
def names(monkeypatch, tmp_path):
    """What the examples take as known, in a folder with the recipes."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return {"cnnjax": cnnjax, "jax": jax, "jnp": jnp, "np": np}


@pytest.mark.parametrize(("module", "name"), PAIRS, ids=[".".join(pair) for pair in PAIRS])
def test_an_example_runs(module, name, names):
    loaded = importlib.import_module(module)
    function = getattr(loaded, name)
    places = vars(importlib.import_module(function.__module__)) | names
    found = doctest.DocTestFinder(recurse=False).find(function, name, globs=places)
    assert found and found[0].examples, f"{module}.{name} has no example"
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    said = []
    results = doctest.DocTestRunner(optionflags=options).run(found[0], out=said.append)
    assert results.failed == 0, "".join(said)
