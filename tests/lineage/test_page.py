"""The page and the command: languages, light and dark, keyboard, screen reader; resuming."""

import itertools
import json
import re

import pytest
from etils import epath

from tests.report.test_browser import CHROMIUM, browse
from train import config as configs
from train import loop
from train.errors import DivergedError, UserError
from train.lineage import counted, page, story, trained, training, words
from train.lineage.__main__ import main
from train.lineage.experiments import EXPERIMENTS
from train.lineage.texts import LANGUAGES


@pytest.fixture
def small(monkeypatch):
    """A page of few networks and quick claims."""
    chosen = [claim for claim in counted.CLAIMS if claim.name in ("two_3x3", "global_average")]
    monkeypatch.setattr(counted, "CLAIMS", tuple(chosen))
    chapters = [item for item in story.CHAPTERS if item.model in ("lenet5", "inception_v1")]
    monkeypatch.setattr(story, "CHAPTERS", tuple(chapters))


def planted():
    """Findings of every training claim: each verdict, and claims that have not been run."""
    better = {seed: 10.0 + seed for seed in range(3)}
    worse = {seed: 20.0 + 1.1 * seed for seed in range(3)}
    found = {}
    for place, claim in enumerate(trained.CLAIMS):
        plain, other = [(better, worse), (worse, better), (better, better), ({}, {})][place % 4]
        found[claim.name] = training.judge(claim, dict(zip(claim.pair, (plain, other))))
    return found


@pytest.fixture
def written(small):
    return {lang: page.write(planted(), lang) for lang in LANGUAGES}


def test_the_page_has_every_claim_in_every_language(written):
    for lang, text in written.items():
        assert f'<html lang="{lang}">' in text and "http" not in text
        for claim in (*counted.CLAIMS, *trained.CLAIMS):
            assert f'id="{claim.name}"' in text and f'href="#{claim.name}"' in text
            assert page.html.escape(claim.statement(lang)) in text
            assert f"python -m train.lineage --claim={claim.name}<" in text
        for claim in trained.CLAIMS:
            assert page.html.escape(training.commands(claim)["sweep"]) in text
        shown = set(re.findall(r'class="verdict \w+">([^<]+)<', text))
        verdicts = ("reproduced", "not reproduced", "undecided", "")
        assert shown == {words.word(verdict, lang) for verdict in verdicts}
        assert text.count("<svg") == len(
            re.findall('<svg [^>]*role="img"[^>]*aria-label="[^"]+', text)
        )
        levels = [int(level) for level in re.findall(r"<h(\d)", text)]
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
        assert len(ids := re.findall(r' id="([^"]+)"', text)) == len(set(ids))
    assert "10,5" not in written["en"] and "difference" not in written["es"]


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_the_page_in_a_browser(written, tmp_path):
    path = tmp_path / "lineage.html"
    path.write_text(written["es"].replace("<details>", "<details open>"))
    wide, console = browse(path, tmp_path)
    assert console == [] and wide["fetched"] == [] and wide["fits"]
    assert wide["wide"] == wide["focused"] >= 10  # what scrolls is reached by keyboard
    assert wide["language"] == "es" and wide["headings"][0] == f"H1{words.word('title', 'es')}"
    narrow, _ = browse(path, tmp_path, "--blink-settings=preferredColorScheme=0", width=500)
    assert narrow["fits"]
    ink, paper = (sum(map(int, re.findall(r"\d+", narrow[key])[:3])) for key in ("ink", "page"))
    assert ink > 600 and paper < 100


@pytest.fixture
def runs(monkeypatch):
    """Runs that leave a folder as training does, without training; the folders in their order."""
    folders = []

    def train(config, workdir):
        folder, activation = epath.Path(workdir), config.model.options["activation"]
        folders.append(f"{folder.parent.name}/{folder.name}")
        if config.seed == 9:
            raise DivergedError("the loss of step 10 is nan")
        about = {"class_names": list("0123456789"), "steps": 30, "image_shape": [28, 28, 1]}
        (folder / "config.json").write_text(json.dumps(configs.to_dict(config) | about))
        reached = {"tanh": 20, "relu": 10, "course": 25}[activation] + config.seed % 2
        rows = [
            {"step": step, "split": "train", "loss": 1.0 if step < reached else 0.4}
            for step in range(1, 31)
        ]
        rows.append({"step": 30, "split": "test", "loss": 0.5, "top1": 0.9})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "checkpoints/30").mkdir(parents=True)

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setitem(
        EXPERIMENTS, "activation_lenet", EXPERIMENTS["activation_lenet"]._replace(seeds=3)
    )
    return folders


def test_one_claim_is_run_judged_and_resumed(runs, small, tmp_path):
    result = main([f"--workdir={tmp_path}", "--claim=relu"])
    assert len(runs) == 9 and all(run.startswith("activation_lenet/") for run in runs)
    assert result["claims"]["relu"]["verdict"] == "reproduced"
    assert result["claims"]["relu"]["difference"] == {"n": 3, "mean": -10.0, "interval": [-10, -10]}
    again = main([f"--workdir={tmp_path}", "--claim=relu_course", "--claim=two_3x3"])
    assert len(runs) == 9  # the experiment of both
    verdicts = {name: claim["verdict"] for name, claim in again["claims"].items()}
    assert verdicts == {"relu_course": "not reproduced", "two_3x3": "reproduced"}


def test_the_page_of_what_has_been_run(runs, small, tmp_path):
    main([f"--workdir={tmp_path}", "--claim=relu"])
    main([f"--workdir={tmp_path}", "--page"])
    assert len(runs) == 9
    text = (tmp_path / "lineage.html").read_text()
    assert "difference (relu − tanh): -10; 95 % interval -10 … -10" in text
    lines = (tmp_path / "lineage.md").read_text().splitlines()
    row = next(line for line in lines if "--claim=relu`" in line)
    assert "tanh → relu" in row and row.endswith("| 3 | -10 | -10 to -10 | reproduced |")
    assert len({line.count("|") for line in lines}) == 1
    results = json.loads((tmp_path / "lineage.json").read_text())
    assert results["relu"]["verdict"] == "reproduced" and results["flip"]["verdict"] == ""


def test_a_run_that_fails_is_named(runs, small, tmp_path, monkeypatch, capsys):
    bad = EXPERIMENTS["activation_lenet"]
    overrides = (*bad.overrides, "seed=7")
    monkeypatch.setitem(EXPERIMENTS, "activation_lenet", bad._replace(overrides=overrides))
    with pytest.raises(UserError, match=r"3 runs failed.*tanh,seed=9: the loss") as caught:
        main([f"--workdir={tmp_path}", "--claim=relu"])
    assert caught.value.exit_code == 5 and len(runs) == 9
    claim = json.loads(capsys.readouterr().out)["claims"]["relu"]
    assert claim["verdict"] == "undecided" and claim["difference"]["n"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--claim=reluu"], "did you mean relu"),
        (["--lang=fr"], "--lang='fr' is unknown; known are en, es"),
        (["--claim=relu", "--page"], "--page has no effect with --claim"),
        (["--data=folder:nothing"], "nothing does not exist|no folder"),
    ],
)
def test_a_mistake_is_a_sentence(small, tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        main([f"--workdir={tmp_path}", *arguments])
    assert caught.value.exit_code in (2, 3)
