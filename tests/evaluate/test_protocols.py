"""Every protocol against crops that are enumerated by hand, one image at a time."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax.stages import apply_with_stages
from tests.data.pictures import photo
from tests.evaluate.classifiers import CLASSES, make, photos
from train import data
from train.classifier import Classifier
from train.config import Data, Transform
from train.errors import DataError, UserError
from train.evaluate import evaluation, protocols
from train.evaluate.answers import Network, ask

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "set"
    return root, photos(root)


def short(image, side):
    width, height = image.size
    if width < height:
        return image.resize((side, int(side * height / width)), Image.Resampling.BILINEAR)
    return image.resize((int(side * width / height), side), Image.Resampling.BILINEAR)


def box(image, left, top, side):
    return image.crop((left, top, left + side, top + side))


def center_by_hand(image):
    image = short(image, 37)  # round(32 / 0.875)
    return [box(image, round((image.width - 32) / 2), round((image.height - 32) / 2), 32)]


def flip_by_hand(image):
    (centre,) = center_by_hand(image)
    return [centre, centre.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


def ten_by_hand(image):
    image = short(image, 37)  # 256 * 32 / 224
    square = box(image, round((image.width - 37) / 2), round((image.height - 37) / 2), 37)
    crops = [box(square, x, y, 32) for x, y in ((0, 0), (5, 0), (0, 5), (5, 5), (2, 2))]
    return crops + [crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops]


def googlenet_by_hand(image):
    crops = []
    for side in (37, 41, 46, 50):  # 256, 288, 320, 352 for crops of 32
        whole = short(image, side)
        for position in ("first", "middle", "last"):
            spare = max(whole.size) - side
            offset = {"first": 0, "middle": round(spare / 2), "last": spare}[position]
            square = (
                box(whole, offset, 0, side)
                if whole.width > whole.height
                else box(whole, 0, offset, side)
            )
            end, half = side - 32, round((side - 32) / 2)
            six = [
                box(square, x, y, 32)
                for x, y in ((0, 0), (end, 0), (0, end), (end, end), (half, half))
            ]
            six.append(square.resize((32, 32), Image.Resampling.BILINEAR))
            for crop in six:
                crops += [crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return crops


def grid_by_hand(image):
    crops = []
    for side in (37, 55, 73):  # 256, 384, 512 for crops of 32
        whole = short(image, side)
        for row in range(5):
            for column in range(5):
                x, y = round((whole.width - 32) * column / 4), round((whole.height - 32) * row / 4)
                crop = box(whole, x, y, 32)
                crops += [crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return crops


def dense_by_hand(image):
    wholes = [short(image, side) for side in (37, 55, 73)]
    return wholes + [whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for whole in wholes]


BY_HAND = {
    "center": (center_by_hand, 1),
    "flip": (flip_by_hand, 2),
    "ten_crop": (ten_by_hand, 10),
    "multi_crop": (googlenet_by_hand, 144),
    "grid": (grid_by_hand, 150),
    "dense": (dense_by_hand, 6),
}


def naive(classifier, split, crops_of, average):
    """The mean answer to each image, crop by crop."""
    apply = jax.jit(
        lambda x: classifier.model.apply(classifier.variables, classifier.preprocess(x)).logits[0]
    )
    answers, counts = [], set()
    for index in range(len(split)):
        crops = [
            np.asarray(crop) for crop in crops_of(Image.open(split.name(index)).convert("RGB"))
        ]
        if crops_of in (center_by_hand, flip_by_hand):  # our pixels are within one grey level
            (pixels,) = data.read(split, np.array([index]), classifier.data)
            assert np.abs(pixels.astype(int) - crops[0]).max() <= 1
            crops = [pixels, pixels[:, ::-1]][: len(crops)]
        counts.add(len(crops))
        logits = np.stack([np.asarray(apply(crop[None]), np.float64) for crop in crops])
        if average == "logits":
            logits = logits.mean(0, keepdims=True)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        answers.append((shares / shares.sum(-1, keepdims=True)).mean(0))
    return np.stack(answers), counts


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("protocol", BY_HAND)
def test_against_crops_by_hand(folder, protocol, average):
    root, split = folder
    classifier = make(root)
    crops_of, count = BY_HAND[protocol]
    expected, counts = naive(classifier, split, crops_of, average)
    answers = evaluation.answer([classifier], split, protocol, average=average)
    assert counts == {count} and answers.views == count
    np.testing.assert_allclose(np.exp(answers.log_probabilities), expected, atol=1e-6)
    np.testing.assert_array_equal(answers.labels, split.labels)


def test_any_batch_and_any_devices_give_the_same(folder):
    root, split = folder
    classifier = make(root)
    expected = evaluation.answer(
        [classifier], split, "ten_crop", batch=1000, devices=1
    ).log_probabilities
    for batch, devices in ((1, 1), (7, 2), (64, 4)):
        answers = evaluation.answer([classifier], split, "ten_crop", batch=batch, devices=devices)
        np.testing.assert_allclose(answers.log_probabilities, expected, atol=2e-6)


def test_a_ragged_end_on_four_devices_is_a_loop_over_examples(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1000).astype(np.int32)
    split = data.Arrays(rng.integers(0, 256, (1000, 32, 32, 3), np.uint8), labels, CLASSES)
    classifier = make(tmp_path)
    result = evaluation.evaluate_all([classifier], split, "test", None, batch=64, devices=4)
    apply = jax.jit(
        lambda x: classifier.model.apply(classifier.variables, classifier.preprocess(x)).logits[0]
    )
    logits = np.stack([np.asarray(apply(image[None]), np.float64) for image in split.images])
    own = logits[np.arange(1000), labels]
    assert result["examples"] == 1000 == sum(sum(row) for row in result["confusion"])
    assert result["top1"] == np.mean(logits.argmax(-1) == labels)
    assert result["loss"] == pytest.approx(np.mean(np.log(np.exp(logits).sum(-1)) - own), rel=1e-6)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_is_the_mean_of_its_members(folder, average):
    root, split = folder
    members = [make(root, seed=0), make(root, size=40, seed=1)]
    a, b = (
        evaluation.answer([member], split).log_probabilities.astype(np.float64)
        for member in members
    )
    both = np.exp(evaluation.answer(members, split, average=average).log_probabilities)
    if average == "probabilities":
        expected = (np.exp(a) + np.exp(b)) / 2
    else:
        expected = np.exp((a + b) / 2)
        expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(both, expected, atol=1e-6)


def test_own_scales(folder):
    root, split = folder
    assert evaluation.answer([make(root)], split, "grid", scales=(40,)).views == 50
    assert evaluation.answer([make(root)], split, "multi_crop", scales=(40, 48)).views == 72
    with pytest.raises(UserError, match="smaller than the crops"):
        evaluation.answer([make(root)], split, "grid", scales=(20,))
    with pytest.raises(UserError, match="ten_crop"):
        evaluation.answer([make(root)], split, "tencrop")


def test_unreadable_images_are_left_out_of_every_protocol(folder, tmp_path, capsys):
    split = photos(tmp_path / "set", held_out=2)
    (tmp_path / "set/val/cat/000.jpg").write_bytes(b"no image")
    for protocol in ("center", "ten_crop"):
        classifier = make(tmp_path / "set")
        with pytest.raises(DataError, match=r"cat/000\.jpg cannot be read"):
            evaluation.answer([classifier], split, protocol)
        classifier.data.on_bad_image = "skip"
        answers = evaluation.answer([classifier], split, protocol)
        assert len(answers.labels) == len(split) - 1 and "cat/000.jpg" not in [
            split.name(i) for i in answers.examples
        ]


def test_grey_arrays_for_a_network_of_colour_images():
    grey = np.random.default_rng(0).integers(0, 256, (4, 40, 44, 1), np.uint8)
    labels = np.arange(4, dtype=np.int32)
    classifier = make("nowhere")
    crop = protocols.bind(protocols.find("ten_crop"), SIZE, (), classifier.data.transform)
    config = dataclasses.replace(classifier.data, channels=3)
    of_grey, of_color = (
        ask(classifier._replace(data=config), data.Arrays(images, labels, CLASSES), crop, devices=1)
        for images in (grey, grey.repeat(3, axis=-1))
    )
    np.testing.assert_array_equal(of_grey.log_probabilities, of_color.log_probabilities)


def test_the_kernel_is_that_of_the_weights():
    image = photo(90, 120)
    for style, name in (("torchvision", "bilinear"), ("timm", "bicubic")):
        ours = protocols.resizer(Transform(style))(image, 45, 60)
        kernel = getattr(Image.Resampling, name.upper())
        expected = Image.fromarray(image).resize((60, 45), kernel)
        np.testing.assert_array_equal(ours, np.asarray(expected))
    slim = protocols.resizer(Transform("slim"))(image, 45, 60)
    # TensorFlow's older kernel takes every second pixel at a factor of two.
    np.testing.assert_array_equal(slim, image[::2, ::2])


@pytest.mark.slow
def test_dense_vgg_is_its_classifier_slid_over_the_map():
    """256x320 pixels make a map of 8x10, over which the dense layers have 2x4 places."""
    model = cnnjax.create_model("vgg11", num_classes=5)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    )
    rng = np.random.default_rng(0)

    def fan_in(x):
        return np.prod(x.shape[:-1]) if len(x.shape) > 1 else 10

    variables = jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32) * np.float32(np.sqrt(2 / fan_in(x))),
        shapes,
    )
    image = rng.normal(size=(1, 256, 320, 3)).astype(np.float32)
    classifier = Classifier("vgg11", "", model, variables, lambda x: x, Data(), (224, 224, 3), None)
    options = dict(average="logits", batch=1, devices=1)
    network = Network(evaluation.sliding(classifier), **options)
    dense = np.asarray(network(image))[0]

    _, maps = jax.jit(lambda v, x: apply_with_stages(model, v, x))(variables, image)
    block5, params = np.asarray(maps["block5"])[0], variables["params"]
    assert block5.shape == (8, 10, 512)
    scores = []
    for top in range(2):
        for left in range(4):
            x = block5[top : top + 7, left : left + 7].reshape(-1)
            for name in ("fc6", "fc7"):
                kernel = params[name]["kernel"].reshape(-1, 4096)
                x = np.maximum(x @ kernel + params[name]["bias"], 0)
            scores.append(x @ params["head"]["kernel"] + params["head"]["bias"])
    np.testing.assert_allclose(
        dense, np.mean(scores, 0), rtol=1e-4, atol=1e-5 * np.abs(scores).max()
    )

    crop = image[:, :224, :224]  # at the size of the crops, sliding has one place
    plain = Network(classifier, **options)
    np.testing.assert_allclose(
        network(crop), plain(crop), rtol=1e-5, atol=1e-6 * np.abs(scores).max()
    )
