"""Every optimizer and schedule for fifty steps against a few lines of numpy, and RMSProp against
TensorFlow's own kernel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import optim
from train.errors import UserError
from train.schema import CHOICES

STEPS = 50
RANDOM = np.random.RandomState(0)
PARAMS = {
    "conv1": {"kernel": RANDOM.randn(3, 4), "bias": RANDOM.randn(4)},
    "bn": {"bias": RANDOM.randn(4)},
}
GRADIENTS = [jax.tree.map(lambda p: RANDOM.randn(*p.shape), PARAMS) for _ in range(STEPS)]
SCHEDULE = optim.make_schedule("cosine", 0.1, steps=STEPS, warmup=5)


def single(tree):
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), tree)


def run(**options):
    """Parameters after fifty steps on the gradients above."""
    tx = optim.make_optimizer(options.pop("name"), SCHEDULE, **options)

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = single(PARAMS)
    state = tx.init(params)
    for gradient in GRADIENTS:
        params, state = step(params, state, single(gradient))
    return params


def reference(update, gradients=GRADIENTS):
    """The same in float64: update(memory, path, t, rate, p, g) -> new p, a leaf at a time."""
    params, memory = jax.tree.map(np.copy, PARAMS), {}
    for t, gradient in enumerate(gradients):
        rate = float(SCHEDULE(t))

        def one(path, p, g, t=t, rate=rate):
            return update(memory.setdefault(path, {}), path[-1].key, t, rate, p, g)

        params = jax.tree.map_with_path(one, params, gradient)
    return params


def close(actual, expected, rtol=2e-6):
    # Relative to the size of the parameters, which the steps of float32 are too.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), actual, expected
    )


def is_kernel(name):
    return name == "kernel"


@pytest.mark.parametrize("lr_inside", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(lr_inside, nesterov):
    def update(memory, name, t, rate, p, g):
        g = g + 0.01 * p * is_kernel(name)
        g = rate * g if lr_inside else g
        v = memory["v"] = 0.9 * memory.get("v", 0) + g
        return p - (1 if lr_inside else rate) * (g + 0.9 * v if nesterov else v)

    close(
        run(name="sgd", lr_inside=lr_inside, nesterov=nesterov, weight_decay=0.01),
        reference(update),
    )


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_rmsprop(epsilon):
    def update(memory, name, t, rate, p, g):
        g = g + 0.01 * p * is_kernel(name)
        s = memory["s"] = 0.9 * memory.get("s", 1.0) + 0.1 * g**2
        v = memory["v"] = 0.9 * memory.get("v", 0) + rate * g / np.sqrt(s + epsilon)
        return p - v

    close(run(name="rmsprop", epsilon=epsilon, weight_decay=0.01), reference(update))


def test_rmsprop_is_tensorflow_s():
    import tensorflow as tf

    slots = {}

    def update(memory, name, t, rate, p, g):
        if not memory:
            memory.update(
                var=tf.Variable(np.float32(p)), ms=tf.Variable(np.ones_like(p, np.float32))
            )
            memory["mom"] = tf.Variable(np.zeros_like(p, np.float32))
        tf.raw_ops.ResourceApplyRMSProp(
            var=memory["var"].handle,
            ms=memory["ms"].handle,
            mom=memory["mom"].handle,
            lr=np.float32(rate),
            rho=np.float32(0.9),
            momentum=np.float32(0.9),
            epsilon=np.float32(1.0),
            grad=np.float32(g),
        )
        slots[id(memory)] = memory
        return memory["var"].numpy()

    close(run(name="rmsprop", epsilon=1.0), reference(update))


def adam_direction(memory, t, g, epsilon=1e-6):
    m = memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    s = memory["s"] = 0.999 * memory.get("s", 0) + 0.001 * g**2
    return (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(s / (1 - 0.999 ** (t + 1))) + epsilon)


def test_adamw():
    def update(memory, name, t, rate, p, g):
        return p - rate * (adam_direction(memory, t, g) + 0.01 * p * is_kernel(name))

    close(
        run(name="adamw", epsilon=1e-6, weight_decay=0.01), reference(update), rtol=1e-5
    )  # float32 cancels in 1 - beta2^t


def test_lamb():
    def update(memory, name, t, rate, p, g):
        direction = adam_direction(memory, t, g) + 0.01 * p * is_kernel(name)
        return p - rate * np.linalg.norm(p) / np.linalg.norm(direction) * direction

    close(run(name="lamb", epsilon=1e-6, weight_decay=0.01), reference(update), rtol=1e-5)


def test_lars():
    def update(memory, name, t, rate, p, g):
        if is_kernel(name):
            g = g + 0.01 * p
            g = 0.001 * np.linalg.norm(p) / np.linalg.norm(g) * g
        v = memory["v"] = 0.9 * memory.get("v", 0) + rate * g
        return p - v

    close(run(name="lars", weight_decay=0.01), reference(update))


def test_clipping_bounds_the_norm_of_all_gradients_together():
    norms = [
        np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient))) for gradient in GRADIENTS
    ]
    assert min(norms) < 4.5 < max(norms)  # both cases occur
    factors = [min(1, 4.5 / norm) for norm in norms]
    clipped = [
        jax.tree.map(lambda g, by=by: g * by, gradient) for gradient, by in zip(GRADIENTS, factors)
    ]

    def update(memory, name, t, rate, p, g):
        v = memory["v"] = 0.9 * memory.get("v", 0) + g
        return p - rate * v

    close(run(name="sgd", clip=4.5), reference(update, clipped))


def test_rates_by_parameter_and_frozen_ones():
    def update(memory, name, t, rate, p, g):
        v = memory["v"] = 0.9 * memory.get("v", 0) + g
        return p - rate * (2 if name == "bias" else 1) * v

    rules = ("^bn/=0", "bias$=2")
    actual, expected = run(name="sgd", lr_scale=rules), reference(update)
    np.testing.assert_array_equal(actual["bn"]["bias"], np.float32(PARAMS["bn"]["bias"]))
    close(actual["conv1"], expected["conv1"])

    # What is frozen counts neither for the norm nor for weight decay.
    clipped = run(name="sgd", lr_scale=rules, clip=1.0, weight_decay=0.1, decay_what="all")
    np.testing.assert_array_equal(clipped["bn"]["bias"], np.float32(PARAMS["bn"]["bias"]))


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (("bias",), "takes rules such as 'bias$=2', got 'bias'"),
        (("(=1",), "takes rules such as"),
        (
            ("bias$=2", "fc9=1"),
            "no parameter is left for optim.lr_scale='fc9'; the layers are bn, conv1",
        ),
    ],
)
def test_rules_that_fit_nothing(rules, sentence):
    with pytest.raises(UserError) as caught:
        optim.rate_factors(PARAMS, rules)
    assert sentence in str(caught.value)


def test_what_decays():
    masks = {what: optim.decayed(PARAMS, what) for what in CHOICES["optim.decayed"]}
    assert masks["kernels"] == {"conv1": {"kernel": True, "bias": False}, "bn": {"bias": False}}
    assert masks["biases"] == {"conv1": {"kernel": True, "bias": True}, "bn": {"bias": False}}
    assert all(jax.tree.leaves(masks["all"]))
    with pytest.raises(UserError, match=r"optim\.decayed='bias' is unknown; did you mean biases"):
        optim.decayed(PARAMS, "bias")


T = np.arange(STEPS)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("exponential", dict(decay_every=7, decay_rate=0.94), 0.1 * 0.94 ** (T / 7)),
        ("step", dict(decay_every=7, decay_rate=0.94), 0.1 * 0.94 ** (T // 7)),
        (
            "step",
            dict(decay_every=10, decay_rate=0.1, floor=0.01),
            0.1 * np.maximum(0.01, 0.1 ** (T // 10)),
        ),
        ("polynomial", dict(power=0.5), 0.1 * (1 - T / STEPS) ** 0.5),
        (
            "piecewise",
            dict(boundaries=(10, 30), factors=(0.4, 0.2)),
            0.1 * np.select([T < 10, T < 30], [1, 0.4], 0.2),
        ),
        ("cosine", {}, 0.05 * (1 + np.cos(np.pi * T / STEPS))),
        ("plateau", {}, np.full(STEPS, 0.1)),
    ],
)
def test_schedules(name, options, expected):
    schedule = optim.make_schedule(name, 0.1, steps=STEPS, **options)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.array(T)), expected, rtol=1e-5, atol=1e-8)

    warm = jax.vmap(optim.make_schedule(name, 0.1, steps=STEPS, warmup=5, **options))(jnp.array(T))
    np.testing.assert_allclose(warm[:5], 0.02 * T[:5], rtol=1e-6)
    if name in ("cosine", "polynomial"):
        assert warm[5] == pytest.approx(0.1)
    else:
        np.testing.assert_allclose(warm[5:], expected[5:], rtol=1e-5)


def test_piecewise_needs_pairs():
    with pytest.raises(UserError, match=r"as many optim\.factors as optim\.boundaries"):
        optim.make_schedule("piecewise", 0.1, steps=9, boundaries=(3, 2), factors=(1.0, 1.0))


def test_a_plateau_reduces_the_rate_of_what_comes_next():
    plateau = optim.Plateau(factor=0.1, patience=2, floor=0.01)
    tx = optim.make_optimizer(
        "sgd", optax.constant_schedule(1.0), momentum=0.0, plateau=plateau.scale
    )
    params = {"kernel": jnp.ones((2, 2))}
    state = tx.init(params)
    rates = []
    for top1 in (
        0.5,
        0.6,
        0.6,
        0.55,
        0.61,
        0.6,
        0.6,
        0.6,
        0.6,
    ):  # reduced after the 4th, the 7th and never below 0.01
        state = plateau.observe(state, top1)
        updates, state = tx.update(params, state, params)
        rates.append(-float(updates["kernel"][0, 0]))
        assert optim.plateau_factor(state) == pytest.approx(rates[-1])
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01], rtol=1e-6)
    assert optim.plateau_factor(optax.sgd(0.1).init(params)) == 1
