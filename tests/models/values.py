"""Values for a network's variables, without compiling its initialisation."""

import jax
import numpy as np


def starting_values(shapes, seed=0):
    """An array for each shape. Kernels follow He et al. 2015, so activations keep their scale."""
    generator = np.random.default_rng(seed)

    def leaf(path, shape):
        noise = generator.standard_normal(shape.shape, np.float32)
        match path[-1].key:
            case "kernel":
                return noise * np.sqrt(2 / (shape.size // shape.shape[-1]))
            case "scale" | "var":
                return np.exp(0.1 * noise)
            case _:
                return 0.1 * noise

    return jax.tree.map_with_path(leaf, shapes)
