"""The trainer as one call, for networks, losses, optimizers and data of the caller's own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax

from train import own
from train.build import DTYPES, Given
from train.config import Config
from train.errors import UserError
from train.loop import train as run


def fit(
    config: Config,
    workdir: str,
    *,
    model: nn.Module | None = None,
    loss: Callable | None = None,
    train: Any = None,
    evaluation: Any = None,
    tx: optax.GradientTransformation | None = None,
) -> dict[str, Any]:
    """Trains in a run folder; the same call resumes it.

    What is given takes the place of what the config names. Everything else is as with
    `python -m train`: checkpoints, moving averages, evaluation, devices, metrics.jsonl. The run
    folder remembers the network and the loss where they are defined at the top of a module, and the
    images of the evaluation where they fit into memory, so that evaluate, predict, report and
    export find them.

    Args:
        config: the rest, for example `Config(epochs=10)`.
        workdir: the run folder; made if it is missing.
        model: a Flax network. It maps images (N, H, W, C) to logits (N, K) or `cnnjax.Outputs`, and
            may take `train`. K is the number of classes, or more where it has a field
            `num_classes` that says so.
        loss: (outputs, labels) -> loss, or (loss, dict of further numbers for the log). `outputs`
            are `cnnjax.Outputs`; labels (n,) are integers, or (n, K) shares where they are mixed or
            an image has several.
        train: data to learn from: (images, labels) as arrays, or anything with `__len__` and
            `__getitem__` that gives (image, label); see `train.data.sources.objects.wrap`.
        evaluation: data to evaluate on, likewise; by default a fifth of each class of `train`.
        tx: an optax optimizer, in place of `config.optim`, of which only `ema` and `lr_scale`'s
            freezing of BatchNorm remain.

    Returns:
        The last evaluation, the step, and the speed.

    Raises:
        UserError: and its subclasses; each says in one sentence what is wrong.

    >>> fit(Config(epochs=2), "runs/own", model=Net(10), train=(images, labels))["step"]
    96
    """
    own.check_not_loading()
    if evaluation is not None and train is None:
        raise UserError("fit: evaluation needs train, too")
    if model is not None and not isinstance(model, nn.Module):
        raise UserError(f"fit: model must be a network, such as Net(10), got {model!r}")
    if loss is not None and not callable(loss):
        raise UserError(f"fit: loss must be a function; name one of ours in the config: {loss!r}")
    if tx is not None and not isinstance(tx, optax.GradientTransformation):
        raise UserError(f"fit: tx must be an optimizer, such as optax.adam(1e-3), got {tx!r}")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model),
        loss=dataclasses.replace(config.loss),
        optim=dataclasses.replace(config.optim),
        data=dataclasses.replace(config.data),
    )
    given = Given(model=model, loss=loss, tx=tx)
    if model is not None:
        config.model.name, config.model.options = own.describe(model)
        config.model.num_classes = getattr(model, "num_classes", 0)
        dtype = jnp.dtype(getattr(model, "dtype", None) or jnp.float32).name
        config.model.dtype = dtype if dtype in DTYPES else "float32"
    if loss is not None:
        config.loss.name = own.reference(loss)
    if tx is not None:
        config.optim.name, config.optim.options = own.HANDED, {}
    if train is not None:
        from train.data.sources import objects

        config.data.source = own.HANDED
        learnt = objects.wrap(train, "train")
        if evaluation is None:
            learnt, asked = objects.halves(learnt)
        else:
            asked = objects.wrap(evaluation, "evaluation", learnt.class_names)
        given = given._replace(train=learnt, evaluation=asked)
    return run(config, workdir, given=given)
