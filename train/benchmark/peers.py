"""The same networks in other frameworks, to be timed in turn with ours.

A peer runs as its users run it at its best: PyTorch eager or compiled, with channels last and
autocast on a GPU; Keras by `fit` and `predict` with its own compilation. Training is SGD with
momentum on cross-entropy. Every peer's package is imported inside the functions that need it.

One class a framework, side by side.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from train.benchmark import memory
from train.errors import UserError

Timer = Callable[[int], float]  # number of steps -> seconds

PEERS = ("torch", "torch-compile", "keras", "keras-jax")

# Our name -> (package, its name). No package has LeNet-5, which is written out below.
# fmt: off
TORCH = {
    "lenet5": ("", ""),
    "alexnet_owt": ("torchvision", "alexnet"),
    **{name: ("torchvision", name) for name in ("vgg11", "vgg13", "vgg16", "vgg19")},
    **{name: ("torchvision", name) for name in ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")},
    "inception_v1_bn": ("torchvision", "googlenet"),
    "inception_v3": ("torchvision", "inception_v3"),
    "inception_v4": ("timm", "inception_v4"),
    "inception_resnet_v2": ("timm", "inception_resnet_v2"),
}
KERAS = {
    "lenet5": "",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
}
# fmt: on


def models(peer: str) -> list[str]:
    """Our names of the models that a peer has."""
    return list(TORCH if peer.startswith("torch") else KERAS)


def has_heads(peer: str, model: str) -> bool:
    """Whether a peer's network can be trained with the auxiliary heads that ours has."""
    return peer.startswith("torch") and model in ("inception_v1_bn", "inception_v3")


@functools.cache
def torchvision_models() -> Any:
    """`torchvision.models`, also where torchvision is built for CUDA and torch for the CPU.

    Importing such a pair fails, because an operator of torchvision's extension is missing. A stub
    stands in for it.
    """
    from torch import library as operators

    try:
        import torchvision.models as models
    except RuntimeError:
        stub = operators.Library("torchvision", "DEF")
        stub.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        register = operators.register_fake

        def register_others(name: Any, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("torchvision::"):
                return lambda function: function
            return register(name, *args, **kwargs)

        with mock.patch.object(operators, "register_fake", register_others):
            import torchvision.models as models
        models.stub = stub  # the operator is there as long as the stub is
    return models


def timm_module() -> Any:
    """`timm`, which imports torchvision."""
    torchvision_models()
    import timm

    return timm


def load(peer: str, model: str) -> None:
    """Imports what a peer's network needs, and has it compute something small.

    The memory that the process takes from then on is the network's own.

    Raises:
        UserError: a package is not installed.
    """
    try:
        if peer.startswith("torch"):
            import torch

            if TORCH[model][0] == "torchvision":
                torchvision_models()
            elif TORCH[model][0] == "timm":
                timm_module()
            torch.ones(8, 8) @ torch.ones(8, 8)
        else:
            # A process has one of Keras's backends.
            os.environ["KERAS_BACKEND"] = "jax" if peer == "keras-jax" else "tensorflow"
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with silence():
                import keras

                keras.ops.convert_to_numpy(keras.ops.ones((8, 8)) @ keras.ops.ones((8, 8)))
    except ModuleNotFoundError as error:
        raise UserError(
            f"--peer={peer} needs the package {error.name}: pip install {error.name}"
        ) from None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discards standard error: TensorFlow's libraries write there before they read settings."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def device_memory(peer: str) -> Callable[[], int] | None:
    """A function that returns a loaded peer's peak in bytes on a GPU; None on a CPU."""
    if peer.startswith("torch"):
        import torch

        return torch.cuda.max_memory_allocated if torch.cuda.is_available() else None
    if peer == "keras-jax":
        return memory.device_memory()
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return None
    return lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]


def make(
    peer: str,
    model: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    train: bool,
    heads: bool,
    dtype: str,
) -> tuple[Timer, dict[str, Any]]:
    """A timer of a loaded peer's steps on one fixed batch.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        train: training steps, else inference.
        heads: train the auxiliary heads too.
        dtype: float32 or bfloat16.

    Returns:
        The timer, and {"device": where it runs}.
    """
    images = images.astype(np.float32) / 255
    if peer.startswith("torch"):
        compiled = peer == "torch-compile"
        return on_torch(model, images, labels, classes, train, heads, dtype, compiled)
    return on_keras(model, images, labels, classes, train, dtype)


# ----------------------------------------------------------------------------------------- PyTorch


def on_torch(model, images, labels, classes, train, heads, dtype, compiled):
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # float32 on a GPU: TF32, as jax has it by default
    torch.backends.cudnn.benchmark = True
    network = torch_network(model, images.shape, classes, heads).to(device).train(train)
    x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    y = torch.tensor(labels.astype(np.int64), device=device)
    if device == "cuda":
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    call = torch.compile(network) if compiled else network
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def loss() -> Any:
        with autocast:
            outputs = call(x)
            logits, *aux = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [nn.functional.cross_entropy(part.float(), y) for part in (logits, *aux)]
            return losses[0] + 0.3 * sum(losses[1:]) / max(1, len(aux))

    def step() -> None:
        if train:
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()
        else:
            with torch.inference_mode(), autocast:
                call(x)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return run, {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def torch_network(model: str, shape: tuple[int, ...], classes: int, heads: bool) -> Any:
    """A network for images of shape (N, H, W, C)."""
    from torch import nn

    package, name = TORCH[model]
    if package == "timm":
        return timm_module().create_model(name, num_classes=classes)
    if package == "torchvision":
        inception = model.startswith("inception")
        options = {"init_weights": False, "aux_logits": heads} if inception else {}
        return torchvision_models().get_model(name, num_classes=classes, **options)
    # fmt: off
    return nn.Sequential(
        nn.Conv2d(shape[-1], 6, 5, padding=(32 - shape[1]) // 2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes),
    )
    # fmt: on


# ------------------------------------------------------------------------------------------- Keras


def on_keras(model, images, labels, classes, train, dtype):
    import keras

    if dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    network = keras_network(model, images.shape[1:], classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    on_jax = keras.backend.backend() == "jax"

    def repeated(steps: int) -> Any:
        values = (images, labels) if train else (images,)
        if on_jax:
            return (values for _ in range(steps))
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(values).cache().repeat(steps)

    def run(steps: int) -> float:
        batches = repeated(steps)
        began = time.perf_counter()
        if train:
            network.fit(batches, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
        else:
            network.predict(batches, steps=steps, verbose=0)
        return time.perf_counter() - began

    if on_jax:
        import jax

        return run, {"device": jax.devices()[0].device_kind}
    import tensorflow as tf

    return run, {"device": "gpu" if tf.config.list_physical_devices("GPU") else "cpu"}


def keras_network(model: str, shape: tuple[int, ...], classes: int) -> Any:
    """A network for images of shape (H, W, C)."""
    import keras
    from keras import layers

    if KERAS[model]:
        build = getattr(keras.applications, KERAS[model])
        return build(weights=None, input_shape=shape, classes=classes, classifier_activation=None)
    # fmt: off
    return keras.Sequential([
        layers.Input(shape), layers.ZeroPadding2D((32 - shape[0]) // 2),
        layers.Conv2D(6, 5, activation="tanh"), layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation="tanh"), layers.AveragePooling2D(2), layers.Flatten(),
        layers.Dense(120, activation="tanh"), layers.Dense(84, activation="tanh"),
        layers.Dense(classes),
    ])
    # fmt: on
