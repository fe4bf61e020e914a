"""The same networks in other frameworks, to be timed in turn with ours. Everything of theirs is imported inside functions.

Each is what its users run at its best: PyTorch eager or compiled, channels last and autocast on a GPU; Keras's `fit` and
`predict` with its own compilation. Training is SGD with momentum on cross-entropy, with auxiliary heads as told.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from train.errors import UserError

Timer = Callable[[int], float]  # seconds for so many steps

PEERS = ("torch", "torch-compile", "keras", "keras-jax")

# Our name -> (package, its name). LeNet-5 is in none of them, and is written out below.
TORCH = {
    "lenet5": ("", ""), "alexnet_owt": ("torchvision", "alexnet"),
    **{name: ("torchvision", name) for name in ("vgg11", "vgg13", "vgg16", "vgg19")},
    **{f"{name}_bn": ("torchvision", f"{name}_bn") for name in ("vgg11", "vgg13", "vgg16", "vgg19")},
    "inception_v1_bn": ("torchvision", "googlenet"), "inception_v3": ("torchvision", "inception_v3"),
    "inception_v4": ("timm", "inception_v4"), "inception_resnet_v2": ("timm", "inception_resnet_v2"),
}  # fmt: skip
KERAS = {
    "lenet5": "", "vgg16": "VGG16", "vgg19": "VGG19", "inception_v3": "InceptionV3",
    "inception_resnet_v2": "InceptionResNetV2",
}  # fmt: skip


def models(peer: str) -> list[str]:
    """Which of our models a peer has."""
    return list(TORCH if peer.startswith("torch") else KERAS)


def has_heads(peer: str, model: str) -> bool:
    """Whether a peer's network can be trained with the auxiliary heads that ours has."""
    return peer.startswith("torch") and model in ("inception_v1_bn", "inception_v3")


@functools.cache
def torchvision_models() -> Any:
    """torchvision built for CUDA fails to import over a torch for the CPU: one operator of its extension is missing."""
    from torch import library as operators

    try:
        import torchvision.models as models
    except RuntimeError:
        stub = operators.Library("torchvision", "DEF")
        stub.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        register = operators.register_fake

        def register_others(name: Any, *args: Any, **kwargs: Any) -> Any:
            ours = name.startswith("torchvision::")
            return (lambda function: function) if ours else register(name, *args, **kwargs)

        with mock.patch.object(operators, "register_fake", register_others):
            import torchvision.models as models
        models.stub = stub  # lives as long as the module does
    return models


def timm_module() -> Any:
    """timm, which imports torchvision."""
    torchvision_models()
    import timm

    return timm


def load(peer: str, model: str) -> None:
    """Imports what a peer's network needs and has it compute something: what comes after is the network's own memory."""
    try:
        if peer.startswith("torch"):
            import torch

            if TORCH[model][0] == "torchvision":
                torchvision_models()
            elif TORCH[model][0] == "timm":
                timm_module()
            torch.ones(8, 8) @ torch.ones(8, 8)
        else:
            os.environ["KERAS_BACKEND"] = (
                "jax" if peer == "keras-jax" else "tensorflow"
            )  # one for each process
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with _no_notices():
                import keras

                keras.ops.convert_to_numpy(keras.ops.ones((8, 8)) @ keras.ops.ones((8, 8)))
    except ModuleNotFoundError as error:
        raise UserError(
            f"--peer={peer} needs the package {error.name}: pip install {error.name}"
        ) from None


@contextlib.contextmanager
def _no_notices() -> Iterator[None]:
    """TensorFlow's libraries write to standard error before they can be told not to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device_memory(peer: str) -> Callable[[], int] | None:
    """Gives the most bytes that a loaded peer has had on a GPU; None where it runs on the CPU."""
    if peer.startswith("torch"):
        import torch

        return torch.cuda.max_memory_allocated if torch.cuda.is_available() else None
    if peer == "keras-jax":
        from train.benchmark.memory import device_memory

        return device_memory()
    import tensorflow as tf

    on_gpu = tf.config.list_physical_devices("GPU")
    return (lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]) if on_gpu else None


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
    """Times steps of a peer that is loaded on one fixed batch (N, H, W, C) uint8, and says where it runs."""
    maker = _torch if peer.startswith("torch") else _keras
    options = {"compiled": True} if peer == "torch-compile" else {}
    return maker(
        model, images.astype(np.float32) / 255, labels, classes, train, heads, dtype, **options
    )


# ---------------------------------------------------------------------------------------------- PyTorch


def _torch(model, images, labels, classes, train, heads, dtype, compiled=False):
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # float32 on a GPU: TF32, as jax has it by default
    torch.backends.cudnn.benchmark = True
    network = _torch_network(model, images.shape, classes, heads).to(device).train(train)
    x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    y = torch.tensor(labels.astype(np.int64), device=device)
    if device == "cuda":
        network, x = (
            network.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    call = torch.compile(network) if compiled else network
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def loss() -> Any:
        with autocast:
            logits, *aux = outputs if isinstance(outputs := call(x), tuple) else (outputs,)
            losses = [nn.functional.cross_entropy(one.float(), y) for one in (logits, *aux)]
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


def _torch_network(model: str, shape: tuple[int, ...], classes: int, heads: bool) -> Any:
    from torch import nn

    package, name = TORCH[model]
    if package == "timm":
        return timm_module().create_model(name, num_classes=classes)
    if package == "torchvision":
        inception = (
            {"init_weights": False, "aux_logits": heads} if model.startswith("inception") else {}
        )
        return torchvision_models().get_model(name, num_classes=classes, **inception)
    return nn.Sequential(
        nn.Conv2d(shape[-1], 6, 5, padding=(32 - shape[1]) // 2), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- Keras


def _keras(model, images, labels, classes, train, heads, dtype):
    import keras

    if dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    network = _keras_network(model, images.shape[1:], classes)
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


def _keras_network(model: str, shape: tuple[int, ...], classes: int) -> Any:
    import keras
    from keras import layers

    if KERAS[model]:
        build = getattr(keras.applications, KERAS[model])
        return build(weights=None, input_shape=shape, classes=classes, classifier_activation=None)
    return keras.Sequential([
        layers.Input(shape),
        layers.ZeroPadding2D((32 - shape[0]) // 2), layers.Conv2D(6, 5, activation="tanh"), layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation="tanh"), layers.AveragePooling2D(2), layers.Flatten(),
        layers.Dense(120, activation="tanh"), layers.Dense(84, activation="tanh"), layers.Dense(classes),
    ])  # fmt: skip
