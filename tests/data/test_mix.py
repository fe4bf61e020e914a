"""Noise, mixup and CutMix: pure, label-true, and at home under both mappings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import mix
from train.losses import cross_entropy

COUNT, SIDE, CLASSES = 256, 16, 10
LABELS = jnp.arange(COUNT) % CLASSES
IMAGES = jnp.broadcast_to(jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None], (COUNT, SIDE, SIDE, 3))
SOFT = jax.nn.one_hot(LABELS, CLASSES)


def test_noise_has_the_deviation_that_is_asked_for():
    made = mix.make_mix(CLASSES, noise=0.1, std=(0.5, 0.25, 1.0))
    images, labels = jax.jit(made)(IMAGES, LABELS, jax.random.key(0))
    np.testing.assert_allclose((images - IMAGES).std((0, 1, 2)), [0.2, 0.4, 0.1], rtol=0.02)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_mixes_images_and_labels_alike(alpha):
    images, soft = jax.jit(partial(mix.mix_up, alpha=alpha))(IMAGES, SOFT, jax.random.key(1))
    assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-3
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    value, row = images[:, 0, 0, 0], np.arange(COUNT)
    own = soft[row, LABELS]  # at least the own share; with its partner of another class, exactly
    assert (np.count_nonzero(np.asarray(soft) > 1e-6, axis=1) <= 2).all()
    partner = np.asarray((value - own * row) / np.maximum(1 - own, 1e-6))
    two = (np.count_nonzero(np.asarray(soft) > 0.02, axis=1) == 2) & (np.asarray(own) < 0.98)
    assert np.abs(partner[two] - partner[two].round()).max() < 0.05
    other = np.asarray(LABELS)[partner[two].round().astype(int)]
    np.testing.assert_allclose(soft[row[two], other], 1 - own[two], atol=1e-4)
    spread = np.asarray(own).std()
    assert spread == pytest.approx(np.sqrt(1 / (4 * (2 * alpha + 1))), rel=0.25)  # of Beta(alpha, alpha)


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


def test_both_take_turns_and_all_is_a_function_of_the_key():
    made = jax.jit(mix.make_mix(CLASSES, mixup=0.2, cutmix=1.0))
    kinds = []
    for seed in range(20):
        images, _ = made(IMAGES, LABELS, jax.random.key(seed))
        np.testing.assert_array_equal(images, made(IMAGES, LABELS, jax.random.key(seed))[0])
        kinds.append(bool(np.ptp(images, axis=(1, 2, 3)).max() < 1e-3))
    assert 3 < sum(kinds) < 17
    assert mix.make_mix(CLASSES) is None


def test_soft_labels_go_through_label_smoothing():
    logits = jax.random.normal(jax.random.key(0), (COUNT, CLASSES))
    for smoothing in (0.0, 0.1):
        hard = cross_entropy(logits, LABELS, smoothing)
        np.testing.assert_allclose(cross_entropy(logits, SOFT, smoothing), hard, rtol=1e-6)
        other = cross_entropy(logits, jnp.roll(LABELS, 1), smoothing)
        mixed = cross_entropy(logits, 0.3 * SOFT + 0.7 * jnp.roll(SOFT, 1, axis=0), smoothing)
        np.testing.assert_allclose(mixed, 0.3 * hard + 0.7 * other, rtol=1e-5)
