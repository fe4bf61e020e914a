"""Every option has a type, and bounds or choices; a value beyond them is one sentence, and no
folder.
"""

import pytest

from tests.helpers import ROOT
from train import recipe, schema
from train.__main__ import main
from train.config import Config
from train.errors import UserError

LENET = f"{ROOT}/configs/lenet_mnist.py"
FREE = {
    "init.weights",
    "log.project",
    "loss.class_weights",
    "data.source",
    "data.train_split",
    "data.eval_split",
    "data.augment.custom",
    "model.name",
    "parallel.compile_cache",
}


def test_every_text_has_choices_and_every_number_bounds():
    for key, kind, value in schema.options(Config()):
        if kind is str:
            assert key in FREE or value in schema.CHOICES[key], key
        elif kind in (int, float, tuple[int, ...], tuple[float, ...]):
            assert key in schema.BOUNDS or key == "log.profile", key
    schema.check(Config())


@pytest.mark.parametrize("name", [*schema.CHOICES])
def test_an_unknown_choice_is_answered_with_the_known_ones(name):
    with pytest.raises(UserError, match=f"{name}='nonsense' is unknown; "):
        recipe.load(LENET, [f"--config.{name}=nonsense"])


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("optim.ema=1", "optim.ema=1.0 must be from 0 to 1, 1 excluded"),
        ("optim.momentum=1", "optim.momentum=1.0 must be from 0 to 1, 1 excluded"),
        ("data.augment.erase=2", "data.augment.erase=2.0 must be from 0 to 1"),
        ("data.augment.cutout=1000000", "data.augment.cutout=1000000 must be at most 8192"),
        ("data.augment.shift=1e9", "must be at most 8192"),
        ("data.max_pixels=-1", "data.max_pixels=-1 must be at least 1"),
        ("epochs=1e12", "must be at most 1e+09"),
        ("seed=18446744073709551616", "must be at most 9.22337e+18"),
        ("data.eval_batch_size=1000000000", "must be at most"),
        ("data.size=1000000", "data.size=1000000 must be at most 8192"),
        (
            "data.std=(1/2,)",
            "--config.data.std takes a tuple of numbers such as (0.5,), got '(1/2,)'",
        ),
        ("data.std=", "--config.data.std takes a tuple of numbers"),
        ("data.mean=x", "--config.data.mean takes a tuple of numbers"),
        ("data.mean=(nan,)", "--config.data.mean takes a tuple of numbers"),
        ("data.mean=(True,)", "--config.data.mean takes a tuple of numbers"),
        ("optim.lr_scale=(0.0,)", "--config.optim.lr_scale takes a tuple of texts"),
        ("optim.lr_scale=1", "optim.lr_scale takes rules such as 'bias$=2', got '1'"),
        ("optim.lr_scale=('=-1',)", "a factor must be at least 0"),
        ("log.profile=(1.5, 2)", "--config.log.profile takes a tuple of whole numbers"),
        ("optim.lr=1e999", "optim.lr=inf must be at most 1e+30, and finite"),
        ("lr=0.1", "the config has no key 'lr'; did you mean optim.lr?"),
        ("learning_rate=1", "no key 'learning_rate'; python -m train --help lists the keys"),
        ("keep=2", "did you mean model.keep or checkpoint.keep?"),
    ],
)
def test_a_value_that_no_run_can_have(option, sentence, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        main([f"--config={LENET}", f"--workdir={workdir}", f"--config.{option}"])
    assert sentence in str(caught.value) and not workdir.exists()


def test_values_are_typed():
    config = recipe.load(
        LENET,
        [
            "--config.optim.lr=1",
            "--config.optim.nesterov=1",
            "--config.data.mean=0.5",
            "--config.data.std=(1, 2, 3)",
            "--config.optim.lr_scale=bias$=2",
            "--config.model.options.dropout=0.3",
            "--config.model.name=vgg11",
        ],
    )
    assert (config.optim.lr, config.optim.nesterov) == (1.0, True)
    assert config.data.mean == (0.5,) and config.data.std == (1, 2, 3)
    assert config.optim.lr_scale == ("bias$=2",)
    assert config.model.options == {"dropout": 0.3}


def test_a_flag_without_its_groups():
    with pytest.raises(UserError, match=r"'--lr=1'; did you mean --config\.optim\.lr\?"):
        recipe.load(LENET, ["--lr=1"])


def test_the_config_of_a_run_is_a_recipe(tmp_path):
    import json

    from train import config as configs

    written = recipe.load(LENET, ["--config.optim.lr=0.02"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configs.to_dict(written) | {"class_names": ["a"]}))
    assert recipe.load(str(path)) == written


def test_another_network_without_the_recipes_options():
    folder = str(ROOT / "configs/folder.py") + ":photos"
    name = "--config.model.name=lenet5"
    config = recipe.load(folder, [name, "--config.model.options={}"])
    assert (config.model.name, config.model.options) == ("lenet5", {})
    vgg = ["--config.model.name=vgg11", "--config.model.options={}"]
    config = recipe.load(folder, [*vgg, "--config.model.options.dropout=0.1"])
    assert config.model.options == {"dropout": 0.1}
