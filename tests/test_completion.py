"""The script of `cnnjax completion`, run by bash."""

import subprocess

import pytest

import cnnjax.__main__ as command
from cnnjax import list_models
from train.recipe import known


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A function from the words of a line to what completes the last one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "COMMANDS", {"train": "train"})
        script = tmp_path_factory.mktemp("completion") / "cnnjax.bash"
        script.write_text(command.complete("bash"))

    def ask(*words):
        line = 'source "$0"; COMP_WORDS=(cnnjax "$@"); COMP_CWORD=$#; _cnnjax; '
        shell = ["bash", "-c", f'{line} echo "${{COMPREPLY[@]}}"', script, *words]
        return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()

    return ask


def test_words_are_completed(complete):
    assert complete("tr") == ["train"]
    assert complete("inception_v1") == [x for x in list_models() if x.startswith("inception_v1")]
    assert complete("weights", "vgg11_b") == ["vgg11_bn"]
    assert set(known()) < set(complete("train", ""))
    assert {"--config", "--workdir"} < set(complete("train", "--"))
    assert complete("train", "--config.optim.lr_p") == ["--config.optim.lr_per="]
    assert complete("train", "--workd") == ["--workdir"]
    assert complete("train", "nothing") == []


def test_other_shells_are_refused():
    with pytest.raises(ValueError, match="bash and zsh, not 'fish'"):
        command.complete("fish")
