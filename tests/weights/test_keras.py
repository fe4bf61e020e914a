"""Keras' own networks with random values, saved by Keras and loaded here, give the same answers.

Each network is built once, at small sizes, and compared at two sizes, stage by stage. All formats
of its file must give the same variables. The values are also written as TF-slim checkpoints, whose
networks are the same.

One file, so that no network is built twice.
"""

import math
import re
import warnings

import jax
import numpy as np
import pytest

from cnnjax import weights
from cnnjax.stages import apply_with_stages
from tests.helpers import assert_trees_close
from tests.weights.slim_names import (
    INCEPTION_RESNET_V2,
    INCEPTION_V3,
    biased,
    normalised,
    write_checkpoint,
)

LIMIT = 5e-5  # the largest difference, as a share of the standard deviation of what is compared

MIXED = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
V3 = {f"mixed{name}": f"mixed{index}" for index, name in enumerate(MIXED)}
RESNET_V2 = {
    **{f"mixed{name}": f"mixed_{name}" for name in ("5b", "6a", "7a")},
    **{
        f"block{kind}_{i}": f"block{kind}_{i}_ac"
        for kind, count in ((35, 10), (17, 20), (8, 9))
        for i in range(1, count + 1)
    },
    "conv7b": "conv_7b_ac",
}


@pytest.fixture(scope="module")
def keras():
    import keras

    return keras


def randomise(network):
    """Random values with which maps neither explode nor vanish, as in tests/parity/peers.py."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        values = []
        for variable in layer.weights:
            shape, leaf = tuple(variable.shape), variable.path.rpartition("/")[2]
            if leaf == "kernel":
                # Drawn in float32, because VGG has over a hundred million.
                values.append(
                    rng.standard_normal(shape, np.float32)
                    * np.float32(math.sqrt(2 / math.prod(shape[:-1])))
                )
            elif leaf == "moving_variance":
                values.append(rng.uniform(0.8, 1.25, shape))
            else:
                values.append(rng.normal(0, 0.1, shape))
        layer.set_weights(values)
    return network


def images(size, batch=2):
    return np.random.default_rng(1).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def difference(a, b):
    b = np.asarray(b, np.float64)
    return float(np.abs(np.asarray(a, np.float64).reshape(b.shape) - b).max() / b.std())


def load(path, model, source="keras", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", weights.WeightsWarning)
        return weights.load(path, model, source, **options)


def compare(keras, network, pretrained, stages, logits=True):
    """Compares Keras' network at its own size with ours, logits and stages."""
    layers = [network.get_layer(name) for name in stages.values()]
    x = images(network.input_shape[1])
    with_stages = keras.Model(
        network.inputs, [network.outputs[0], *(layer.output for layer in layers)]
    )
    answer, *maps = with_stages(x)
    outputs, ours = jax.jit(lambda v, x: apply_with_stages(pretrained.model, v, x))(
        pretrained.variables, x
    )
    worst = max(difference(ours[name], value.numpy()) for name, value in zip(stages, maps))
    found = difference(outputs.logits, answer.numpy()) if logits else 0.0
    assert max(found, worst) <= LIMIT, (network.name, found, worst)


def write_keras_2(network, path, weight_name, first=0):
    """Writes the layout of Keras 1 and 2. Anonymous layers are numbered from `first`."""
    import h5py

    def numbered(name):
        found = re.fullmatch(r"(conv2d|batch_normalization)(_(\d+))?", name)
        return f"{found[1]}_{int(found[3] or 0) + first}" if found else name

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [numbered(layer.name).encode() for layer in network.layers]
        for layer in network.layers:
            group = file.create_group(numbered(layer.name))
            leaves = [variable.path.rpartition("/")[2] for variable in layer.weights]
            names = [weight_name(numbered(layer.name), leaf) for leaf in leaves]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights()):
                group[name] = value
    return path


def keras_1_name(layer, leaf):
    return f"{layer}/{layer}_{ {'kernel': 'W', 'bias': 'b'}[leaf] }_1:0"


def keras_2_name(layer, leaf):
    return f"{layer}/{leaf}:0"


def convolutions(network):
    """The kernel, beta, mean and variance of each anonymous convolution, in order of creation."""

    def number(layer):
        found = re.fullmatch(r"\w+?(?:_(\d+))?", layer.name)
        return int(found[1] or 0)

    anonymous = [
        layer
        for layer in network.layers
        if re.fullmatch(r"(conv2d|batch_normalization)(_\d+)?", layer.name)
    ]
    convs = sorted((layer for layer in anonymous if layer.name.startswith("conv")), key=number)
    norms = sorted((layer for layer in anonymous if layer.name.startswith("batch")), key=number)
    return [
        [*conv.get_weights(), *norm.get_weights()] for conv, norm in zip(convs, norms, strict=True)
    ]


@pytest.fixture(scope="module")
def inception_v3(keras):
    return randomise(
        keras.applications.InceptionV3(
            weights=None, input_shape=(139, 139, 3), classes=12, classifier_activation=None
        )
    )


@pytest.mark.parity
def test_inception_v3(keras, inception_v3, tmp_path):
    inception_v3.save_weights(tmp_path / "model.weights.h5")
    pretrained = load(tmp_path / "model.weights.h5", "inception_v3")
    assert pretrained.model.num_classes == 12
    assert not pretrained.model.aux
    compare(keras, inception_v3, pretrained, V3)
    smaller = keras.applications.InceptionV3(
        weights=None, input_shape=(75, 75, 3), classes=12, classifier_activation=None
    )
    smaller.set_weights(inception_v3.get_weights())
    compare(keras, smaller, pretrained, V3)

    # The other formats, and a model that was not the first of its process.
    inception_v3.save(tmp_path / "model.keras")
    inception_v3.save(tmp_path / "model.h5")
    smaller.save_weights(tmp_path / "later.weights.h5")
    write_keras_2(inception_v3, tmp_path / "keras_2.h5", keras_2_name, first=1)
    for name in ("model.keras", "model.h5", "later.weights.h5", "keras_2.h5"):
        assert_trees_close(load(tmp_path / name, "inception_v3").variables, pretrained.variables)


@pytest.mark.parity
def test_inception_v3_as_slim(inception_v3, tmp_path):
    """The same values under TF-slim's names.

    With a background class, an auxiliary head and the leftovers of training.
    """
    rng = np.random.default_rng(2)
    tensors = {}
    for name, values in zip(INCEPTION_V3, convolutions(inception_v3), strict=True):
        tensors |= normalised(name, *values)
    kernel, bias = (
        rng.normal(size=(1, 1, 2048, 1001)).astype(np.float32),
        rng.normal(size=1001).astype(np.float32),
    )
    tensors |= biased("Logits/Conv2d_1c_1x1", kernel, bias)
    head = {"Conv2d_1b_1x1": (1, 1, 768, 128), "Conv2d_2a_5x5": (5, 5, 128, 768)}
    for name, shape in head.items():
        tensors |= normalised(
            f"AuxLogits/{name}",
            *(rng.normal(size=s).astype(np.float32) for s in (shape, *[shape[-1]] * 3)),
        )
    tensors |= biased(
        "AuxLogits/Conv2d_2b_1x1", rng.normal(size=(1, 1, 768, 1001)).astype(np.float32), bias
    )
    tensors = {f"InceptionV3/{name}": value for name, value in tensors.items()}
    tensors["global_step"] = np.int64(1)
    tensors["InceptionV3/Conv2d_1a_3x3/weights/RMSProp"] = tensors[
        "InceptionV3/Conv2d_1a_3x3/weights"
    ]

    pretrained = load(
        write_checkpoint(tmp_path / "inception_v3.ckpt", tensors, version=1), "inception_v3", "slim"
    )
    assert pretrained.model.num_classes == 1000
    assert pretrained.preprocessing.fraction == 0.875
    params, stats = pretrained.variables["params"], pretrained.variables["batch_stats"]
    inception_v3.save_weights(tmp_path / "model.weights.h5")
    keras_params = load(tmp_path / "model.weights.h5", "inception_v3").variables["params"]
    assert_trees_close(
        {k: v for k, v in params.items() if k not in ("head", "aux")},
        {k: v for k, v in keras_params.items() if k != "head"},
    )
    np.testing.assert_array_equal(params["head"]["kernel"], kernel[0, 0, :, 1:])
    np.testing.assert_array_equal(params["head"]["bias"], bias[1:])
    np.testing.assert_array_equal(params["aux"]["head"]["bias"], bias[1:])
    np.testing.assert_array_equal(
        params["aux"]["conv1"]["conv"]["kernel"],
        tensors["InceptionV3/AuxLogits/Conv2d_2a_5x5/weights"],
    )
    np.testing.assert_array_equal(
        stats["aux"]["conv0"]["bn"]["var"],
        tensors["InceptionV3/AuxLogits/Conv2d_1b_1x1/BatchNorm/moving_variance"],
    )
    write_checkpoint(tmp_path / "newer.ckpt", tensors)
    kept = load(tmp_path / "newer.ckpt", "inception_v3", "slim", keep_background=True, aux=False)
    np.testing.assert_array_equal(kept.variables["params"]["head"]["bias"], bias)
    assert "aux" not in kept.variables["params"]


@pytest.mark.parity
def test_inception_resnet_v2(keras, tmp_path):
    def build(size):
        return keras.applications.InceptionResNetV2(
            weights=None, input_shape=(size, size, 3), classes=12, classifier_activation=None
        )

    network, smaller = randomise(build(139)), build(75)
    smaller.set_weights(network.get_weights())
    network.save_weights(tmp_path / "model.weights.h5")
    pretrained = load(tmp_path / "model.weights.h5", "inception_resnet_v2")
    compare(keras, network, pretrained, RESNET_V2)
    compare(keras, smaller, pretrained, RESNET_V2)
    write_keras_2(smaller, tmp_path / "keras_2.h5", keras_2_name)
    assert_trees_close(
        load(tmp_path / "keras_2.h5", "inception_resnet_v2").variables, pretrained.variables
    )

    # Under TF-slim's names. In Keras the projections at the end of blocks have names of their own.
    anonymous, tensors = iter(convolutions(network)), {}
    counts = {"Repeat/": "block35", "Repeat_1/": "block17", "Repeat_2/": "block8"}
    for name in INCEPTION_RESNET_V2:
        block = re.fullmatch(r"(Repeat(?:_\d)?/)block\d+_(\d+)/Conv2d_1x1", name)
        if block:
            tensors |= biased(
                name, *network.get_layer(f"{counts[block[1]]}_{block[2]}_conv").get_weights()
            )
        elif name == "Block8/Conv2d_1x1":
            tensors |= biased(name, *network.get_layer("block8_10_conv").get_weights())
        elif name == "Conv2d_7b_1x1":
            layers = network.get_layer("conv_7b"), network.get_layer("conv_7b_bn")
            tensors |= normalised(
                name, *(value for layer in layers for value in layer.get_weights())
            )
        else:
            tensors |= normalised(name, *next(anonymous))
    assert next(anonymous, None) is None
    tensors |= biased("Logits/Logits", *network.get_layer("predictions").get_weights())
    tensors = {f"InceptionResnetV2/{name}": value for name, value in tensors.items()}
    write_checkpoint(tmp_path / "model.ckpt", tensors)
    assert_trees_close(
        load(tmp_path / "model.ckpt", "inception_resnet_v2", "slim").variables, pretrained.variables
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vgg(keras, name, tmp_path):
    """With the classifier; in Keras its shape fixes the size at 224."""
    network = randomise(
        getattr(keras.applications, name.upper())(
            weights=None, classes=12, classifier_activation=None
        )
    )
    path = write_keras_2(network, tmp_path / "model.h5", keras_1_name)
    pretrained = load(path, name)
    compare(
        keras,
        network,
        pretrained,
        {f"block{i}": f"block{i}_pool" for i in range(1, 6)} | {"fc6": "fc1", "fc7": "fc2"},
    )
    if name == "vgg16":
        network.save_weights(tmp_path / "model.weights.h5")
        assert_trees_close(
            load(tmp_path / "model.weights.h5", name).variables, pretrained.variables
        )


@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_without_a_classifier(keras, name, tmp_path):
    """A file without the dense layers: a warning names them, and they are initialised."""
    build = getattr(keras.applications, name.upper())
    network = randomise(build(weights=None, include_top=False, input_shape=(64, 64, 3)))
    path = write_keras_2(network, tmp_path / "model.h5", keras_1_name)
    with pytest.warns(
        weights.WeightsWarning, match="has no values of 7 classes for fc6, fc7, head: initialised"
    ):
        pretrained = weights.load(path, name, "keras", num_classes=7)
    assert pretrained.fresh == ("fc6", "fc7", "head")
    assert pretrained.variables["params"]["head"]["kernel"].shape == (4096, 7)
    assert 0.005 < pretrained.variables["params"]["fc6"]["kernel"].std() < 0.02
    stages = {f"block{i}": f"block{i}_pool" for i in range(1, 6)}
    compare(keras, network, pretrained, stages, logits=False)


def test_preprocessing_is_keras_own(keras):
    """The values are those of Keras' own preprocessing."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    modules = {
        "vgg16": "vgg16",
        "vgg19": "vgg19",
        "inception_v3": "inception_v3",
        "inception_resnet_v2": "inception_resnet_v2",
    }
    for record in weights.RECORDS:
        if record.source == "keras":
            module = getattr(keras.applications, modules[record.model])
            expected = module.preprocess_input(pixels.astype(np.float32))
            np.testing.assert_allclose(record.preprocessing(pixels), expected, atol=1e-4)


def test_records_are_keras_own(keras):
    """Names and hashes of the files, as Keras checks them."""
    import importlib
    import inspect

    for record in weights.RECORDS:
        if record.source == "keras":
            module = importlib.import_module(f"keras.src.applications.{record.model}")
            code = re.sub(r'"\s+"', "", inspect.getsource(module))  # joins split strings
            for part in (
                record.hash.removeprefix("md5:"),
                record.file.removeprefix(record.model),
                record.where,
            ):
                assert part in code
