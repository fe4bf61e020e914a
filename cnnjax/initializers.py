"""The initial distributions that the papers and their reference implementations name."""

import jax
import jax.numpy as jnp
from flax.linen import initializers


def lecun_uniform_1998(key, shape, dtype=jnp.float32):
    """U(-2.4 / fan_in, 2.4 / fan_in) for kernels (…, in, out): LeCun et al. 1998, appendix A."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return jax.random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)


# Glorot & Bengio 2010; the default of Keras and of TF-slim layers without an override.
glorot_uniform = initializers.glorot_uniform()
