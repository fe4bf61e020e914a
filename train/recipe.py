"""Reads a recipe file and applies overrides from the command line, with one sentence for each mistake."""

import copy
import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

from cnnjax.spelling import nearest
from train.config import Config, describe
from train.errors import UserError


def load(path: str, overrides: list[str] | None = None) -> Config:
    """The config of `file.py` or `file.py:argument`, changed by `--config.<path>=<value>` flags."""
    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        siblings = (
            [str(p) for p in sorted(Path(file).parent.glob("*.py"))]
            if Path(file).parent.is_dir()
            else []
        )
        raise UserError(
            f"--config={file} does not exist" + (f"; {nearest(file, siblings)}" if siblings else "")
        )
    spec = importlib.util.spec_from_file_location("recipe", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if argument else []))
    except Exception as error:
        raise UserError(f"{file} failed: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(
            f"{file}: get_config() must return a train.config.Config, got {type(config).__name__}"
        )
    return override(config, overrides or [])


def override(config: Config, arguments: list[str]) -> Config:
    """A new config with `--config.<path>=<value>` applied; UserError names the key and what would fit."""
    config = copy.deepcopy(config)
    if not arguments:
        return config
    from absl import flags
    from ml_collections import config_flags  # a start without overrides need not wait for it

    for argument in arguments:
        _check_key(config, argument)
    values = flags.FlagValues()
    argv = [sys.argv[0], *arguments]
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError, KeyError, SyntaxError) as error:
        raise UserError(_one_sentence(error, config, arguments)) from None
    result = values["config"].value
    assert isinstance(result, Config)
    return result


def _check_key(config: Config, argument: str) -> None:
    name = argument.split("=", 1)[0]
    if not name.startswith("--config."):
        known = ["--config", "--workdir", *(flag for flag, _, _ in describe())]
        raise UserError(f"unknown argument {argument!r}; {nearest(name, known)}")
    if "=" not in argument:
        raise UserError(f"{argument} needs a value: {argument}=…")
    keys, holder = name.removeprefix("--config.").split("."), config
    for i, key in enumerate(keys):
        known = (
            list(holder)
            if isinstance(holder, dict)
            else [f.name for f in dataclasses.fields(holder)]
        )
        if isinstance(holder, dict) and key not in holder:
            holder[key] = _option_default(config, key)
        elif key not in known:
            options = [flag.removeprefix("--config.") for flag, _, _ in describe()]
            raise UserError(
                f"the config has no key {'.'.join(keys)!r}; {nearest('.'.join(keys), options)}"
            )
        value = holder[key] if isinstance(holder, dict) else getattr(holder, key)
        nested = dataclasses.is_dataclass(value) or isinstance(value, dict)
        if nested and i == len(keys) - 1:
            raise UserError(
                f"{name} is a group of keys: set one of them, as in {name}.{_first_key(value)}=…"
            )
        if not nested and i < len(keys) - 1:
            raise UserError(
                f"the config has no key {'.'.join(keys)!r}: {'.'.join(keys[: i + 1])} is a value"
            )
        holder = value


def _option_default(config: Config, option: str) -> Any:
    """What the model's class says of an option that the recipe leaves out, so that an override of it has a type."""
    from cnnjax import create_model

    try:
        model = create_model(config.model.name)
        create_model(config.model.name, **{option: None})
    except ValueError as error:
        raise UserError(str(error)) from None
    return getattr(model, option)


def _first_key(value: Any) -> str:
    return (
        next(iter(value), "KEY") if isinstance(value, dict) else dataclasses.fields(value)[0].name
    )


def _one_sentence(error: Exception, config: Config, arguments: list[str]) -> str:
    """absl says which flag is wrong and how, over several lines and classes; keep the flag and the type."""
    text = " ".join(str(error).split())
    for argument in arguments:
        name, value = argument.split("=", 1)
        if argument.removeprefix("--") in text:  # the value too: a flag may be there twice
            holder: Any = config
            for key in name.removeprefix("--config.").split("."):
                fields = getattr(holder, "__annotations__", {})
                holder = holder[key] if isinstance(holder, dict) else getattr(holder, key)
                if fields.get(key) in (float, "float"):  # where a recipe may say 15 all the same
                    holder = float(holder)
            return f"{name} takes {_kind(holder)}, got {value!r}"
    return text


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple: "a tuple such as '(0.5,)'",
    }
    return names.get(type(value), type(value).__name__)
