"""The benchmark as a command: what it prints, and what it refuses."""

import pytest

from train import benchmark
from train.errors import UserError


def test_loop_against_bare_step(capsys):
    result = benchmark.main(["--what=loop", "--model=lenet5", "--batch=16", "--rounds=2", "--steps=5"])
    assert (result["model"], result["batch"], result["rounds"]) == ("lenet5", 16, 2)
    assert result["loop"]["over_step"] > 0 and result["step"]["images_per_second"] > 0
    assert "time over step's" in capsys.readouterr().err


def test_compilation(capsys):
    result = benchmark.main(["--what=compile", "--model=lenet5,lenet5_1998", "--batch=4"])
    assert set(result) == {"lenet5", "lenet5_1998", "batch"}
    assert all(result[name]["compile"] > 0 for name in ("lenet5", "lenet5_1998"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=lenet6"], "no model is called 'lenet6'; did you mean"),
        (["--peer=jax"], "--what=step has no peer 'jax'; it has torch, keras"),
        (["--what=loop", "--peer=torch"], "--what=loop has no peer 'torch'; it has none"),
        (["--rounds=0"], "--batch, --rounds and --steps are at least 1"),
    ],
)
def test_mistakes(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        benchmark.main(arguments)
