"""Schedules and optimizers against formulas in numpy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import optim
from train.errors import UserError


def test_cosine_with_warm_up():
    schedule = optim.make_schedule("cosine", 0.4, steps=110, warmup=10)
    np.testing.assert_allclose(
        [schedule(t) for t in range(11)], 0.4 * np.arange(11) / 10, rtol=1e-6
    )
    for t in range(10, 111):
        np.testing.assert_allclose(
            schedule(t), 0.2 * (1 + np.cos(np.pi * (t - 10) / 100)), atol=1e-7
        )


def test_steps_count_from_the_start_of_the_run():
    schedule = optim.make_schedule("step", 0.1, steps=100, warmup=5, decay_every=30, decay_rate=0.1)
    expected = {5: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 99: 0.0001}
    for t, rate in expected.items():
        np.testing.assert_allclose(schedule(t), rate, rtol=1e-5)


def test_constant():
    assert {float(optim.make_schedule("constant", 0.5, steps=10)(t)) for t in range(10)} == {0.5}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_for_fifty_steps(nesterov):
    random = np.random.RandomState(0)
    params = {"kernel": random.randn(3, 4), "bias": random.randn(4)}
    gradients = [{name: random.randn(*p.shape) for name, p in params.items()} for _ in range(50)]
    schedule = optim.make_schedule("cosine", 0.1, steps=50, warmup=5)
    tx = optim.make_optimizer("sgd", schedule, momentum=0.9, nesterov=nesterov, weight_decay=0.01)

    ours = {name: jnp.array(p, jnp.float32) for name, p in params.items()}
    opt_state = tx.init(ours)
    velocity = {name: np.zeros_like(p) for name, p in params.items()}
    for t, gradient in enumerate(gradients):
        updates, opt_state = tx.update(
            {n: jnp.array(g, jnp.float32) for n, g in gradient.items()}, opt_state, ours
        )
        ours = optax.apply_updates(ours, updates)
        for name in params:
            g = gradient[name] + (
                0.01 * params[name] if name == "kernel" else 0
            )  # decay spares the bias
            velocity[name] = 0.9 * velocity[name] + g
            params[name] = params[name] - float(schedule(t)) * (
                g + 0.9 * velocity[name] if nesterov else velocity[name]
            )
    for name in params:
        np.testing.assert_allclose(ours[name], params[name], atol=1e-5)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean cosine"):
        optim.make_schedule("cosin", 0.1, steps=1)
    with pytest.raises(UserError, match="'sdg' is unknown; did you mean sgd"):
        optim.make_optimizer("sdg", optax.constant_schedule(0.1))
