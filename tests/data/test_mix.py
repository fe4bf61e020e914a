"""Distortion, noise, mixup and CutMix: pure functions that change images and labels alike."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from train import mix
from train.config import Augment
from train.data import affine
from train.losses import cross_entropy
from train.step import normalize

COUNT, SIDE, CLASSES = 256, 16, 10
LABELS = jnp.arange(COUNT) % CLASSES
IMAGES = jnp.broadcast_to(
    jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None], (COUNT, SIDE, SIDE, 3)
)
SOFT = jax.nn.one_hot(LABELS, CLASSES)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 40, 3)])
def test_warp_equals_the_definition(shape):
    height, width, channels = shape
    wild = Augment(rotate=40, scale=0.3, shear=0.3, shift=5)
    transforms = affine.draw(wild, 0, np.arange(20), height, width)
    images = np.random.RandomState(0).randint(0, 256, (20, *shape)).astype(np.uint8)
    results = np.asarray(jax.jit(mix.warp)(images, transforms))
    assert results.shape == images.shape and results.dtype == np.float32
    y, x = np.mgrid[:height, :width]
    for image, (a, b, x0, c, d, y0), result in zip(images, transforms, results):
        for channel in range(channels):
            framed = np.pad(image[..., channel].astype(float), 40)
            places = [c * x + d * y + y0 + 40, a * x + b * y + x0 + 40]
            np.testing.assert_allclose(
                result[..., channel], ndimage.map_coordinates(framed, places, order=1), atol=0.02
            )


def test_affine_parameters_mean_what_they_say():
    def moved(**arguments):
        values = dict(angle=0, scale_x=1, scale_y=1, shear=0, shift_x=0, shift_y=0) | arguments
        transform = affine.matrix(*(np.float32([values[k]]) for k in values), 21, 21)
        image = np.zeros((1, 21, 21, 1), np.uint8)
        image[0, 10, 15] = 255  # five to the right of the centre
        result = np.asarray(mix.warp(image, transform))[0, ..., 0]
        return np.unravel_index(result.argmax(), result.shape)

    assert moved() == (10, 15)
    assert moved(shift_x=3, shift_y=-2) == (8, 18)
    assert moved(angle=np.pi / 2) == (5, 10)  # counterclockwise
    assert moved(scale_x=0.6) == (10, 13)
    assert moved(scale_x=2) == (10, 20)


def test_transforms_are_uniform_and_depend_on_seed_and_position_alone():
    config, positions = Augment(rotate=12, shift=2), np.arange(5000)
    drawn = affine.draw(config, 3, positions, 28, 28)
    angles = np.degrees(np.arctan2(drawn[:, 3], drawn[:, 0]))
    assert stats.kstest(angles, stats.uniform(-12, 24).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(affine.draw(config, 3, positions[70:90], 28, 28), drawn[70:90])
    assert (affine.draw(config, 4, positions, 28, 28) != drawn).any(1).mean() > 0.99


def test_noise_has_its_standard_deviation():
    noise = mix.make_mix(CLASSES, noise=0.1, std=(0.5, 0.25, 1.0))
    images, labels = jax.jit(noise)(IMAGES, LABELS, jax.random.key(0))
    np.testing.assert_allclose((images - IMAGES).std((0, 1, 2)), [0.2, 0.4, 0.1], rtol=0.02)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_mixes_images_and_labels_alike(alpha):
    images, soft = jax.jit(partial(mix.mix_up, alpha=alpha))(IMAGES, SOFT, jax.random.key(1))
    assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-3
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    value, row = images[:, 0, 0, 0], np.arange(COUNT)
    own = soft[row, LABELS]  # its own share; more if its partner has the same class
    assert (np.count_nonzero(np.asarray(soft) > 1e-6, axis=1) <= 2).all()
    partner = np.asarray((value - own * row) / np.maximum(1 - own, 1e-6))
    two = (np.count_nonzero(np.asarray(soft) > 0.02, axis=1) == 2) & (np.asarray(own) < 0.98)
    assert np.abs(partner[two] - partner[two].round()).max() < 0.05
    other = np.asarray(LABELS)[partner[two].round().astype(int)]
    np.testing.assert_allclose(soft[row[two], other], 1 - own[two], atol=1e-4)
    deviation = np.sqrt(1 / (4 * (2 * alpha + 1)))  # of Beta(alpha, alpha)
    assert np.asarray(own).std() == pytest.approx(deviation, rel=0.25)


def test_cutmix_labels_are_the_shares_of_the_pixels():
    images, soft = jax.jit(partial(mix.cut_mix, alpha=1.0))(IMAGES, SOFT, jax.random.key(2))
    for row in range(COUNT):
        values, counts = np.unique(np.asarray(images[row, ..., 0]), return_counts=True)
        assert len(values) <= 2
        expected = np.zeros(CLASSES)
        for value, count in zip(values, counts):
            expected[int(value) % CLASSES] += count / SIDE**2
        np.testing.assert_allclose(soft[row], expected, atol=1e-5)
        cut = np.asarray(images[row, ..., 0]) != row
        assert cut.sum() == cut.any(0).sum() * cut.any(1).sum()  # one rectangle


def test_mixup_and_cutmix_alternate_and_depend_on_the_key_alone():
    changed = jax.jit(mix.make_mix(CLASSES, mixup=0.2, cutmix=1.0))
    kinds = []
    for seed in range(20):
        images, _ = changed(IMAGES, LABELS, jax.random.key(seed))
        np.testing.assert_array_equal(images, changed(IMAGES, LABELS, jax.random.key(seed))[0])
        kinds.append(bool(np.ptp(images, axis=(1, 2, 3)).max() < 1e-3))
    assert 3 < sum(kinds) < 17
    assert mix.make_mix(CLASSES) is None


@pytest.mark.parametrize("kind", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 1.0, "noise": 0.1}])
def test_bytes_that_are_prepared_while_mixing_give_the_same_images(kind):
    """To the bit: partners are gathered as bytes, but mixed as what the network reads."""
    changed = mix.make_mix(CLASSES, **kind)
    prepare = partial(normalize, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
    images = np.random.RandomState(0).randint(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    key, labels = jax.random.key(0), LABELS[:8]
    before = jax.jit(lambda x: changed(prepare(x), labels, key))(images)
    after = jax.jit(lambda x: changed(x, labels, key, prepare))(images)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_label_smoothing_of_soft_labels():
    logits = jax.random.normal(jax.random.key(0), (COUNT, CLASSES))
    for smoothing in (0.0, 0.1):
        hard = cross_entropy(logits, LABELS, smoothing)
        np.testing.assert_allclose(cross_entropy(logits, SOFT, smoothing), hard, rtol=1e-6)
        other = cross_entropy(logits, jnp.roll(LABELS, 1), smoothing)
        mixed = cross_entropy(logits, 0.3 * SOFT + 0.7 * jnp.roll(SOFT, 1, axis=0), smoothing)
        np.testing.assert_allclose(mixed, 0.3 * hard + 0.7 * other, rtol=1e-5)
