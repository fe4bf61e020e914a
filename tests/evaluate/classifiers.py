"""A small classifier and small photographs, for all protocols."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models.layers import Outputs
from tests.data.pictures import write_folder
from train import data, step
from train.classifier import Classifier
from train.config import Data, Transform

CLASSES = ("ant", "bee", "cat", "dog")


class Tiny(nn.Module):
    """Two convolutions and a global average: it depends on places, and takes images of any size."""

    num_classes: int = 4
    dense: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(8, (5, 5), strides=2, name="conv1")(x))
        x = nn.relu(nn.Conv(16, (3, 3), strides=2, name="conv2")(x))
        features = x.mean((1, 2))
        return Outputs(nn.Dense(self.num_classes, name="head")(features) * 5, (), features)


def make(root, size=32, seed=0, style="torchvision", batch=8, classes=CLASSES):
    model = Tiny(len(classes))
    variables = model.init(jax.random.key(seed), jnp.zeros((1, size, size, 3)))
    config = Data(
        source=f"folder:{root}",
        eval_split="val",
        size=size,
        eval_batch_size=batch,
        transform=Transform(style),
    )
    preprocess = partial(step.normalize, mean=(0.5,), std=(0.25,))
    label, shape = f"seed{seed}", (size, size, 3)
    return Classifier("tiny", label, model, variables, preprocess, config, shape, classes)


def random_variables(model, image_shape, seed=0):
    """Random values for all of a network's variables; its maps neither explode nor vanish."""
    shapes = jax.eval_shape(
        lambda: model.init({"params": jax.random.key(0)}, jnp.zeros((1, *image_shape)))
    )
    rng = np.random.default_rng(seed)

    def of_leaf(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return rng.uniform(0.8, 1.25, leaf.shape).astype(np.float32)
        if len(leaf.shape) < 2:
            return 0.1 * rng.standard_normal(leaf.shape, np.float32)
        scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return scale * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map_with_path(of_leaf, shapes)


def photos(root, held_out=4):
    """Writes a folder of wide and high photographs; returns the split to evaluate."""
    write_folder(root, CLASSES, train=1, held_out=held_out, height=60, width=83)
    write_folder(root / "high", ("x",), train=1, held_out=1, height=90, width=47)
    (root / "high/val/x/000.jpg").rename(root / "val/bee/high.jpg")
    for path in sorted((root / "high").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "high").rmdir()
    return data.load(f"folder:{root}", "val")
