"""Initial distributions that the papers and their reference implementations name."""

import math

import jax
import jax.numpy as jnp
from flax.linen import initializers


def lecun_uniform_1998(key, shape, dtype=jnp.float32):
    """U(-2.4 / fan_in, 2.4 / fan_in) for kernels (…, in, out): LeCun et al. 1998, appendix A."""
    fan_in = math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)


# Glorot, Bengio 2010: the default of Keras and TF-slim.
glorot_uniform = initializers.glorot_uniform()

# He et al. 2015, truncated at two standard deviations: TF-slim's convolutions in Inception v1-v4.
he_normal = initializers.he_normal()


def truncated_normal(std: float):
    """N(0, std²) cut off at two std, as in TensorFlow and torch; its own deviation is 0.88 std."""
    return initializers.truncated_normal(std)


def torch_uniform(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for kernels and biases."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init
