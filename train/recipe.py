"""Reads a recipe and applies overrides from the command line; each mistake gets one sentence."""

import ast
import contextlib
import copy
import dataclasses
import json
import os
import typing
from pathlib import Path
from typing import Any

from cnnjax.spelling import nearest
from train.config import Config, describe, from_dict
from train.errors import UserError
from train.files import load_module
from train.schema import check, describe_type, is_a

PREFIX = "--config."
EARLIER = {"log.tensorboard": "tensorboard", "log.wandb": "wandb"}  # options that are log.to now
PACKED = Path(__file__).parent / "recipes"  # in a wheel
FOLDER = PACKED if PACKED.is_dir() else Path(__file__).parent.parent / "configs"


def known() -> dict[str, str]:
    """The recipes that come with the package: their names, and the first lines about them."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in sorted(FOLDER.glob("*.py"))
    }


def load(path: str, overrides: list[str] | None = None) -> Config:
    """The config of a recipe.

    Args:
        path: `file.py`, `file.py:argument`, the `config.json` of a run folder, or the name of one
            of the package's recipes, as in `inception_v3:tpu`.
        overrides: flags such as `--config.optim.lr=0.1`.

    Raises:
        UserError: the file, its argument, a key or a value is wrong.

    >>> load("configs/lenet_mnist.py", ["--config.optim.lr=0.1"]).optim.lr
    0.1
    """
    file, _, argument = os.path.expanduser(path).partition(":")
    named = FOLDER / f"{file}.py"
    if not os.path.dirname(file) and named.is_file():
        file = str(named)
    if not Path(file).is_file():
        folder = Path(file).parent
        recipes = [str(path) for path in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        if not os.path.dirname(file):
            recipes += known()
        hint = f"; {nearest(file, recipes)}" if recipes else ""
        raise UserError(f"--config={file} does not exist{hint}")
    try:
        if file.endswith(".json"):
            config = from_dict(json.loads(Path(file).read_text()))
        else:
            config = load_module(file).get_config(*([argument] if argument else []))
    except Exception as error:
        raise UserError(f"{file} failed: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        kind = type(config).__name__
        raise UserError(f"{file}: get_config() must return a train.config.Config, got {kind}")
    return override(config, overrides or [])


def override(config: Config, arguments: list[str]) -> Config:
    """A new config with flags `--config.<path>=<value>` applied; errors as in `load`."""
    config = copy.deepcopy(config)
    # An option of a model is looked for in the model that is named, wherever its name stands.
    first = (f"{PREFIX}model.name=", f"{PREFIX}model.options=")
    for argument in sorted(arguments, key=lambda text: not text.startswith(first)):
        name, equals, value = argument.partition("=")
        if not name.startswith(PREFIX):
            flags = [f"{PREFIX}{key}" for key in similar(name.lstrip("-"))]
            known = ["--config", "--workdir", *(flag for flag, _, _ in describe())]
            hint = f"did you mean {' or '.join(flags)}?" if flags else nearest(name, known)
            raise UserError(f"unknown argument {argument!r}; {hint}")
        if not equals:
            raise UserError(f"{argument} needs a value: {argument}=…")
        assign(config, name.removeprefix(PREFIX), value)
    check(config)
    return config


def similar(key: str) -> list[str]:
    """The options with the same last part: ["optim.lr"] for "lr" and for "config.lr"."""
    known = [flag.removeprefix(PREFIX) for flag, _, _ in describe()]
    return [option for option in known if option.rpartition(".")[2] == key.rpartition(".")[2]]


def no_key(key: str) -> UserError:
    options = [flag.removeprefix(PREFIX) for flag, _, _ in describe()]
    same = similar(key)
    hint = f"did you mean {' or '.join(same)}?" if same else nearest(key, options)
    if hint.startswith("known are"):  # a hundred of them
        hint = "python -m train --help lists the keys"
    return UserError(f"the config has no key {key!r}; {hint}")


def assign(config: Config, key: str, text: str) -> None:
    """Sets one option from text; UserError where there is none of that name or type."""
    if key in EARLIER:
        if text.lower() not in ("", "false", "0"):
            config.log.to = tuple(dict.fromkeys((*config.log.to, EARLIER[key])))
        if key == "log.wandb":
            config.log.project = text
        return
    *groups, last = key.split(".")
    holder: Any = config
    for number, group in enumerate(groups):
        if not dataclasses.is_dataclass(holder) or not hasattr(holder, group):
            before = ".".join(groups[:number])
            if number and not dataclasses.is_dataclass(holder):
                raise UserError(f"the config has no key {key!r}: {before} is a value")
            raise no_key(key)
        holder = getattr(holder, group)
    if key == "model.options" and text == "{}":  # another network without the recipe's options
        config.model.options.clear()
        return
    if isinstance(holder, dict):  # model.options, optim.options
        kind = of_model(config, last) if holder is config.model.options else None
        holder[last] = parse(kind, text, f"{PREFIX}{key}")
        return
    hints = typing.get_type_hints(type(holder)) if dataclasses.is_dataclass(holder) else {}
    if last not in hints:
        if groups and not dataclasses.is_dataclass(holder):
            raise UserError(f"the config has no key {key!r}: {'.'.join(groups)} is a value")
        raise no_key(key)
    if dataclasses.is_dataclass(hints[last]) or isinstance(getattr(holder, last), dict):
        inside = getattr(holder, last)
        first = next(iter(inside), "OPTION") if isinstance(inside, dict) else ""
        first = first or dataclasses.fields(inside)[0].name
        raise UserError(
            f"{PREFIX}{key} is a group of keys: set one of them, as in {PREFIX}{key}.{first}=…"
        )
    setattr(holder, last, parse(hints[last], text, f"{PREFIX}{key}"))
    if key == "model.name":
        keep_options(config)


def keep_options(config: Config) -> None:
    """Leaves out the recipe's options that another network than the recipe's does not have."""
    from train.own import create

    with contextlib.suppress(ValueError):  # an unknown name, which is told later
        known = {field.name for field in dataclasses.fields(create(config.model.name))}
        options = config.model.options
        config.model.options = {name: options[name] for name in options if name in known}


def of_model(config: Config, option: str) -> Any:
    """The type of an option of the config's model: that of its default."""
    from train.own import check_options, create

    check_options([option])
    try:
        model = create(config.model.name)
        create(config.model.name, **{option: getattr(model, option, None)})
    except ValueError as error:
        raise UserError(str(error)) from None
    default = getattr(model, option, None)
    return type(default) if isinstance(default, bool | int | float | str) else None


def parse(kind: Any, text: str, flag: str) -> Any:
    """Text as a value of a type; of any type for None. UserError: it is none."""
    if kind is str:
        return text
    known = {"true": True, "false": False}
    try:
        value = known[text.lower()] if text.lower() in known else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if typing.get_origin(kind) is tuple:
        (element, _) = typing.get_args(kind)
        items = tuple(value) if isinstance(value, tuple | list) else (value,)
        if element is str and not isinstance(value, tuple | list):
            items = (text,) if text else ()
        if all(is_a(element, item) for item in items):
            return items
    elif kind is None:
        return value
    elif kind is bool and value in (0, 1):
        return bool(value)
    elif kind is float and is_a(float, value):
        return float(value)
    elif is_a(kind, value):
        return value
    elif kind is float:
        try:
            return float(text)  # inf, nan, 1e400: bounds answer those
        except ValueError:
            pass
    raise UserError(f"{flag} takes {describe_type(kind)}, got {text!r}")
