"""The table of claims: one switch each, a stated test, texts in every language."""

import dataclasses
import importlib
import inspect
import pkgutil
import shlex

import pytest

from train import config as configs
from train import lineage, seeds
from train.lineage import counted, counting, trained, training, words
from train.lineage.experiments import EXPERIMENTS
from train.lineage.measures import MEASURES
from train.lineage.texts import LANGUAGES, Text
from train.sweep import grid

QUICK = ("two_3x3", "three_3x3", "doubling", "asymmetric_3", "asymmetric_n", "global_average")
CLAIMS = {claim.name: claim for claim in (*counted.CLAIMS, *trained.CLAIMS)}
by_name = pytest.mark.parametrize("name", EXPERIMENTS)


def fields(module):
    own = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    return {name: getattr(module, name) for name in own}


def test_names_are_unique():
    assert len(CLAIMS) == len(counted.CLAIMS) + len(trained.CLAIMS)


@pytest.mark.parametrize("claim", counted.CLAIMS, ids=lambda claim: claim.name)
def test_counted_modules_differ_in_the_named_switch_alone(claim):
    first, *others = (claim.module(value) for value in claim.values)
    assert others
    for module, value in zip(others, claim.values[1:]):
        if claim.switch == "name":  # another network, with its own defaults
            assert claim.common == {} and module != first
            continue
        assert type(module) is type(first)
        changed = {k for k, v in fields(module).items() if v != fields(first)[k]}
        assert changed == {claim.switch} and fields(module)[claim.switch] == value


@by_name
def test_runs_differ_in_the_named_switch_alone(name, tmp_path):
    experiment, runs = EXPERIMENTS[name], training.plan(name, str(tmp_path))
    assert experiment.seeds >= 3
    assert len(runs) == experiment.seeds * len(experiment.values)
    flat = [configs.flatten(configs.to_dict(run.config)) for run in runs]
    for run, options in zip(runs[experiment.seeds :], flat[experiment.seeds :]):
        before = next(f for f in flat[: experiment.seeds] if f["seed"] == run.seed)
        absent = object()
        keys = {*before, *options}
        changed = {k for k in keys if before.get(k, absent) != options.get(k, absent)}
        assert changed == {experiment.switch}


@pytest.mark.parametrize("claim", trained.CLAIMS, ids=lambda claim: claim.name)
def test_a_training_claim_names_what_exists(claim):
    assert set(claim.pair) <= set(EXPERIMENTS[claim.experiment].values)
    assert claim.pair[0] != claim.pair[1]
    assert claim.quantity in MEASURES and abs(claim.direction) == 1
    commands = training.commands(claim)
    assert commands["claim"] == f"python -m train.lineage --claim={claim.name}"


@by_name
def test_the_sweep_that_repeats_an_experiment_has_the_same_runs(name):
    claim = next(claim for claim in trained.CLAIMS if claim.experiment == name)
    words = shlex.split(training.commands(claim)["sweep"])
    assert words[:3] == ["python", "-m", "train.sweep"]
    values, others = grid.parse_grid(words[3:])
    path, workdir, count = (word.partition("=")[2] for word in others[:3])
    again = grid.plan(path, workdir, values, others[3:], int(count))
    runs = training.plan(name, "runs/claims")
    assert [(run.config, run.folder) for run in again] == [(run.config, run.folder) for run in runs]


def test_every_experiment_has_a_claim():
    assert {claim.experiment for claim in trained.CLAIMS} == set(EXPERIMENTS)


def test_own_data_takes_the_place_of_the_digits(tmp_path):
    run = training.plan("flip", str(tmp_path), "folder:photos")[0]
    found = run.config.data
    assert (found.source, found.train_split, found.eval_split) == ("folder:photos", "train", "test")


@pytest.mark.parametrize("name", QUICK)
def test_counting_agrees_with_the_papers(name):
    assert counting.decide(CLAIMS[name]).verdict == "reproduced"


def test_a_count_that_does_not_hold_is_said():
    wrong = CLAIMS["two_3x3"]._replace(values=(counting.one(5), counting.one(3)))
    assert counting.decide(wrong).verdict == "not reproduced"


def test_the_saving_of_the_papers_factorised_3x3_is_a_third():
    whole, pair = counting.decide(CLAIMS["asymmetric_3"]).counts.values()
    assert 1 - pair.multiply_adds / whole.multiply_adds == pytest.approx(1 / 3)
    assert (whole.depth, pair.depth) == (1, 2)


PLANTED = {  # values by seed of (the plain, the other) setting -> verdict where less is claimed
    "reproduced": ({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 1.4, 2: 2.5}),
    "not reproduced": ({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.5, 1: 2.6, 2: 3.5}),
    "undecided": ({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 2.6, 2: 2.9}),
}


@pytest.mark.parametrize("verdict", PLANTED)
@pytest.mark.parametrize("direction", [-1, 1])
def test_planted_data_gives_each_verdict(verdict, direction):
    claim = CLAIMS["relu"]._replace(direction=direction)
    first, second = PLANTED[verdict]
    if direction > 0:
        first, second = second, first
    found = training.judge(claim, dict(zip(claim.pair, (first, second))))
    assert found.verdict == verdict and found.difference.n == 3


def test_too_few_or_equal_pairs_decide_nothing():
    pairs = PLANTED["reproduced"]
    two = [{seed: values[seed] for seed in (0, 1)} for values in pairs]
    assert seeds.verdict(seeds.difference(*two), -1) == "undecided"
    assert seeds.verdict(seeds.difference(pairs[0], pairs[0]), -1) == "undecided"
    assert training.judge(CLAIMS["relu"], {"tanh": {}, "relu": {}}).verdict == ""


def test_pairs_are_made_by_seed():
    """The seeds' own differences, larger than the effect, cancel out."""
    first = {seed: 100.0 * seed for seed in range(5)}
    second = {seed: first[seed] - 1 - 0.1 * (seed % 2) for seed in (4, 3, 2, 1, 0)}
    assert seeds.verdict(seeds.difference(first, second), -1) == "reproduced"
    assert seeds.difference({0: 1.0}, {1: 2.0}) is None


def texts(value, path):
    """(path, text) of every text below a value."""
    if isinstance(value, Text):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from texts(item, f"{path}/{place}")


def test_every_text_exists_in_every_language():
    found = []
    for info in pkgutil.iter_modules(lineage.__path__):
        if info.name == "__main__":
            continue
        module = importlib.import_module(f"train.lineage.{info.name}")
        for name, value in inspect.getmembers(module):
            if name.isupper():
                found += texts(value, f"{info.name}.{name}")
    assert len(found) > 150
    assert [path for path, text in found if not all(t.strip() for t in text)] == []
    # Sentences are translated: only names and sources are the same in both.
    long = [(path, text) for path, text in found if len(text.en.split()) > 8 and "§" not in text.en]
    assert [path for path, text in long if text.en == text.es and "Krizhevsky" not in text.en] == []
    assert len(Text._fields) == len(LANGUAGES) == len(set(LANGUAGES))
    assert all(words.word(name, lang) for name in words.WORDS for lang in LANGUAGES)
