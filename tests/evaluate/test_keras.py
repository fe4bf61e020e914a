"""Keras' networks, saved by Keras, with its own preprocessing: the same probabilities."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.classifiers import CLASSES, photos
from tests.weights.test_keras import randomise
from train import data
from train.classifier import from_weights
from train.evaluate.__main__ import main as evaluate

NETWORKS = {"vgg16": ("VGG16", "vgg16", 224), "inception_v3": ("InceptionV3", "inception_v3", 299)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "set"
    photos(root, held_out=1)
    return root


def as_keras_reads(keras, path, size):
    image = keras.utils.load_img(path, target_size=(size, size), interpolation="bilinear")
    return keras.utils.img_to_array(image)


def as_ported(name, path, size):
    """The resize and crop that the weights were published with, by hand."""
    import tensorflow as tf

    if name == "vgg16":  # the short side to 256, the centre
        image = Image.open(path)
        scale = 256 / min(image.size)
        image = image.resize(
            [256 if side == min(image.size) else int(side * scale) for side in image.size], 2
        )
        left, top = ((side - size) // 2 for side in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    pixels = tf.image.central_crop(tf.io.decode_jpeg(tf.io.read_file(path)), 0.875)  # TF-slim's
    return np.floor(tf.compat.v1.image.resize_bilinear(pixels[None], [size, size])[0].numpy() + 0.5)


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_answers_as_model_predict(name, folder, tmp_path):
    import keras

    constructor, module, size = NETWORKS[name]
    network = randomise(getattr(keras.applications, constructor)(weights=None, classes=4))
    preprocess = getattr(keras.applications, module).preprocess_input

    split = data.load(f"folder:{folder}", "val")
    files = [split.name(i) for i in range(len(split))]
    plain = np.stack([as_keras_reads(keras, file, size) for file in files])
    ported = np.stack([as_ported(name, file, size) for file in files])
    kernel, bias = network.layers[-1].get_weights()
    features = keras.Model(network.input, network.layers[-2].output).predict(
        preprocess(plain.copy()), verbose=0
    )
    # So that no answer is certain.
    network.layers[-1].set_weights([kernel / (features @ kernel).std(), bias])
    path = tmp_path / "network.weights.h5"
    network.save_weights(path)
    expected = network.predict(preprocess(np.concatenate([plain, ported])), batch_size=4, verbose=0)
    assert expected.max() < 0.999 and expected.std(0).max() > 1e-3  # there is something to agree on

    options = [
        f"--weights={path}",
        f"--model={name}",
        "--source=keras",
        f"--data=folder:{folder}",
        "--split=val",
        "--batch-size=4",
        "--predictions=csv",
        f"--out={tmp_path}",
    ]
    whole_image = ["--style=torchvision", "--fraction=1"]
    of_transforms = (whole_image, expected[: len(files)]), ([], expected[len(files) :])
    for transform, by_keras in of_transforms:
        result = evaluate([*options, *transform])
        with open(result["predictions"]) as file:
            rows = list(csv.DictReader(file))
        ours = [
            [{r[f"class{k}"]: float(r[f"probability{k}"]) for k in range(1, 5)}[c] for c in CLASSES]
            for r in rows
        ]
        np.testing.assert_allclose(ours, by_keras, atol=1e-4)
        assert result["top1"] == np.mean(by_keras.argmax(-1) == split.labels)
    assert from_weights(str(path), name, "keras").classes is None
