"""Our own file format: what is saved is loaded again, options and metadata included."""

import json

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import weights
from cnnjax.trees import nest
from cnnjax.weights.read import read, safetensors_metadata
from tests.helpers import assert_trees_close
from tests.weights.files import variables, write

PLAIN = weights.Preprocessing(32, mean=(33.3,), std=(78.6,), channels="L")


def pretrained(model="lenet5", **options):
    return weights.Pretrained(
        cnnjax.create_model(model, **options),
        nest(variables(model, **options)),
        PLAIN,
        None,
        model,
        {"source": "a test"},
    )


def test_round_trip_is_exact(tmp_path):
    saved = pretrained("lenet5", num_classes=10)
    params = saved.variables["params"]
    params["c1"]["bias"] = np.array([0.0, -0.0, 1e-42, 3e38, 1 + 2**-23, -1 / 3], np.float32)
    weights.save(tmp_path / "a.safetensors", saved)
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.model == saved.model
    assert (loaded.name, loaded.preprocessing, loaded.origin) == (
        "lenet5",
        PLAIN,
        {"source": "a test"},
    )
    assert loaded.class_names is None and loaded.fresh == ()
    assert params["c1"]["bias"].tobytes() == loaded.variables["params"]["c1"]["bias"].tobytes()
    assert_trees_close(loaded.variables, saved.variables)
    weights.save(tmp_path / "b.safetensors", loaded)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_options_statistics_and_class_names(tmp_path):
    options = {"num_classes": 3, "padding": "same", "bn_scale": False, "aux": False}
    saved = pretrained("inception_v1_bn", **options)
    named = weights.Pretrained(
        saved.model.clone(bn_axis="data"), *(saved.variables, PLAIN, ("a", "b", "c"), saved.name)
    )
    weights.save(tmp_path / "a.safetensors", named)
    loaded = weights.load(tmp_path / "a.safetensors")
    assert loaded.model == cnnjax.create_model(
        "inception_v1_bn", **options
    )  # without the axis of the training run
    assert loaded.class_names == ("a", "b", "c")
    assert_trees_close(loaded.variables, saved.variables)
    content = json.loads(safetensors_metadata(tmp_path / "a.safetensors")["cnnjax"])
    assert content["model"] == "inception_v1_bn"
    assert content["options"] == {"aux": False, "padding": "same", "bn_scale": False}
    assert content["preprocessing"]["size"] == 32


def test_options_that_are_tuples(tmp_path):
    options = {"residual_scale": (0.1, 0.2, 0.3), "num_classes": 2}
    weights.save(tmp_path / "a.safetensors", pretrained("inception_resnet_v1", **options))
    assert weights.load(tmp_path / "a.safetensors").model == cnnjax.create_model(
        "inception_resnet_v1", **options
    )


def test_running_options_and_another_number_of_classes(tmp_path):
    saved = pretrained("lenet5")
    weights.save(tmp_path / "a.safetensors", saved)
    loaded = weights.load(tmp_path / "a.safetensors", "lenet5", dtype=jax.numpy.bfloat16)
    assert loaded.model.dtype == jax.numpy.bfloat16
    assert loaded.variables["params"]["c1"]["kernel"].dtype == np.float32


@pytest.mark.parametrize("model", ["inception_v1_bn"])
def test_a_new_classifier(model, tmp_path):
    """Fine-tuning: another number of classes changes only the last layers."""
    saved = pretrained(model, num_classes=5)
    weights.save(tmp_path / "a.safetensors", saved)
    loaded = weights.load(tmp_path / "a.safetensors", num_classes=3)
    assert loaded.fresh == ("aux1/head", "aux2/head", "head")
    assert loaded.variables["params"]["head"]["kernel"].shape == (1024, 3)
    for name in ("conv1", "mixed5b"):
        assert_trees_close(loaded.variables["params"][name], saved.variables["params"][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.variables["params"]["c1"].pop("bias"), "tensor 'params/c1/bias' is missing"),
        (
            lambda p: p.variables["params"].update(c9={"bias": np.zeros(1)}),
            "tensor 'params/c9/bias' has no place in it",
        ),
        (
            lambda p: p.variables["params"]["c1"].update(bias=np.zeros(7)),
            r"tensor 'params/c1/bias' of shape \(7,\) does not fit params/c1/bias of shape \(6,\)",
        ),
    ],
)
def test_saving_checks_the_variables(change, message, tmp_path):
    wrong = pretrained()
    change(wrong)
    with pytest.raises(
        weights.WeightsError, match=f"^these variables do not fit lenet5: {message}$"
    ):
        weights.save(tmp_path / "a.safetensors", wrong)
    assert not list(tmp_path.iterdir())


def test_saving_checks_the_rest(tmp_path):
    saved = pretrained()
    wrong = weights.Pretrained(saved.model, saved.variables, PLAIN, ("a", "b"), "lenet5")
    with pytest.raises(weights.WeightsError, match="2 class names do not fit 10 classes"):
        weights.save(tmp_path / "a.safetensors", wrong)
    with pytest.raises(weights.WeightsError, match="a LeNet5 is not the registry's lenet5_1998"):
        weights.save(
            tmp_path / "a.safetensors",
            weights.Pretrained(saved.model, saved.variables, PLAIN, None, "lenet5_1998"),
        )


def test_loading_says_what_is_wrong(tmp_path):
    weights.save(tmp_path / "a.safetensors", pretrained())
    with pytest.raises(weights.WeightsError, match="holds lenet5, not vgg16"):
        weights.load(tmp_path / "a.safetensors", "vgg16")
    with pytest.raises(ValueError, match="lenet5 has no option 'colour'"):
        weights.load(tmp_path / "a.safetensors", colour=3)
    write(tmp_path / "b.safetensors", {"x": np.zeros(3, np.float32)})
    with pytest.raises(
        weights.WeightsError,
        match=r"b\.safetensors is a safetensors file, but cnnjax did not write it: give",
    ):
        weights.load(tmp_path / "b.safetensors")
    write(
        tmp_path / "c.safetensors",
        {"x": np.zeros(3, np.float32)},
        {"cnnjax": json.dumps({"version": 99})},
    )
    with pytest.raises(
        weights.WeightsError, match=r"written by a newer cnnjax \(format 99, this one reads 2\)"
    ):
        weights.load(tmp_path / "c.safetensors")
    write(tmp_path / "d.safetensors", {"x": np.zeros(3, np.float32)}, {"cnnjax": "{"})
    with pytest.raises(weights.WeightsError, match="is damaged: its metadata cannot be read"):
        weights.load(tmp_path / "d.safetensors")


def test_flipped_bits_are_noticed(tmp_path):
    path, dice = tmp_path / "a.safetensors", np.random.default_rng(0)
    weights.save(path, pretrained())
    sound = path.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    header, values = range(start), range(start, len(sound))
    for place in (*dice.choice(header, 60), *dice.choice(values, 20)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << dice.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(weights.WeightsError, match=str(path)):
            weights.load(path)


def test_files_of_before_the_digest(tmp_path):
    path, saved = tmp_path / "a.safetensors", pretrained()
    weights.save(path, saved)
    content = json.loads(safetensors_metadata(path)["cnnjax"])
    del content["digest"]
    tensors = read(path)[1]
    write(path, tensors, {"cnnjax": json.dumps(content | {"version": 1})})
    assert_trees_close(weights.load(path).variables, saved.variables)
    write(path, tensors, {"cnnjax": json.dumps(content)})
    with pytest.raises(weights.WeightsError, match="is damaged: its content is not what was saved"):
        weights.load(path)
