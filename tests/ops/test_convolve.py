"""Every way of convolving has the values and gradients of `lax.conv_general_dilated`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.ops.convolve import convolve

# The dimension numbers that nn.Conv passes.
NUMBERS = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
CASES = {  # name: image, kernel, strides, padding, groups
    "banded": ((2, 12, 12, 1), (5, 5, 1, 6), 1, "VALID", 1),
    "banded, padded": ((2, 9, 11, 3), (3, 3, 3, 4), 1, "SAME", 1),
    "banded, prime width": ((2, 9, 11, 6), (5, 5, 6, 16), 1, "VALID", 1),
    "whole": ((3, 5, 5, 8), (5, 5, 8, 12), 1, "VALID", 1),
    "covered": ((3, 2, 2, 8), (3, 3, 8, 12), 1, "SAME", 1),
    "covered, one pixel": ((3, 1, 1, 8), (5, 3, 8, 12), 1, "SAME", 1),
    "covered, strided": ((3, 4, 3, 8), (7, 3, 8, 12), 2, "SAME", 1),
    "covered, uneven edges": ((3, 3, 4, 8), (4, 5, 8, 12), 1, ((2, 5), (4, 0)), 1),
    "covered, edges cut off": ((3, 4, 3, 8), (2, 7, 8, 12), 1, ((-1, 1), (6, 3)), 1),
    "as wide as the image": ((2, 9, 5, 20), (3, 5, 20, 30), 1, "VALID", 1),
    "pointwise": ((2, 7, 5, 20), (1, 1, 20, 24), 1, "SAME", 1),
    "pointwise, strided": ((2, 7, 5, 20), (1, 1, 20, 24), 2, "SAME", 1),
    "pointwise, padded": ((2, 7, 5, 20), (1, 1, 20, 24), 1, ((1, 1), (0, 2)), 1),
    "pointwise, groups": ((2, 7, 5, 20), (1, 1, 10, 24), 1, "VALID", 2),
    "tiles": ((4, 9, 15, 160), (3, 3, 160, 176), 1, "SAME", 1),
    "tiles, odd rows": ((6, 13, 12, 160), (3, 3, 160, 160), 1, "VALID", 1),
    "overhung": ((2, 9, 11, 20), (3, 3, 20, 24), 1, "VALID", 1),
    "overhung, high": ((2, 9, 11, 20), (7, 1, 20, 24), 1, "VALID", 1),
    "overhung, wide": ((2, 9, 11, 20), (1, 7, 20, 24), 1, ((0, 0), (0, 0)), 1),
    "groups": ((2, 9, 11, 20), (3, 3, 10, 24), 1, "VALID", 2),
    "groups, strided": ((2, 23, 21, 3), (7, 7, 1, 24), 2, "SAME", 3),
    "groups, a channel each": ((2, 9, 11, 20), (3, 3, 1, 40), 1, "VALID", 20),
    "padded": ((2, 9, 11, 20), (3, 3, 20, 24), 1, "SAME", 1),
    "a column": ((2, 17, 17, 20), (7, 1, 20, 24), 1, "SAME", 1),
    "strided": ((2, 9, 11, 20), (3, 3, 20, 24), 2, "VALID", 1),
    "strided, few channels": ((2, 23, 21, 3), (7, 7, 3, 16), 2, "SAME", 1),
    "strided, each way": ((2, 9, 14, 20), (3, 4, 20, 24), (2, 3), "SAME", 1),
    "strided, beyond the kernel": ((2, 9, 14, 20), (2, 1, 20, 24), 3, "VALID", 1),
    "folded": ((1, 70, 67, 3), (7, 7, 3, 8), 2, "SAME", 1),
    "folded, even kernel": ((1, 66, 68, 3), (2, 4, 3, 8), 2, "VALID", 1),
    "folded, beyond the kernel": ((1, 66, 67, 3), (2, 2, 3, 8), 3, "VALID", 1),
    "overhung, edges cut off": ((2, 12, 14, 20), (3, 3, 20, 24), 1, ((-1, 1), (0, -2)), 1),
    "folded, left over": ((1, 67, 70, 3), (11, 11, 3, 8), 4, ((2, 2), (2, 2)), 1),
}


def both(name):
    """`convolve`, the plain convolution, and operands for them."""
    image, kernel, strides, padding, groups = CASES[name]
    options = dict(
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=NUMBERS,
        feature_group_count=groups,
        precision=None,
    )
    keys = jax.random.split(jax.random.key(0))
    operands = jax.random.normal(keys[0], image), jax.random.normal(keys[1], kernel)
    ways = (
        lambda x, k, way=way: way(x, k, np.broadcast_to(strides, 2).tolist(), padding, **options)
        for way in (convolve, lax.conv_general_dilated)
    )
    return *ways, operands


def assert_close(ours, plain):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("name", "handed_over"),
    [(name, True) for name in CASES]
    + [(name, False) for name in CASES if name.startswith(("overhung", "folded"))],
)
def test_values_and_gradients(name, handed_over, monkeypatch):
    monkeypatch.setattr("cnnjax.ops.platform._ynnpack", handed_over)
    ours, plain, operands = both(name)

    @jax.jit
    def everything(x, k):
        found = []
        for way in (ours, plain):
            y, back = jax.vjp(way, x, k)
            found.append((y, back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
        return found

    assert_close(*everything(*operands))


@pytest.mark.parametrize(
    "name",
    ["banded", "whole", "covered", "pointwise", "tiles", "strided", "overhung", "folded", "groups"],
)
def test_other_transformations(name):
    """Forward-mode derivatives, and `vmap`."""
    ours, plain, (x, k) = both(name)
    assert_close(
        *(
            jax.jit(lambda x, k, way=way: jax.jvp(way, (x, k), (x, k)))(x, k)
            for way in (ours, plain)
        )
    )
    assert_close(
        *(jax.jit(jax.vmap(way, (0, None)))(jnp.stack([x, 2 * x]), k) for way in (ours, plain))
    )


@pytest.mark.parity
def test_tiles_have_a_rule_of_their_own_for_one_argument_and_for_a_gradient_of_a_gradient():
    *ways, operands = both("tiles, odd rows")

    def found(way):
        def total(x, k):
            return (way(x, k) ** 3).mean()

        slopes = jax.grad(total, (0, 1))
        return (
            jax.grad(total, 0)(*operands),
            jax.grad(total, 1)(*operands),
            jax.jvp(slopes, operands, operands)[1],
        )

    hasty = {"xla_backend_optimization_level": 0}
    ours, plain = (
        jax.jit(lambda way=way: found(way)).lower().compile(compiler_options=hasty)()
        for way in ways
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    "name", ["banded", "whole", "covered", "pointwise", "tiles", "strided", "overhung", "folded"]
)
def test_no_images_give_no_results(name):
    ours, plain, (x, k) = both(name)
    assert ours(x[:0], k).shape == plain(x[:0], k).shape


@pytest.mark.parametrize("name", ["banded", "pointwise", "tiles", "strided", "overhung", "padded"])
def test_bfloat16_stays(name):
    ours, plain, operands = both(name)
    operands = [value.astype(jnp.bfloat16) for value in operands]
    found, expected = ours(*operands), plain(*operands)
    assert found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.1
    )


@pytest.mark.parametrize("name", ["banded", "pointwise", "tiles", "strided", "overhung", "groups"])
def test_accelerators_get_the_plain_convolution(name):
    ours, plain, (x, k) = both(name)

    def operations(way, platform):
        text = jax.jit(way).trace(x, k).lower(lowering_platforms=(platform,)).as_text()
        found = [
            line.partition("stablehlo.")[2] for line in text.splitlines() if "= stablehlo." in line
        ]
        return [line for line in found if not line.startswith("constant")]  # the platform's number

    for platform in ("cuda", "tpu"):
        assert operations(ours, platform) == operations(plain, platform)
    assert operations(ours, "cpu") != operations(plain, "cpu")


@pytest.mark.parametrize("name", ["tiles", "tiles, odd rows"])
def test_tiles_are_sixteen_products(name):
    ours, _, operands = both(name)
    text = jax.jit(ours).trace(*operands).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.dot_general") == 16 and "stablehlo.convolution" not in text
