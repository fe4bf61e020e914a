"""LeNet-5 of 1998: who sees whom in C3, as Table I has it."""

import jax
import numpy as np
from scipy.signal import correlate2d

from cnnjax.models.lenet import C3_INPUTS, C3_LINKS, SparseConv


def some():
    """The layer, variables for it, and images of two."""
    rng = np.random.default_rng(0)
    kernel, bias = (
        rng.standard_normal((5, 5, 1, 60), np.float32),
        rng.standard_normal(16, np.float32),
    )
    return (
        SparseConv(),
        {"params": {"links": {"kernel": kernel}, "bias": bias}},
        rng.standard_normal((2, 9, 14, 6)),
    )


def test_a_map_is_the_sum_of_its_links_and_a_bias():
    layer, variables, images = some()
    kernel, bias = variables["params"]["links"]["kernel"], variables["params"]["bias"]
    expected = np.zeros((2, 5, 10, 16)) + bias
    for link, (source, target) in enumerate(C3_LINKS):
        assert source in C3_INPUTS[target]
        for image in range(2):
            slid = correlate2d(images[image, ..., source], kernel[..., 0, link], "valid")
            expected[image, ..., target] += slid
    np.testing.assert_allclose(layer.apply(variables, images), expected, rtol=0, atol=2e-5)


def test_an_accelerator_slides_60_kernels_and_a_cpu_one():
    layer, variables, images = some()
    traced = jax.jit(layer.apply).trace(variables, images)
    groups = {
        p: "feature_group_count = 60" in traced.lower(lowering_platforms=(p,)).as_text()
        for p in ("cuda", "cpu")
    }
    assert groups == {"cuda": True, "cpu": False}
    starting = layer.init(jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, starting) == {"links": {"kernel": (5, 5, 1, 60)}, "bias": (16,)}
