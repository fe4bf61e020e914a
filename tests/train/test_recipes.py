"""Every recipe loads, builds, is traced at full size, and makes a real step at a reduced one."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from cnnjax import create_model, get_spec, list_models
from tests.helpers import ROOT
from tests.models.expected import EXPECTED
from train import recipe
from train.build import Task, build_model
from train.config import Config
from train.data import affine
from train.errors import UserError

RECIPES = {path.stem: path for path in sorted((ROOT / "configs").glob("*.py"))}
VARIANTS = {
    "vgg": ["vgg16", "vgg19"],
    "inception_v1": ["paper", "bvlc", "course"],
    "inception_v2": ["x30", "x5"],
    "inception_v3": ["paper", "tpu"],
    "inception_2016": [
        "inception_v4",
        "inception_resnet_v1",
        "inception_resnet_v2",
        "inception_resnet_v2_paper",
    ],
    "lenet_1998": ["tfds:mnist", "mnist5k"],
    "modern_imagenet": ["inception_v2", "vgg16"],
    "lineage_mnist5k": ["vgg11_bn", "inception_v3"],
    "folder": ["photos"],
    "small_images": ["cifar10", "cifar100", "fashion_mnist"],
}
ALL = [(name, variant) for name in RECIPES for variant in VARIANTS.get(name, [""])]
# The large networks take half a minute each.
LONG = ("inception_v2", "inception_v3", "modern_imagenet", "folder")
TRACED = [
    *(
        pytest.param(name, VARIANTS.get(name, [""])[0], marks=pytest.mark.parity)
        if name in LONG
        else (name, VARIANTS.get(name, [""])[0])
        for name in RECIPES
        if name != "inception_2016"
    ),
    pytest.param("inception_2016", "inception_resnet_v2", marks=pytest.mark.parity),
    pytest.param("inception_2016", "inception_v4", marks=pytest.mark.slow),
    pytest.param("inception_2016", "inception_resnet_v1", marks=pytest.mark.slow),
]

# Recipe, variant, side of the smallest images that its network takes, further options.
# Those of LARGE take minutes to compile.
SMALL = [
    ("lenet_1998", "mnist5k", 28, {}),
    ("lenet_mnist", "", 28, {}),
    ("alexnet", "", 67, {}),
    pytest.param("inception_v1", "course", 32, {}, marks=pytest.mark.parity),
]
LARGE = [
    ("inception_v3", "paper", 75, {"aux": False}),
    ("vgg", "vgg16", 32, {}),
    ("inception_v2", "x30", 32, {}),
    ("inception_2016", "inception_v4", 75, {}),
    ("inception_2016", "inception_resnet_v1", 75, {}),
    ("inception_2016", "inception_resnet_v2", 75, {}),
    ("modern_imagenet", "inception_v2", 32, {}),
    ("folder", "photos", 32, {}),
]

# Fast to compile, slow to run: for a single step.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def load(name, variant=""):
    return recipe.load(f"{RECIPES[name]}:{variant}" if variant else str(RECIPES[name]))


def on_synthetic(config: Config, **data) -> Task:
    """The task of a config with synthetic images of ten classes, resized to the recipe's size."""
    channels = config.data.channels or get_spec(config.model.name).input_size[2]
    config = dataclasses.replace(
        config,
        epochs=1,
        optim=dataclasses.replace(config.optim, warmup=min(config.optim.warmup, 0.5)),
        data=dataclasses.replace(
            config.data,
            source=f"synthetic:28x28x{channels}/10",
            train_split="train",
            eval_split="test",
            **data,
        ),
        parallel=dataclasses.replace(config.parallel, mapping="shard_map", devices=1),
    )
    return Task(config)


def abstract_batch(task, size):
    channels = task.image_shape[2]
    n = task.config.data.batch_size
    shapes = {
        "image": ((n, size, size, channels), np.uint8),
        "label": ((n,), np.int32),
        "mask": ((n,), bool),
    }
    if affine.wanted(task.config.data.augment):
        shapes["affine"] = ((n, 6), np.float32)
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_variant_loads(name, variant):
    config = load(name, variant)
    assert config.epochs >= 1 and config.data.size >= 0


@pytest.mark.parametrize(
    ("name", "variant", "nearest"),
    [
        ("vgg", "vgg61", "vgg16"),
        ("inception_v1", "papers", "paper"),
        ("inception_v2", "x3", "x30"),
        ("inception_v3", "tpus", "tpu"),
        ("inception_2016", "inception_v44", "inception_v4"),
        ("inception_2016", "vgg16", "inception_v4, inception_resnet_v1"),
        ("lineage_mnist5k", "lenet", "lenet5"),
        ("modern_imagenet", "alexnett", "alexnet"),
    ],
)
def test_an_unknown_variant_is_answered_with_the_nearest_ones(name, variant, nearest):
    with pytest.raises(UserError, match=f"{variant}.*{nearest}"):
        load(name, variant)


@pytest.mark.parametrize(("name", "variant"), TRACED)
def test_a_recipe_builds_and_its_step_is_traced_at_full_size(name, variant):
    config = load(name, variant)
    task = on_synthetic(config)
    size = config.data.size or 28
    state, metrics = task.step.eval_shape(task.abstract_state, abstract_batch(task, size), task.key)
    assert jax.tree.structure(state) == jax.tree.structure(task.abstract_state)
    assert all(
        a.shape == b.shape and a.dtype == b.dtype
        for a, b in zip(*map(jax.tree.leaves, (state, task.abstract_state)))
    )
    assert {"loss", "top1", "grad_norm"} <= set(metrics)
    rates = np.array([task.schedule(t) for t in range(0, task.steps, max(1, task.steps // 20))])
    assert (rates >= 0).all() and 0 < rates.max() < 1
    if config.model.dtype == "bfloat16":
        assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"float32"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_to_run_it_and_what_was_run(name):
    text = RECIPES[name].read_text()
    assert re.search(rf"python -m train --config=configs/{name}\.py(:\S+)? --workdir=runs/", text)
    assert "What was really run" in text


def step_once(name, variant, size, options):
    config = load(name, variant)
    config.model.options |= options
    task = on_synthetic(config, size=0 if size == 28 else size, batch_size=4)
    batch = next(task.batches(0))
    assert batch["image"].shape[1:3] == (size, size)
    compiled = task.step.lower(task.abstract_state, task.spread.shard(batch), task.key).compile(
        compiler_options=FAST_COMPILE
    )
    state = task.fresh_state()
    params = jax.device_get(state.params)
    state, metrics = jax.device_get(compiled(state, task.spread.shard(batch), task.key))
    assert np.isfinite(list(metrics.values())).all() and metrics["grad_norm"] > 0
    assert state.step == 1
    if task.schedule(0) > 0:
        moved = jax.tree.map(lambda a, b: np.any(a != b), params, state.params)
        assert np.mean(jax.tree.leaves(moved)) > 0.9
    return metrics


@pytest.mark.parametrize(("name", "variant", "size", "options"), SMALL, ids=str)
def test_a_real_step_at_a_reduced_size(name, variant, size, options):
    metrics = step_once(name, variant, size, options)
    if name == "inception_v1":
        np.testing.assert_allclose(
            metrics["loss"], 0.7 * metrics["main_loss"] + 0.3 * metrics["aux_loss"], rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant", "size", "options"), LARGE, ids=str)
def test_a_real_step_of_a_large_network(name, variant, size, options):
    step_once(name, variant, size, options)


def test_recipes_hold_the_values_of_the_papers():
    """Quoted a second time, so that no change of a default takes them away."""
    alexnet, v3, tpu = load("alexnet"), load("inception_v3"), load("inception_v3", "tpu")
    assert alexnet.optim.schedule == "plateau" and alexnet.optim.lr_inside
    assert alexnet.optim.lr_scale == ("bias$=2",)
    for config in (v3, tpu, *(load("inception_2016", x) for x in VARIANTS["inception_2016"])):
        optim = config.optim
        assert (optim.name, optim.epsilon, optim.decay) == ("rmsprop", 1.0, 0.9)
        assert optim.decay_rate == 0.94 and optim.ema and optim.ema_warmup
    assert v3.optim.clip == 2.0 and v3.loss.label_smoothing == 0.1 and v3.loss.aux_weight == 0.4
    assert tpu.optim.lr * tpu.data.batch_size / tpu.optim.lr_per == pytest.approx(0.66)
    assert load("inception_v1").loss.aux_weight == 2 * 0.3
    assert load("inception_v2").optim.weight_decay == 2e-4 / 5


@pytest.mark.parametrize("name", list_models())
def test_the_modern_recipe_takes_every_model(name):
    config = load("modern_imagenet", name)
    assert config.model.name == name and config.data.size == get_spec(name).input_size[0]
    model = create_model(name)
    batch_norm = hasattr(model, "bn_momentum") and getattr(model, "batch_norm", True)
    assert config.optim.name == ("sgd" if batch_norm else "adamw")


@pytest.mark.parametrize("name", sorted(set(list_models()) - {"lenet5_1998"}))  # for ten digits
def test_the_folder_recipe_takes_every_network(name):
    """Naming another network leaves out the options of the recipe's that it does not have."""
    config = recipe.load(str(RECIPES["folder"]), [f"--config.model.name={name}"])
    model = build_model(config, 2)
    assert model.num_classes == 2 and not getattr(model, "aux", False)
    assert config.data.size >= EXPECTED[name].smallest
    assert config.data.transform.fraction == 1 and min(config.data.augment.area) >= 0.8


def test_options_that_are_given_are_not_left_out():
    given = ["--config.model.name=lenet5", "--config.model.options.aux=false"]
    with pytest.raises(UserError, match="lenet5 has no option 'aux'"):
        recipe.load(str(RECIPES["folder"]), given)


def test_recipes_of_the_package_have_names():
    assert recipe.load("inception_v3:tpu") == recipe.load(f"{ROOT}/configs/inception_v3.py:tpu")
    assert list(recipe.known()) == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert all(recipe.known().values())
    with pytest.raises(UserError, match="inception_v5 does not exist; did you mean inception_v"):
        recipe.load("inception_v5")
