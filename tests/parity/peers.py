"""Other people's networks with random values, and how closely ours follow them."""

import contextlib
import dataclasses
import math
import time
import warnings

import jax
import numpy as np

from cnnjax import weights
from cnnjax.stages import apply_with_stages
from train.benchmark.peers import timm_module, torchvision_models

__all__ = ["timm_module", "torchvision_models"]

LIMIT = 5e-5  # the largest difference, as a share of the standard deviation of what is compared


def randomise(network, seed=0):
    """Random values for every parameter and statistic, such that maps neither explode nor vanish
    over 50 layers.

    He-scaled kernels keep the variance after a ReLU; scales and variances of BatchNorm vary around
    1 by a quarter, and means and shifts are large enough for an exchanged or a forgotten one to
    show.
    """
    import torch

    key = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                fan_in = math.prod(module.weight.shape[1:])
                module.weight.normal_(0, math.sqrt(2 / fan_in), generator=key)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=key)
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                for values in (module.weight, module.running_var):
                    values.uniform_(0.8, 1.25, generator=key)
                for values in (module.bias, module.running_mean):
                    values.normal_(0, 0.1, generator=key)
    return network.eval()


def modules(ours, theirs, letters):
    """Names of Inception modules, `{5: "bc"}` of 5b and 5c: ours -> theirs."""
    return {
        f"{ours}{i}{letter}": f"{theirs}{i}{letter}" for i, row in letters.items() for letter in row
    }


def images(size, batch=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)


def theirs(network, x, stages):
    """Logits of a torch network, and the maps after the modules that `stages` names, in our order
    of axes.
    """
    import torch

    maps, hooks = {}, []
    for name, path in stages.items():

        def keep(module, inputs, output, name=name):
            maps[name] = output.detach().clone().numpy()

        hooks.append(network.get_submodule(path).register_forward_hook(keep))
    with torch.no_grad():
        logits = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    return logits, {
        name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        for name, value in maps.items()
    }


def ours(pretrained, x, train=False):
    """`Outputs` of our network, and every stage."""
    mutable = ["batch_stats"] if train else []
    rngs = {"dropout": jax.random.key(0)}

    @jax.jit
    def apply(variables, x):
        (outputs, _), stages = apply_with_stages(
            pretrained.model, variables, x, train=train, mutable=mutable, rngs=rngs
        )
        return outputs, stages

    return jax.tree.map(np.asarray, apply(pretrained.variables, x))


def difference(a, b):
    """The largest difference, as a share of b's standard deviation."""
    b = np.asarray(b, np.float64)
    return float(np.abs(np.asarray(a, np.float64).reshape(b.shape) - b).max() / b.std())


def compare(name, pretrained, network, size, stages):
    """Asserts that logits and all named stages agree; returns nothing, prints the largest
    differences.
    """
    x = images(size)
    start = time.perf_counter()
    expected, their_maps = theirs(network, x, stages)
    outputs, our_maps = ours(pretrained, x)
    worst = {stage: difference(our_maps[stage], value) for stage, value in their_maps.items()}
    logits = difference(outputs.logits, expected)
    where = max(worst, key=worst.get)
    print(
        f"{name} at {size}: logits {logits:.1e}, {len(worst)} stages, "
        f"worst {where} {worst[where]:.1e}; "
        f"std {float(expected.std()):.2g}; {time.perf_counter() - start:.1f} s"
    )
    assert set(stages) <= set(our_maps), set(stages) - set(our_maps)
    assert logits <= LIMIT
    assert worst[where] <= LIMIT, (where, worst[where])


def load(path, model, source, **options):
    """`weights.load` of a file of our own making: there is no record of it, or it has not the
    published hash.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", weights.WeightsWarning)
        return weights.load(path, model, source, **options)


# ----------------------------------------------------------------------------------------------
# auxiliary heads


def without_dropout(pretrained, **fields):
    """And with other values of some fields."""
    names = [name for name in ("dropout", "aux_dropout") if hasattr(pretrained.model, name)]
    model = pretrained.model.clone(**dict.fromkeys(names, 0.0), **fields)
    return dataclasses.replace(pretrained, model=model)


@contextlib.contextmanager
def training(network, frozen):
    """torch's network in training, dropout off, BatchNorm frozen or not; as it was before
    afterwards.
    """
    import torch

    state = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d) and frozen:
            module.eval()
    yield
    network.eval().load_state_dict(state)


def their_logits(network, x):
    """Of the classifier, then of the heads, the one nearest the input first: torchvision gives the
    deepest first.
    """
    import torch

    with torch.no_grad():
        logits, *aux = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return logits, *aux[::-1]


def compare_heads(name, pretrained, network, size):
    """As `compare`, of the auxiliary logits: as in training, but with moving statistics and without
    dropout.
    """
    x = images(size)
    with training(network, frozen=True):
        expected = their_logits(network, x)
    outputs, _ = ours(without_dropout(pretrained, bn_frozen=True), x, train=True)
    found = [
        difference(a, b) for a, b in zip((outputs.logits, *outputs.aux), expected, strict=True)
    ]
    print(
        f"{name} with heads at {size}: logits {found[0]:.1e}, heads",
        *(f"{value:.1e}" for value in found[1:]),
    )
    assert max(found) <= LIMIT
