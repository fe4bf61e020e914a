"""What branches contribute, against networks without them."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.models.layers import Outputs
from tests.evaluate.classifiers import random_variables
from train.report import branches


class Two(nn.Module):
    """Class 0 is decided by red, in one branch; class 1 by green, pooled in another."""

    @nn.compact
    def __call__(self, x, *, train=False):
        joined = Block(name="block")(x)
        features = joined.mean((1, 2))
        return Outputs(nn.Dense(2, name="head")(features), (), features)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        red = nn.Conv(1, (1, 1), use_bias=False, name="red")(x)
        none = nn.Conv(2, (1, 1), use_bias=False, name="none")(x)
        return jax.numpy.concatenate([red, none, nn.max_pool(x, (2, 2), (1, 1), "SAME")], axis=-1)


def test_the_branch_that_decides():
    head = np.zeros((6, 2), np.float32)
    head[0, 0], head[4, 1] = 9, 9  # the red branch, and green of the pooled image
    red = {"kernel": np.float32([1, 0, 0]).reshape(1, 1, 3, 1)}
    block = {"red": red, "none": {"kernel": np.zeros((1, 1, 3, 2), np.float32)}}
    head = {"kernel": head, "bias": np.zeros(2, np.float32)}
    variables = {"params": {"block": block, "head": head}}
    images = np.zeros((2, 4, 4, 3), np.float32)
    images[0, ..., 0] = images[1, ..., 1] = 1
    red, none, pool = branches.contributions(Two(), variables, images)
    names = [(found.branch.block, found.branch.name) for found in (red, none, pool)]
    assert names == [("block", "red"), ("block", "none"), ("block", "pool")]
    sure = 1 / (1 + np.exp(-9))
    assert (red.fall, pool.fall) == pytest.approx(((sure - 0.5) / 2, (sure - 0.5) / 2), abs=1e-6)
    assert none.fall == 0
    assert (red.changed, pool.changed) == (0.0, 0.5)  # at 0.5 each, the first class counts


@pytest.mark.parametrize(
    ("name", "block"),
    [
        pytest.param("inception_v1", "mixed4c", marks=pytest.mark.parity),
        pytest.param("inception_resnet_v1", "block17_2", marks=pytest.mark.slow),
    ],
)
def test_a_silent_branch_is_one_without_weights(name, block):
    model, shape = cnnjax.create_model(name, num_classes=6), (80, 80, 3)
    variables = random_variables(model, shape)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    own = jax.jit(lambda variables: jax.nn.softmax(model.apply(variables, images).logits))
    whole = np.asarray(own(variables))
    answers = whole.argmax(-1)
    found = {
        (contribution.branch.block, contribution.branch.name): contribution
        for contribution in branches.contributions(model, variables, images)
    }
    of_block = [key for key in found if key[0] == block]
    assert len(of_block) == (4 if name == "inception_v1" else 2)
    for key in of_block:
        silent = jax.tree.map(np.copy, variables)
        for collection in silent.values():
            place = collection[block]
            place[key[1]] = jax.tree.map(np.zeros_like, place[key[1]])
        without = np.asarray(own(silent))
        fall = np.mean([whole[i, a] - without[i, a] for i, a in enumerate(answers)])
        assert found[key].fall == pytest.approx(float(fall), abs=1e-5)
        assert found[key].changed == np.mean(without.argmax(-1) != answers)


def test_networks_without_branches_have_none():
    model, images = cnnjax.create_model("lenet5"), np.zeros((1, 28, 28, 1))
    variables = random_variables(model, images.shape[1:])
    assert branches.contributions(model, variables, images) == []
