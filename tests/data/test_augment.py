"""Augmentations: what each one does, and the distributions that the papers give.

As long as the list of augmentations: one short test or two for each.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from tests.data.pictures import encoded, options, photo
from train.config import Augment, Data
from train.data import augment, crop, policies, randaugment
from train.data.plan import uniform
from train.errors import UserError

MANY = 20_000


def numbers(name, columns, count=MANY, seed=0):
    return uniform(seed, name, np.arange(count), columns)


def even(counts, significance=1e-4):
    """Whether counts are consistent with a uniform distribution, by a chi-square test."""
    return stats.chisquare(counts).pvalue > significance


def one(name, shape=(40, 50, 3), **config):
    (change,) = [c for c in augment.make_changes(Augment(**config), shape) if c.name == name]
    return change


def applied(change, image, row=0, seed=0):
    parameters = change.draw(numbers(change.name, change.columns, row + 1, seed))[row]
    parameters = tf.constant(parameters.astype(np.float32))
    result = augment.apply_all([change])(tf.constant(image), parameters).numpy()
    assert result.dtype == np.uint8 and result.shape == image.shape
    return result


def test_numbers_are_uniform_and_independent_of_seed_name_place_and_column():
    drawn = numbers("crop", 3)
    assert drawn.min() >= 0 and drawn.max() < 1 and drawn.dtype == np.float32
    for column in drawn.T:
        assert even(np.histogram(column, 64, (0, 1))[0])
    others = [
        numbers("flip", 3),
        numbers("crop", 3, seed=1),
        np.roll(drawn, 1, axis=0),
        np.roll(drawn, 1, axis=1),
    ]
    for other in others:
        assert np.abs(np.corrcoef(drawn[:, 0], other[:, 0])[0, 1]) < 0.03
        assert even(np.histogram2d(drawn[:, 0], other[:, 0], 8, [(0, 1)] * 2)[0].ravel())
    np.testing.assert_array_equal(uniform(0, "crop", np.array([17, 5]), 3), drawn[[17, 5]])
    # If these values change, every unfinished run resumes with other images.
    assert uniform(7, "crop", np.array([0, 10**12]), 2).astype(float).round(6).tolist() == PINNED


PINNED = [[0.775253, 0.616558], [0.963302, 0.638489]]


# Windows


def windows(made, height, width, count=MANY):
    parameters = made.draw(numbers("crop", made.columns, count)).astype(np.float32)

    @tf.function
    def apply(rows):
        return tf.map_fn(
            lambda row: made.window(height, width, row), rows, fn_output_signature=tf.int32
        )

    top, left, high, wide = apply(parameters).numpy().T
    assert (top >= 0).all() and (left >= 0).all() and (high >= 1).all() and (wide >= 1).all()
    assert (top + high <= height).all() and (left + wide <= width).all()
    return top, left, high, wide


def test_windows_of_inception():
    top, left, high, wide = windows(crop.area_crop((0.08, 1.0), (3 / 4, 4 / 3)), 400, 400)
    share, ratio = high * wide / 400**2, wide / high
    assert 0.078 < share.min() < 0.085 and share.max() <= 1
    assert ratio.min() > 0.74 and ratio.max() < 1.35
    # Every try of a small area fits: share, logarithm of the ratio and place are uniform.
    small = share < 0.5
    assert even(np.histogram(share[small], 20, (0.08, 0.5))[0])
    logarithms = np.histogram(np.log(ratio[small]), 20, (np.log(3 / 4), np.log(4 / 3)))[0]
    assert even(logarithms, 1e-6)  # less even, because sides are whole pixels
    for place, side in ((top, high), (left, wide)):
        assert even(np.histogram((place[small] + 0.5) / (400 - side[small] + 1), 20, (0, 1))[0])


def test_windows_of_extreme_images_fall_back_to_the_centre():
    made = crop.area_crop((0.9, 1.0), (0.99, 1.01))
    _, left, high, wide = windows(made, 100, 1000, 50)
    assert set(high) == {100} and set(wide) == {101} and set(left) == {450}
    for height, width in ((1, 1), (1, 500), (500, 1)):
        windows(crop.area_crop((0.08, 1.0), (3 / 4, 4 / 3)), height, width, 50)


def test_windows_of_alexnet_and_vgg():
    top, left, high, wide = windows(crop.scale_crop(224, (256, 256)), 256, 356)
    assert set(high) == set(wide) == {224}
    assert even(np.bincount(top, minlength=33)) and even(np.bincount(left, minlength=133))
    _, _, high, wide = windows(crop.scale_crop(224, (256, 512)), 512, 600)
    assert (high == wide).all() and high.min() == 224 and high.max() == 448
    scale = 224 * 512 / high
    assert even(np.histogram(scale, 8, (256, 513))[0], 1e-6)


def test_center_and_interpolations_and_fast_decoding():
    """A window much larger than the target is decoded at reduced size, and looks the same."""
    pixels = photo(1200, 1600)
    square = Image.fromarray(pixels[:, 200:1400])
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BOX))
    for method in ("bilinear", "bicubic", "area", "nearest", "random"):
        scaled = Augment(crop="scale", short_side=(64, 64), interpolation=method)
        config = options("x", size=64, augment=scaled)
        made = crop.make_crop(config)
        load = crop.make_load(config, 3, made, encoded=True)
        parameters = tf.constant(made.draw(np.full((1, 3), 0.5, np.float32))[0].astype(np.float32))
        for chooser in (0.0, 0.3, 0.6, 0.9):
            result = load(tf.constant(encoded(pixels)), parameters, tf.constant(chooser)).numpy()
            assert np.abs(result.astype(int) - expected).mean() < 3


# Changes


def test_flip():
    image = photo(40, 50)
    change = one("flip", flip=True)
    results = [applied(change, image, row) for row in range(40)]
    mirrored = [bool((result == image[:, ::-1]).all()) for result in results]
    assert all((r == image).all() or m for r, m in zip(results, mirrored))
    assert 8 < sum(mirrored) < 32
    drawn = change.draw(numbers("flip", 1))
    assert even(np.bincount(drawn[:, 0] < 0.5))
    batch = np.stack([image] * 40)
    np.testing.assert_array_equal(augment.apply_in_numpy([change], batch, [drawn[:40]]), results)


def test_lighting():
    """The covariance of the shift is that of the principal components."""
    drawn = one("lighting", lighting=0.1).draw(numbers("lighting", 6)) / 255
    components = augment.PCA_VECTORS * augment.PCA_VALUES * 0.1
    np.testing.assert_allclose(np.cov(drawn.T), components @ components.T, rtol=0.05, atol=1e-6)
    for row in range(5):
        change = one("lighting", lighting=0.1)
        added = applied(change, np.full((40, 50, 3), 128, np.uint8), row).astype(int) - 128
        assert (added == added[0, 0]).all()
        np.testing.assert_allclose(added[0, 0], 255 * drawn[row], atol=0.51)


def test_channel_permutations_are_equally_likely():
    change = one("permute_channels", permute_channels=True)
    drawn = change.draw(numbers("permute_channels", 3)).astype(int)
    orders = list(itertools.permutations(range(3)))
    assert even([(drawn == order).all(1).sum() for order in orders])
    image = photo(40, 50)
    np.testing.assert_array_equal(applied(change, image), image[..., drawn[0]])


@pytest.mark.parametrize("kind", ["slim", "slim_fast"])
def test_color_distortion_equals_slim_in_every_order(kind):
    """On images in [0, 1], with the operations that TF-slim calls."""
    change = one("color", color=kind)
    image = photo(40, 50)
    drawn = change.draw(numbers("color", 5))
    brightness, saturation, hue, contrast, order = drawn.T
    assert np.abs(brightness).max() <= 32 and np.abs(hue).max() <= 0.2
    assert (
        min(saturation.min(), contrast.min()) >= 0.5
        and max(saturation.max(), contrast.max()) <= 1.5
    )
    assert even(np.bincount(order.astype(int)))
    orders = {"slim": ("bshc", "sbch", "chbs", "hscb"), "slim_fast": ("bs", "sb", "sb", "sb")}[kind]
    ops = {
        "b": lambda x, row: tf.image.adjust_brightness(x, brightness[row] / 255),
        "s": lambda x, row: tf.image.adjust_saturation(x, saturation[row]),
        "h": lambda x, row: tf.image.adjust_hue(x, hue[row]),
        "c": lambda x, row: tf.image.adjust_contrast(x, contrast[row]),
    }
    for row in range(12):
        expected = tf.image.convert_image_dtype(image, tf.float32)
        for letter in orders[int(order[row])]:
            expected = ops[letter](expected, row)
        expected = 255 * tf.clip_by_value(expected, 0, 1).numpy()
        assert np.abs(applied(change, image, row) - expected).max() <= 0.6


@pytest.mark.parametrize("strength", [-0.9, 0.3])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_operations_of_randaugment_equal_pillow(name, strength):
    pixels = photo(40, 50)
    image = Image.fromarray(pixels)
    blend = 1 + 0.9 * strength
    angle = strength * 30
    nearest = dict(resample=Image.Resampling.NEAREST, fillcolor=(128, 128, 128))

    def moved(a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0):
        return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), **nearest)

    expected = {
        "identity": lambda: image,
        "invert": lambda: ImageOps.invert(image),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(angle, **nearest),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - abs(strength))),
        "color": lambda: ImageEnhance.Color(image).enhance(blend),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(blend),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(blend),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(blend),
        "shear_x": lambda: moved(b=0.3 * strength, c=-0.3 * strength * 20),
        "shear_y": lambda: moved(d=0.3 * strength, f=-0.3 * strength * 25),
        "translate_x": lambda: moved(c=0.45 * 50 * strength),
        "translate_y": lambda: moved(f=0.45 * 40 * strength),
    }[name]()
    ours = randaugment.operation(
        name, tf.constant(pixels), tf.constant(strength, tf.float32), (40, 50)
    ).numpy()
    difference = np.abs(ours.astype(int) - np.asarray(expected))
    # Geometric operations may read a pixel on the edge between two as either.
    geometric = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    assert np.mean(difference.max(-1) > 2) < (0.06 if geometric else 0.001)


@pytest.mark.parametrize("name", policies.TABLES)
def test_autoaugment_draws_its_table(name):
    """Each pair as often, each of its changes with its probability and its magnitude."""
    table = policies.TABLES[name]
    drawn = policies.draw(numbers("policy", 5), policy=name, size=(40, 50))
    rows = np.floor(numbers("policy", 5)[:, 0] * len(table)).astype(int)
    assert even(np.bincount(rows))
    for row, pair in enumerate(table):
        of_row = drawn[rows == row].reshape(-1, 2, 2)
        for layer, (operation, probability, magnitude) in enumerate(pair):
            which, strength = of_row[:, layer].T
            happened = strength != 0 if magnitude else which == randaugment.NAMES.index(operation)
            assert np.mean(happened) == pytest.approx(probability, abs=0.07)
            names = {randaugment.OPERATIONS[int(k)] for k in which[happened]}
            assert names <= {operation}
            assert np.abs(strength[happened]) == pytest.approx(magnitude / 9)


def test_trivialaugment_takes_each_operation_as_often_at_any_strength():
    which, strength = policies.draw(numbers("policy", 5), policy="trivialaugment", size=(40, 50)).T
    assert even(np.bincount(which.astype(int)))
    rotated = strength[which == randaugment.NAMES.index("rotate")]
    assert rotated.max() * 30 == pytest.approx(135) and rotated.min() * 30 == pytest.approx(-135)
    moved = strength[which == randaugment.NAMES.index("translate_x")]
    assert moved.max() * 0.45 * 50 == pytest.approx(32)
    assert len(np.unique(np.abs(rotated))) == 31
    change, image = one("policy", policy="trivialaugment"), photo(40, 50)
    assert any((applied(change, image, row) != image).any() for row in range(5))


def test_images_that_are_all_border_are_not_sharpened():
    image = photo(2, 50)
    sharpened = randaugment.operation("sharpness", tf.constant(image), tf.constant(1.0), (2, 50))
    assert np.array_equal(sharpened, image)


def test_flips_of_both_kinds():
    image = photo(40, 50)
    for option, axis in (("flip", 1), ("flip_vertical", 0)):
        change = one(option, **{option: True})
        drawn = change.draw(numbers(option, 1, 20)).ravel() < 0.5
        assert 4 < drawn.sum() < 16
        for row, flipped in enumerate(drawn):
            expected = np.flip(image, axis) if flipped else image
            assert np.array_equal(applied(change, image, row), expected)
            parameters = [change.draw(numbers(option, 1, 20))[row : row + 1]]
            in_numpy = augment.apply_in_numpy([change], image[None], parameters)
            assert np.array_equal(in_numpy[0], expected)


@pytest.mark.parametrize(
    ("place", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_jitter_equals_pillow(place, enhance):
    pixels, most = photo(40, 50), [0.0] * 4
    most[place] = 0.6
    change = one("jitter", jitter=tuple(most))
    factors = change.draw(numbers("jitter", 4))[:, place]
    assert factors.min() == pytest.approx(0.4, abs=0.01)
    assert factors.max() == pytest.approx(1.6, abs=0.01)
    for row in range(3):
        expected = enhance(Image.fromarray(pixels)).enhance(float(factors[row]))
        difference = np.abs(applied(change, pixels, row).astype(int) - np.asarray(expected))
        assert difference.max() <= 2


def test_grey_and_blur():
    image, change = photo(40, 50), one("grey", grey=0.3)
    lost = [np.ptp(applied(change, image, row), axis=-1).max() == 0 for row in range(40)]
    assert 4 < sum(lost) < 22
    change = one("blur", blur=2.0)
    deviations = change.draw(numbers("blur", 1)).ravel()
    assert 0.1 <= deviations.min() < 0.12 and 1.98 < deviations.max() <= 2.0
    for row in range(3):
        expected = ndimage.gaussian_filter(
            image.astype(float), (deviations[row], deviations[row], 0), mode="mirror", radius=6
        )
        assert np.abs(applied(change, image, row) - expected).max() < 1
    one("blur", (40, 50, 1), blur=2.0)  # grey images, too
    with pytest.raises(UserError, match="images in colour"):
        one("jitter", (40, 50, 1), jitter=(0.0, 0.0, 0.5, 0.0))


def test_a_function_of_the_user(tmp_path):
    (tmp_path / "own.py").write_text(
        "import tensorflow as tf\n\n\n"
        "def invert(image, numbers):\n"
        "    return tf.where(numbers[0] < 0.5, 255 - image, image)\n"
    )
    change = one("custom", custom=f"{tmp_path}/own.py:invert")
    image = photo(40, 50)
    inverted = [bool((applied(change, image, row) == 255 - image).all()) for row in range(20)]
    assert 3 < sum(inverted) < 17
    assert one("custom", custom="tensorflow:identity").apply is tf.identity
    mistakes = {
        "nothing": "must read package",
        "no.such:f": "ModuleNotFoundError",
        f"{tmp_path}/own.py:g": "AttributeError",
        f"{tmp_path}/no.py:g": "FileNotFoundError",
    }
    for reference, why in mistakes.items():
        with pytest.raises(UserError, match=why):
            augment.make_changes(Augment(custom=reference), (8, 8, 3))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("np.flipud(np.asarray(image)).copy()", "has to be written with tf, not numpy"),
        ("image[:4]", r"makes images of \(4, 8, 3\); they have to stay \(8, 8, 3\)"),
        ("image + numbers[0]", "has to be written with tf"),
    ],
)
def test_a_custom_change_that_cannot_work_is_a_sentence(tmp_path, body, sentence):
    code = f"import numpy as np\n\n\ndef change(image, numbers):\n    return {body}\n"
    (tmp_path / "own.py").write_text(code)
    reference = f"{tmp_path}/own.py:change"
    changes = augment.make_changes(Augment(custom=reference), (8, 8, 3))
    with pytest.raises(UserError, match=sentence):
        augment.check_custom(reference, changes, (8, 8, 3))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Augment(crop="random"), "data.augment.crop='random' is unknown"),
        (
            Augment(crop="area", area=(0.08, 1.5)),
            "area=(0.08, 1.5) is a share of the image, at most 1",
        ),
        (
            Augment(aspect=(2.0, 1.0)),
            "data.augment.aspect is a range such as (0.75, 1.3333333), got (2.0, 1.0)",
        ),
        (
            Augment(crop="scale", short_side=(100, 256)),
            "short_side=(100, 256) is smaller than data.size=224",
        ),
        (Augment(interpolation="cubic"), "interpolation='cubic' is unknown; did you mean bicubic"),
    ],
)
def test_impossible_crops(config, sentence):
    with pytest.raises(UserError) as caught:
        crop.make_crop(Data(size=224, augment=config))
    assert sentence in str(caught.value)


def test_impossible_changes():
    with pytest.raises(UserError, match="color='slimm' is unknown; did you mean slim"):
        augment.make_changes(Augment(color="slimm"), (8, 8, 3))
    with pytest.raises(UserError, match="distort='hosts' is unknown; did you mean host"):
        augment.make_changes(Augment(distort="hosts"), (8, 8, 3))
    with pytest.raises(UserError, match="lighting is for images in colour; these have 1 channel"):
        augment.make_changes(Augment(lighting=0.1), (8, 8, 1))
