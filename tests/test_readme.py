"""Every README's links, commands and recipes: they name what exists."""

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import re
import shlex
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.data import defects
from tests.helpers import ROOT, signal_handlers
from train import recipe
from train.build import Task
from train.config import describe
from train.data.__main__ import main as data_command
from train.opening import first_lines

FOLDERS = (".github", ".readme", "cnnjax", "configs", "tests", "train")
PAGES = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
COMMAND = re.compile(r"python3? -m ([\w.]+)([^`\n]*)")
PLACEHOLDER = re.compile(r"[…<\[]|\b[A-Z]{3,}\b")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> str:
    """Fenced, indented and inline code; a line that ends in a backslash is joined with the next."""
    prose, blocks = "", []
    for number, part in enumerate(re.split(r"^```.*\n", page.read_text(), flags=re.MULTILINE)):
        if number % 2:
            blocks.append(part)
        else:
            prose += part
    indented = re.findall(r"^    .*$", prose, flags=re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", prose)
    return re.sub(r"\\\n\s*", "", "\n".join([*blocks, *indented, *inline]))


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of each `python -m …`."""
    found = []
    for module, rest in COMMAND.findall(code(page)):
        if rest.count('"') % 2:  # the end of a command within a command
            rest = rest.rstrip('"')
        words = shlex.shlex(rest, posix=True, punctuation_chars="&|;")
        words.whitespace_split = True
        found.append((module, list(itertools.takewhile(lambda word: word[0] not in "&|;", words))))
    return found


@functools.cache
def options(module: str, words: tuple[str, ...]) -> set[str]:
    """The options that `python -m module words… --help` lists."""
    is_package = importlib.util.find_spec(module).submodule_search_locations
    main = importlib.import_module(f"{module}.__main__" if is_package else module).main
    printed, before = io.StringIO(), signal_handlers()
    with (
        mock.patch.object(sys, "argv", [module, *words, "--help"]),
        contextlib.redirect_stdout(printed),
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert not end.value.code and signal_handlers() == before
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", printed.getvalue()))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


@every_page
def test_links_and_pictures_exist(page):
    broken = []
    for link in (a or b for a, b in LINK.findall(page.read_text())):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if re.match("[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@every_page
def test_commands_exist(page):
    for module, arguments in commands(page):
        assert importlib.util.find_spec(module), module
        if module.partition(".")[0] not in ("cnnjax", "train"):
            continue
        flags = [argument.partition("=")[0] for argument in arguments if argument[:2] == "--"]
        own = {flag for flag in flags if not flag.startswith(("--config.", "--grid."))}
        words = tuple(itertools.takewhile(lambda word: word[0] != "-", arguments))
        unknown = own - options(module, words) if own else set()
        assert not unknown, f"python -m {module} has no {', '.join(sorted(unknown))}"


@every_page
def test_recipes_load_with_their_overrides(page):
    for module, arguments in commands(page):
        config = [a for a in arguments if a.startswith("--config=") and "configs/" in a]
        if not config or PLACEHOLDER.search(config[0]) or not module.startswith("train"):
            continue
        overrides = [a for a in arguments if a.startswith("--config.")]
        recipe.load(
            config[0].removeprefix("--config="),
            [a for a in overrides if not PLACEHOLDER.search(a)],
        )


@every_page
def test_options_of_recipes_exist(page):
    known = {flag.removeprefix("--config.") for flag, _, _ in describe()}
    groups = {option.partition(".")[0] for option in known if "." in option}
    named = re.findall(r"(?:`|--config\.)((\w+)\.[\w.]+)=", page.read_text())
    assert [
        option
        for option, group in named
        if group in groups and option not in known and ".options." not in option
    ] == []


@every_page
def test_recipes_exist(page):
    found = set(re.findall(r"(?<![\w/])configs/[\w/]+\.\w+", page.read_text()))
    missing = [path for path in found if not (ROOT / path).exists()]
    assert [path for path in missing if not PLACEHOLDER.search(path)] == []


@every_page
def test_python_examples_are_python(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        compile(block, str(page), "exec")


@every_page
def test_the_environment_is_named_before_the_first_command(page):
    blocks = re.findall(r"^```\n(.*?)^```|^((?: {4}.*\n)+)", page.read_text(), re.M | re.S)
    lines = [line.strip() for block in blocks for line in "".join(block).splitlines()]
    command = re.compile(r"(python -m|cnnjax) ").match
    before = list(itertools.takewhile(lambda line: not command(line), lines))
    named = any(". .venv/bin/activate" in line for line in before)
    assert named or before == lines, page  # a page without commands needs none


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder as a user has it: the recipes, and photographs of two classes, four to one."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    defects.write(tmp_path / "photos", {"train": (8, 2), "val": (4, 1)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_photographs(page):
    """The commands of a page that need nothing but a folder of photographs, as printed."""
    found = [
        (module, words)
        for module, words in commands(ROOT / page)
        if module.startswith("train") and any("photos" in word for word in words)
    ]
    return [
        pair for pair in found if not any("weights" in word or "=v3" in word for word in pair[1])
    ]


@pytest.mark.parametrize("page", ["README.md", "train/data/README.md", "configs/README.md"])
def test_commands_on_photographs_run_as_printed(page, clone):
    """Those that read the data run; those that train are built, up to the compilation."""
    run = set()
    for module, words in of_photographs(page):
        flags = [word for word in words if word.startswith("--config")]
        if module == "train.data":
            assert data_command(words)
        elif module == "train":
            config = recipe.load(flags[0].removeprefix("--config="), flags[1:])
            task = Task(config)
            assert "scratched" in first_lines(task, "runs/photos")
            assert next(task.batches(0))["image"].shape[0] == config.data.batch_size
        run.add(module)
    assert "train" in run
