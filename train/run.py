"""The run folder: config and class names, for the run itself and for whoever reads it later."""

import contextlib
import io
import json
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from train import checkpoint, data, files, state
from train import config as configs
from train.build import build_model, count_steps
from train.errors import CheckpointError, DataError, UserError
from train.own import HANDED
from train.schema import check


def make_folder(workdir: str) -> epath.Path:
    """The run folder, made if it is missing.

    Raises:
        UserError: it has no name, is a file, or cannot be made.
    """
    if not workdir:
        raise UserError("--workdir is empty: name a folder")
    folder = epath.Path(workdir).expanduser()
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir={workdir} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--workdir={workdir} cannot be written: {reason}") from None
    return folder


EVALUATION = "evaluation.npz"  # the images that the run is evaluated on, where nothing names them
ENDED = "ended.json"  # the step at which a run ended before its last one


def end(folder: epath.Path, step: int | None) -> None:
    """Leaves word that a run has ended early; None takes it back."""
    with contextlib.suppress(OSError):
        if step is None:
            (folder / ENDED).unlink(missing_ok=True)
        else:
            files.write(folder / ENDED, json.dumps({"step": step}))


def ended_at(folder: epath.Path) -> int | None:
    """The step at which a run ended early; None where it did not."""
    try:
        return int(json.loads(files.read(folder / ENDED))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_evaluation(folder: epath.Path, split: data.Split) -> None:
    """Writes a split in memory into the run folder."""
    if not isinstance(split, data.Arrays):
        return
    file = io.BytesIO()
    names = np.array(split.class_names)
    np.savez_compressed(file, x_test=split.images, y_test=split.labels, class_names=names)
    files.write(folder / EVALUATION, file.getvalue())


def claim(
    folder: epath.Path, config: configs.Config, about: dict[str, Any], split: data.Split
) -> None:
    """Writes config.json into a new run folder; an old one must hold the same run.

    Args:
        folder: the run folder.
        config: of the run.
        about: JSON; what the data is like, so that later readers need nothing but the folder.
        split: what the run is evaluated on. It is kept in the folder where nothing names it.

    Raises:
        UserError: the folder holds another run, or cannot be written.
    """
    path = folder / "config.json"
    values = configs.to_dict(config) | about
    old = None
    try:
        if path.exists():
            old = read_config(path)
            known = configs.to_dict(configs.from_dict(old))  # with the defaults of newer options
            before = about | configs.flatten(known) | configs.flatten(old)
            changed = configs.difference(before, values)
            of_data = [line for line in changed if line.startswith("fingerprint.")]
            if others := [line for line in changed if line not in of_data]:
                shown = "; ".join(others[:8])
                if len(others) > 8:
                    shown += f"; and {len(others) - 8} more"
                raise UserError(
                    f"{folder} holds a run with another config: {shown}. "
                    "Take a new --workdir, or the old values to resume"
                )
            if of_data:
                names = [line.partition(":")[0].split(".")[1:] for line in of_data]
                parts = ", ".join(f"{part} of the {split} data" for split, part in names)
                raise UserError(
                    f"the data has changed since the run in {folder} began ({parts}). "
                    "Take a new --workdir, or the old data to resume"
                )
        if jax.process_index() == 0 and old != values:
            files.write(path, json.dumps(values, indent=1))
        missing = config.data.source == HANDED and not (folder / EVALUATION).exists()
        if jax.process_index() == 0 and missing:
            keep_evaluation(folder, split)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None


def read_config(path: epath.Path) -> dict[str, Any]:
    """The content of a config.json, checked.

    Raises:
        UserError: it is not the config of a run.
    """
    try:
        values = json.loads(files.read(path))
        check(configs.from_dict(values))
        if not isinstance(values["class_names"], list):
            raise TypeError("class_names is no list")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:  # JSON, or text that is not UTF-8
        raise UserError(f"{path} is not JSON; take a new --workdir") from None
    except (TypeError, AttributeError, KeyError, UserError) as error:
        raise UserError(f"{path} is not the config of a run: {error}") from None
    return values


class Run:
    """A run folder, opened for reading: config, classes, model, checkpoints.

    Only `load_split` reads data.
    """

    def __init__(self, workdir: str):
        self.folder = epath.Path(workdir).expanduser()
        path = self.folder / "config.json"
        if not path.exists():
            why = "it has no config.json" if self.folder.is_dir() else "it does not exist"
            raise UserError(f"{workdir} is no run folder: {why}")
        self._values = read_config(path)
        self.config: configs.Config = configs.from_dict(self._values)
        self.class_names = tuple(self._values["class_names"])
        self.multi_label = bool(self._values.get("multi_label"))  # several labels an image
        self.model: nn.Module = build_model(self.config, len(self.class_names))

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that the model reads."""
        known = self._values.get("image_shape")
        return tuple(known) if known else data.image_shape(self.load_split(), self.config.data)

    @property
    def last_step(self) -> int:
        """The step that the run ends with."""
        known = ended_at(self.folder) or self._values.get("steps")
        if known:
            return known
        split = data.load(self.config.data.source, self.config.data.train_split)
        return count_steps(self.config, len(split))

    def load_split(self, name: str = "", source: str = "") -> data.Split:
        """A split of the run's data, or of another source; the evaluation split by default.

        Raises:
            DataError: the classes of the run's own data have changed since.
        """
        kept = self.folder / EVALUATION
        if not source and self.config.data.source == HANDED:
            if name or not kept.exists():
                raise DataError(
                    f"{self.folder} was trained on an object that no file defines; --data=SOURCE "
                    "names other images"
                )
            source, name = f"npz:{kept}", "test"
        split = data.load(source or self.config.data.source, name or self.config.data.eval_split)
        if not source and split.class_names != self.class_names:
            pairs = [
                f"{i}: {old!r} is now {new!r}"
                for i, (old, new) in enumerate(zip(self.class_names, split.class_names))
                if old != new
            ]
            count, found = len(self.class_names), len(split.class_names)
            counts = f"{count} classes were trained, the data has {found}"
            raise DataError(
                f"{self.config.data.source} has other classes than {self.folder}: "
                f"{'; '.join(pairs[:3]) or counts}"
            )
        return split

    def _checkpoints(self) -> checkpoint.Checkpoints:
        best = self.config.checkpoint.best
        return checkpoint.Checkpoints(self.folder / "checkpoints", best=best, read_only=True)

    def steps(self) -> list[int]:
        """The checkpoints at hand, oldest first."""
        with self._checkpoints() as checkpoints:
            return checkpoints.steps()

    def best_or_latest(self) -> str:
        """ "best", or "latest" where no checkpoint has been evaluated."""
        with self._checkpoints() as checkpoints:
            return "latest" if not checkpoints.steps() or checkpoints.best() is None else "best"

    def restore(self, step: str = "latest", *, raw: bool = False) -> tuple[int, Any]:
        """(step, variables) of a checkpoint.

        Args:
            step: 'latest', 'best' or a number.
            raw: the parameters themselves, where the run keeps moving averages.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        with self._checkpoints() as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise CheckpointError(f"{self.folder} has no checkpoint yet")
            named = {"latest": steps[-1], "best": checkpoints.best()}
            number = named.get(step) or (int(step) if step.isdigit() else None)
            if number is None or number not in steps:
                known = ", ".join(map(str, steps))
                raise CheckpointError(f"{self.folder} has no checkpoint {step}; there are {known}")
            shapes = jax.eval_shape(
                partial(state.create_variables, self.model, image_shape=self.image_shape),
                jax.random.key(0),
            )
            like = checkpoint.on_one_device(shapes)
            return number, checkpoints.restore_variables(number, like, raw=raw)
