"""Prepares a process for a run, before anything else of jax."""

import jax

from cnnjax import get_spec
from train import own
from train.build import build_model, keeps_products
from train.config import Config
from train.data.tf import keep_off_accelerators
from train.runtime import malloc, programs, xla
from train.schema import check


def start(config: Config | None = None, recipe: str = "") -> programs.Cache | None:
    """XLA's flags, memory and the program cache, as they are best for a config.

    It also keeps TensorFlow off GPUs and TPUs.

    Args:
        config: of the training run; None for a process that only infers.
        recipe: the file, and its argument, that the config is from, where this process runs it and
            nothing else.

    Returns:
        The cache of traced steps; None where the config wants none, where there is no recipe,
        among several processes, and where code of the user's own is in the step.

    Raises:
        UserError: an option of the config has a value that it cannot have.
    """
    keep_off_accelerators()
    if config:
        check(config)
    folder = programs.cache_folder(config.parallel.compile_cache) if config else ""
    if config:
        flags = xla.tune(recomputes=recomputes(config), small=is_small(config))
    else:
        flags = xla.tune()
    malloc.keep_memory()
    if config and folder and recipe and jax.process_count() == 1 and not has_own(config):
        return programs.Cache(folder, recipe, flags)
    return None


def recomputes(config: Config) -> bool:
    """Whether a step on one CPU computes parts of its forward pass again for its gradient."""
    if own.is_own(config.model.name):
        return config.model.keep == "products"
    model = build_model(config, 1)
    return keeps_products(config, model, one_cpu=True) or getattr(model, "remat", False)


def has_own(config: Config) -> bool:
    """Whether the step has code of the user's own, whose changes the cache would not notice."""
    return any(map(own.is_own, (config.model.name, config.loss.name, config.optim.name)))


def is_small(config: Config) -> bool:
    """Whether a step works in less than 64 MiB: LeNet-5, up to 512 images."""
    if own.is_own(config.model.name):
        return False
    return get_spec(config.model.name).input_size[0] <= 32 and config.data.batch_size <= 512
