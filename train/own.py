"""Things of the user's own that options name: networks, losses, optimizers, data, changes.

A reference is package.module:name or path/file.py:name. `train.fit` takes the things themselves;
the run folder remembers a reference where one leads to them.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cnnjax import Outputs, create_model, list_models
from cnnjax.spelling import choice
from train import files
from train.errors import UserError

HANDED = "(object)"  # in place of a name: what `train.fit` was given, and no file defines
_loading: list[str] = []  # references that are being loaded


def is_reference(name: str) -> bool:
    return ":" in name


def is_own(name: str) -> bool:
    """Whether an option names something of the user's own instead of one of ours."""
    return is_reference(name) or name == HANDED


def load(reference: str, option: str) -> Any:
    """What a reference leads to.

    Args:
        reference: package.module:name or path/file.py:name.
        option: that holds it, for messages.

    Raises:
        UserError: the reference is malformed, or nothing can be loaded there.
    """
    if reference == HANDED:
        raise UserError(
            f"{option} was given to train.fit as an object that no file defines; to find it again, "
            "define it at the top of a module"
        )
    place, _, name = reference.rpartition(":")
    if not (place and name):
        raise UserError(
            f"{option}={reference!r} must read package.module:name or path/file.py:name"
        )
    try:
        with _loaded(reference):
            module = files.load_module if place.endswith(".py") else importlib.import_module
            return getattr(module(place), name)
    except Exception as error:
        raise UserError(
            f"{option}={reference!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from None


@contextmanager
def _loaded(reference: str) -> Iterator[None]:
    _loading.append(reference)
    try:
        yield
    finally:
        _loading.pop()


def check_not_loading() -> None:
    """Raises UserError where a script that trains is being loaded for what it defines."""
    if _loading:
        raise UserError(
            f"{_loading[-1]} starts a training when it is loaded; put the call under "
            "if __name__ == '__main__':"
        )


def reference(thing: Any) -> str:
    """The reference that leads to a class or a function; HANDED where none does."""
    name, module = getattr(thing, "__qualname__", ""), str(getattr(thing, "__module__", ""))
    place = module
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        file = getattr(sys.modules["__main__"], "__file__", None)
        place = spec.name if spec else os.path.abspath(file) if file else ""
    found = getattr(sys.modules.get(module), name, None) if name.isidentifier() else None
    if not place or found is not thing:
        return HANDED
    return f"{place}:{name}"


# Networks


class Network(nn.Module):
    """A network of the user's own, as the trainer calls one: it returns `cnnjax.Outputs`.

    The names of its parameters stay as they are.
    """

    net: nn.Module
    num_classes: int

    def setup(self):
        nn.share_scope(self, self.net)

    def __call__(self, images, train: bool = False) -> Outputs:
        parameters = inspect.signature(type(self.net).__call__).parameters
        how = {"train": train, "training": train, "is_training": train, "deterministic": not train}
        out = self.net(images, **{name: how[name] for name in parameters if name in how})
        if not isinstance(out, Outputs):
            out = Outputs(out, (), out)
        if jnp.shape(out.logits)[1:] != (self.num_classes,):
            shape = jnp.shape(out.logits)
            raise UserError(f"the network returns {shape}; it must be (N, {self.num_classes})")
        return out


def check_options(options: Iterable[str]) -> None:
    """Raises UserError where a network's options name what has an option of its own."""
    for name in ("num_classes", "dtype"):
        if name in options:
            raise UserError(f"model.options.{name} is called model.{name}")


def create(name: str, *, num_classes: int | None = None, dtype: Any = None, **options: Any):
    """A network of ours by its name, or of the user's own by a reference.

    A class, or a function that makes a network, is given `num_classes` and `dtype` where it takes
    them.

    Raises:
        ValueError: an unknown model or option.
        UserError: the reference leads to no network.
    """
    if not is_own(name):
        return create_model(name, num_classes=num_classes, dtype=dtype, **options)
    made = load(name, "model.name")
    if not callable(made):
        raise UserError(f"model.name={name!r} is neither a class nor a function")
    known = [key for key in inspect.signature(made).parameters if key not in ("parent", "name")]
    for option in options:
        choice(f"option of {name}", option, known)
    if dtype is not None and "dtype" not in known:
        raise ValueError(f"{name} takes no dtype: it computes in float32")
    given = {"num_classes": num_classes or 10, "dtype": dtype}
    try:
        net = made(**{key: given[key] for key in given if key in known} | options)
    except TypeError as error:
        raise UserError(f"model.name={name!r} cannot be made: {error}") from None
    if not isinstance(net, nn.Module):
        raise UserError(
            f"model.name={name!r} makes a {type(net).__name__}, not a flax.linen.Module"
        )
    return net


def is_ours(net: nn.Module) -> bool:
    return type(net).__module__.startswith("cnnjax.models.")


def describe(net: nn.Module) -> tuple[str, dict[str, Any]]:
    """(name or reference, options) that make a network again; (HANDED, {}) where nothing does."""
    fields = {
        field.name: field.default
        for field in dataclasses.fields(net)
        if field.name not in ("parent", "name", "num_classes", "dtype")
    }
    known: list[tuple[str, dict[str, Any]]] = [(reference(type(net)), fields)]
    if is_ours(net):
        rows = {name: create_model(name) for name in list_models()}
        known = [
            (name, {field: getattr(row, field) for field in fields})
            for name, row in rows.items()
            if type(row) is type(net)
        ]
    made = [
        (name, {f: getattr(net, f) for f, usual in values.items() if getattr(net, f) != usual})
        for name, values in known
    ]
    name, options = min(made, key=lambda one: len(one[1]))
    plain = all(type(x) in (bool, int, float, str, tuple, type(None)) for x in options.values())
    return (name, options) if plain and name != HANDED else (HANDED, {})
