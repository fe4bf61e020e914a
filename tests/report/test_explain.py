"""Pictures of what a network learned, on networks of which that is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import cnnjax
from cnnjax.models.layers import Outputs
from cnnjax.stages import apply_with_stages
from train.report import explain

RED, GREEN = 0, 1


class Planted(nn.Module):
    """Classes are the mean red and the mean green, so the reasons of its answers are known."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(3, (2, 2), strides=2, use_bias=False, name="conv")(x)
        features = x.mean((1, 2))
        return Outputs(nn.Dense(2, name="head")(features), (), features)


@pytest.fixture
def planted():
    """(model, variables, images): a red square in the first image, a green one in the second."""
    kernel = np.zeros((2, 2, 3, 3), np.float32)
    kernel[:, :, range(3), range(3)] = 0.25
    head = np.array([[40.0, -40.0], [-40.0, 40.0], [0, 0]], np.float32)
    variables = {
        "params": {
            "conv": {"kernel": kernel},
            "head": {"kernel": head, "bias": np.zeros(2, np.float32)},
        }
    }
    images = np.zeros((2, 24, 24, 3), np.float32)
    images[0, 8:16, 4:12, RED] = 1
    images[1, 0:6, 18:24, GREEN] = 1
    return Planted(), variables, images


def test_grad_cam_is_the_planted_square(planted):
    model, variables, images = planted
    heat = explain.grad_cam(model, variables, images, [RED, GREEN])
    assert heat.shape == (2, 12, 12)
    expected = np.zeros((2, 12, 12))
    expected[0, 4:8, 2:6] = 40 / 144  # the weight of the class over the number of cells
    expected[1, 0:3, 9:12] = 40 / 144
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    heat = explain.grad_cam(model, variables, images, [GREEN, RED])
    assert not heat.any()  # nothing speaks for the other class


def test_occlusion_is_a_loop_over_covered_images(planted):
    model, variables, images = planted
    heat = explain.occlusion(model, variables, images, [RED, GREEN], size=8, stride=4)
    assert heat.shape == (2, 5, 5)
    assert np.unravel_index(heat[0].argmax(), (5, 5)) == (2, 1)  # the square itself

    def probability(image):
        return jax.nn.softmax(model.apply(variables, image[None]).logits)[0, RED]

    whole = probability(images[0])
    for row in range(5):
        for column in range(5):
            covered = images[0].copy()
            covered[4 * row : 4 * row + 8, 4 * column : 4 * column + 8] = 0
            fall = float(whole - probability(covered))
            assert heat[0, row, column] == pytest.approx(fall, abs=1e-6)


@pytest.fixture(scope="module")
def lenet():
    model = cnnjax.create_model("lenet5", num_classes=10)
    images = np.random.default_rng(0).uniform(size=(6, 28, 28, 1)).astype(np.float32)
    return model, model.init({"params": jax.random.key(0)}, images), images


def test_stages_are_in_the_networks_order(lenet):
    found = explain.stages(*lenet)
    assert list(found)[:4] == ["c1", "s2", "c3", "s4"] and found["c1"] == (6, 28, 28, 6)
    maps = explain.feature_maps(*lenet, "c3")
    assert maps.shape == found["c3"] and maps.std() > 0
    with pytest.raises(ValueError, match="no stage is called 'c9'; there are c1, s2"):
        explain.feature_maps(*lenet, "c9")


def test_the_gradient_of_a_stage_is_that_of_finite_differences(lenet):
    """Grad-CAM of a network of the registry, from its definition."""
    model, variables, images = lenet
    name = explain.last_map(model, variables, images)
    maps = explain.feature_maps(model, variables, images, name)

    def logit(shift):
        shifts = {name: jnp.asarray(shift)}
        outputs, _ = apply_with_stages(model, variables, images, shifts=shifts)
        return outputs.logits[:, 3]

    weights = np.zeros((6, maps.shape[-1]))
    for channel in range(maps.shape[-1]):
        step = np.zeros(maps.shape, np.float32)
        step[..., channel] = 0.05
        weights[:, channel] = (logit(step) - logit(-step)) / 0.1 / np.prod(maps.shape[1:3])
    expected = np.maximum((weights[:, None, None] * maps).sum(-1), 0)
    np.testing.assert_allclose(
        explain.grad_cam(model, variables, images, [3] * 6), expected, atol=2e-3 * expected.max()
    )


def test_neighbours_are_scikit_learns():
    rng = np.random.default_rng(0)
    points, queries = rng.normal(size=(200, 16)), rng.normal(size=(7, 16))
    peer = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(points)
    _, expected = peer.kneighbors(queries)
    np.testing.assert_array_equal(explain.neighbours(points, queries, 5), expected)


class ConvRelu(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(8, (3, 3), name="conv")(x))


class WithDeadUnits(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = ConvRelu(name="relu")(x)
        return Outputs(nn.Dense(2)(x.mean((1, 2))), (), x.mean((1, 2)))


def test_dead_units_are_found(lenet):
    model, images = WithDeadUnits(), lenet[2]
    variables = model.init(jax.random.key(0), images)
    variables["params"]["relu"]["conv"]["bias"] = jnp.array(
        [-1e3, -1e3, 1.0, 1.0, 1.0, 1.0, 1.0, -1e3]
    )
    found = explain.activity(model, variables, [images[:4], images[4:]])["relu"]
    assert (found.units, found.dead, found.constant) == (8, 3, 3) and found.zeros >= 3 / 8
    maps = explain.feature_maps(model, variables, images, "relu")
    assert (found.mean, found.std) == pytest.approx((maps.mean(), maps.std()), rel=1e-4)


def test_receptive_fields_grow(lenet):
    fields = explain.receptive_fields(lenet[0], (28, 28, 1))
    sizes = list(fields.values())
    assert sizes[0] == 5 and sizes == sorted(sizes)


def test_overlay_is_the_image_where_nothing_is_hot():
    image = np.full((16, 16, 1), 200, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    drawn = explain.overlay(image, heat)
    assert drawn.shape == (16, 16, 3)
    assert (drawn[8:, 8:] == 200).all() and (drawn[0, 0] != 200).any()
