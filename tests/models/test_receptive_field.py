"""`cnnjax.analysis` against brute force: the pixels where a cell's gradient is not zero."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, create_model
from cnnjax.models import inception_resnet, inception_v3, inception_v4
from cnnjax.models.layers import Conv, ConvBN, PooledConvBN
from cnnjax.ops.pooling import avg_pool, max_pool
from cnnjax.stages import apply_with_stages

NORM = partial(nn.BatchNorm, use_running_average=True)
CONV = partial(ConvBN, norm=NORM)
POOL_CONV = partial(PooledConvBN, norm=NORM)
MERGE = partial(inception_resnet.merge, up=Conv, scale=0.1, residual=True)


class Plain(nn.Module):
    """A sequence of convolutions and poolings."""

    layers: tuple  # of ("conv", (height, width), stride) or ("max" or "mean", window, stride)

    @nn.compact
    def __call__(self, x, *, train=False):
        for i, (kind, size, stride) in enumerate(self.layers):
            if kind == "conv":
                x = nn.relu(Conv(2, size, stride, name=f"conv{i}")(x))
            else:
                x = (max_pool if kind == "max" else avg_pool)(x, size, stride)
        return x


class Whole(nn.Module):
    """A block as a network."""

    block: nn.Module

    @nn.compact
    def __call__(self, x, *, train=False):
        return self.block(x)


def fair(variables):
    """Kernels that average and no normalisation, so that no unit is dead and no path cancels."""

    def leaf(path, value):
        match path[-1].key:
            case "kernel":
                return jnp.full(value.shape, 1 / np.prod(value.shape[:-1]))
            case "scale" | "var" | "coefficient":
                return jnp.ones(value.shape)
            case _:
                return jnp.zeros(value.shape)

    return jax.tree_util.tree_map_with_path(leaf, variables)


def brute_force(feature_map, side, channels=1):
    """(height, width) of the field of the middle cell of `feature_map(image)`, from two gradients.

    In an image that grows to the lower right the last cell of every max pooling wins, in one that
    falls the first. So the two gradients reach the farthest pixels on both sides.
    """
    ramp = np.add.outer(np.arange(1.0, side + 1), np.arange(1.0, side + 1)) / side
    images = [
        np.broadcast_to(image[None, :, :, None], (1, side, side, channels))
        for image in (ramp, ramp[::-1, ::-1])
    ]

    @jax.jit
    def reached(image):
        def cell(image):
            out = feature_map(image)
            return out[0, out.shape[1] // 2, out.shape[2] // 2].sum()

        return jax.grad(cell)(image).any((0, 3))

    last, first = (np.argwhere(reached(jnp.asarray(image, jnp.float32))) for image in images)
    assert first.min() > 0 and last.max() < side - 1, "the image is too small"
    return tuple(int(size) for size in last.max(0) - first.min(0) + 1)


def largest(rows):
    """The size of the largest field."""
    fields = [row.field for row in rows if row.field != analysis.WHOLE]
    return tuple(max(sizes) for sizes in zip(*(field.size for field in fields)))


def both(model, side, channels=1):
    """(analysis, brute force) for a network whose output is a map."""
    variables = fair(analysis.abstract_variables(model, (side, side, channels)))
    rows = analysis.summarize(model, (side, side, channels)).layers
    return largest(rows), brute_force(lambda image: model.apply(variables, image), side, channels)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([("conv", (3, 3), 1)] * 2, (5, 5)),
        ([("conv", (3, 3), 1)] * 3, (7, 7)),
        ([("conv", (1, 7), 1)], (1, 7)),
        ([("conv", (1, 7), 1), ("conv", (7, 1), 1)], (7, 7)),
        ([("conv", (3, 3), 2), ("conv", (3, 3), 1)], (7, 7)),
        ([("conv", (3, 3), 1), ("max", 2, 2), ("conv", (5, 5), 1), ("mean", 3, 2)], (16, 16)),
        ([("conv", (11, 11), 4), ("max", 3, 2), ("conv", (5, 5), 1), ("max", 3, 2)], (67, 67)),
    ],
    ids=["two 3x3", "three 3x3", "1x7", "1x7 and 7x1", "strided", "pooled", "AlexNet's first two"],
)
def test_stacks_of_layers(layers, expected):
    assert both(Plain(tuple(layers)), 97) == (expected, expected)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (inception_v3.InceptionA(4, CONV, POOL_CONV, factorized=True), 5),
        (inception_v3.InceptionA(4, CONV, POOL_CONV, factorized=False), 5),
        (inception_v3.InceptionB(4, CONV, POOL_CONV, factorized=True), 13),
        (inception_v3.InceptionB(4, CONV, POOL_CONV, factorized=False), 13),
        (inception_v3.ReductionB(CONV, factorized=True), 9),
        (inception_v3.InceptionC(CONV, POOL_CONV), 5),
        (inception_v4.Mixed4a(CONV), 9),
        (inception_v4.InceptionC(CONV, POOL_CONV), 5),
        (inception_resnet.Block35(((2,), (2, 2), (2, 2, 2)), CONV, MERGE), 5),
        (inception_resnet.Block17(((2,), (2, 2, 2)), CONV, MERGE), 7),
        (inception_resnet.Mixed7a(((2, 2), (2, 2), (2, 2, 2)), CONV), 5),
    ],
    ids=lambda value: (
        f"{type(value).__module__}.{type(value).__name__}" if isinstance(value, nn.Module) else None
    ),
)
def test_blocks(block, expected):
    assert both(Whole(block), 33, channels=2) == ((expected, expected), (expected, expected))


@pytest.mark.parametrize(
    ("name", "stage", "side", "expected"),
    [
        ("lenet5", "c3", 64, 14),
        ("lenet5", "s4", 64, 16),
        ("lenet5", "c5", 64, 32),
        ("inception_v3", "pool5a", 111, 31),
    ],
)
def test_stages_of_networks(name, stage, side, expected):
    channels = 1 if name == "lenet5" else 3
    model = create_model(name)
    variables = fair(analysis.abstract_variables(model, (side, side, channels)))

    def feature_map(image):
        return apply_with_stages(model, variables, image)[1][stage]

    rows = analysis.summarize(model, (side, side, channels)).layers
    assert largest([row for row in rows if row.name.split("/")[0] == stage]) == (expected, expected)
    assert brute_force(feature_map, side, channels) == (expected, expected)


def test_a_row_holds_both_directions():
    rows = {
        row.name: row.field
        for row in analysis.summarize(create_model("inception_v3"), (299, 299, 3)).layers
    }
    before = rows["mixed6b/branch7x7_1/conv"]
    assert before.size[0] == before.size[1]
    assert rows["mixed6b/branch7x7_2/conv"].size == (
        before.size[0],
        before.size[1] + 6 * before.stride[1],
    )
    assert rows["mixed6b/branch7x7_3/conv"].size == tuple(size + 6 * 16 for size in before.size)


def test_a_whole_network_sees_more_than_its_image():
    assert analysis.summarize(create_model("inception_v3"), (299, 299, 3)).receptive_field == 1311
