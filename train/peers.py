"""The same training step in other frameworks, to be timed in turn with ours. Imports them inside the functions."""

import time
from collections.abc import Callable

import numpy as np

from train.errors import UserError

# name -> seconds for so many steps
Timer = Callable[[int], float]


def make(peer: str, model: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> Timer:
    """Times training steps (SGD with momentum, cross-entropy) of a peer's own network on one fixed batch (N, H, W, C)."""
    makers = {"torch": _torch, "keras": _keras}
    try:
        return makers[peer](model, images, labels, num_classes)
    except ModuleNotFoundError as error:
        raise UserError(f"--peer={peer} needs the package {error.name}: pip install {error.name}") from None


def _torch(model: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> Timer:
    import torch
    from torch import nn

    if model != "lenet5":
        raise UserError(f"--peer=torch has no {model} yet; it has lenet5")
    network = nn.Sequential(
        nn.Conv2d(images.shape[-1], 6, 5, padding=(32 - images.shape[1]) // 2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x = torch.tensor(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    y = torch.tensor(labels.astype(np.int64))

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
        return time.perf_counter() - began

    return run


def _keras(model: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> Timer:
    from train.data.tf import tf  # quiet, and without the accelerators

    keras, layers = tf.keras, tf.keras.layers
    if model != "lenet5":
        raise UserError(f"--peer=keras has no {model} yet; it has lenet5")
    network = keras.Sequential([
        layers.Input(images.shape[1:]),
        layers.ZeroPadding2D((32 - images.shape[1]) // 2), layers.Conv2D(6, 5, activation="tanh"), layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation="tanh"), layers.AveragePooling2D(2), layers.Flatten(),
        layers.Dense(120, activation="tanh"), layers.Dense(84, activation="tanh"), layers.Dense(num_classes),
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    x = images.astype(np.float32) / 255

    def run(steps: int) -> float:
        repeated = tf.data.Dataset.from_tensors((x, labels)).cache().repeat(steps)
        began = time.perf_counter()
        network.fit(repeated, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.perf_counter() - began

    return run
