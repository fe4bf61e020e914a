"""C3 of the LeNet-5 of 1998: its maps see the inputs that Table I lists."""

import jax
import numpy as np
from scipy.signal import correlate2d

from cnnjax.models.lenet import C3_INPUTS, C3_LINKS, SparseConv, squash


def sparse_conv():
    """The layer, variables for it, and two images."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((5, 5, 1, 60), np.float32)
    bias = rng.standard_normal(16, np.float32)
    variables = {"params": {"links": {"kernel": kernel}, "bias": bias}}
    return SparseConv(), variables, rng.standard_normal((2, 9, 14, 6))


def test_a_map_is_the_squashed_sum_of_its_links_and_a_bias():
    layer, variables, images = sparse_conv()
    kernel, bias = variables["params"]["links"]["kernel"], variables["params"]["bias"]
    expected = np.zeros((2, 5, 10, 16)) + bias
    for link, (source, target) in enumerate(C3_LINKS):
        assert source in C3_INPUTS[target]
        for image in range(2):
            slid = correlate2d(images[image, ..., source], kernel[..., 0, link], "valid")
            expected[image, ..., target] += slid
    found = layer.apply(variables, images)
    np.testing.assert_allclose(found, squash(expected), rtol=0, atol=2e-5)


def test_an_accelerator_slides_60_kernels_and_a_cpu_one():
    layer, variables, images = sparse_conv()
    traced = jax.jit(layer.apply).trace(variables, images)
    groups = {
        p: "feature_group_count = 60" in traced.lower(lowering_platforms=(p,)).as_text()
        for p in ("cuda", "cpu")
    }
    assert groups == {"cuda": True, "cpu": False}
    initial = layer.init(jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, initial) == {"links": {"kernel": (5, 5, 1, 60)}, "bias": (16,)}
