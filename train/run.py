"""The run folder: the config and the class names of a run, for the run itself and for whoever looks at it afterwards."""

import json
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from train import checkpoint, data, state
from train import config as configs
from train.build import build_model, count_steps
from train.errors import CheckpointError, DataError, UserError


def open_workdir(
    workdir: str,
    config: configs.Config,
    class_names: tuple[str, ...],
    image_shape: tuple[int, ...],
    steps: int,
) -> epath.Path:
    """Makes the run folder or takes up an old one, which must hold the same run.

    Its config.json says what the data was like as well, so that whoever looks at the run needs the folder alone.
    """
    folder = epath.Path(workdir)
    path = folder / "config.json"
    of_data = {"class_names": list(class_names), "image_shape": list(image_shape), "steps": steps}
    values = configs.to_dict(config) | of_data
    old = None
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir={workdir} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            old = json.loads(path.read_text())
            known = configs.to_dict(
                configs.from_dict(old)
            )  # with the defaults of options that are newer than the folder
            if changed := configs.difference(
                of_data | configs.flatten(known) | configs.flatten(old), values
            ):
                raise UserError(
                    f"{workdir} holds a run with another config: {'; '.join(changed)}. "
                    "Take a new --workdir, or the old values to resume"
                )
        if jax.process_index() == 0 and old != values:
            new = path.with_name("config.json.new")
            new.write_text(json.dumps(values, indent=1))
            new.replace(
                path
            )  # at no time is there half of it, for another process, or behind a full disk
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}"
        ) from None
    except json.JSONDecodeError:
        raise UserError(f"{path} is not JSON; take a new --workdir") from None
    return folder


class Run:
    """A run folder, opened to look at: its config, its classes, its model and any of its checkpoints.

    Needs the folder alone; only `load_split` reads data.
    """

    def __init__(self, workdir: str):
        self.folder = epath.Path(workdir)
        path = self.folder / "config.json"
        if not path.exists():
            raise UserError(f"{workdir} is no run folder: it has no config.json")
        try:
            self._values = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise UserError(f"{path} is not JSON") from None
        self.config: configs.Config = configs.from_dict(self._values)
        self.class_names = tuple(self._values["class_names"])
        self.model: nn.Module = build_model(self.config, len(self.class_names))

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the model reads."""
        known = self._values.get("image_shape")
        return (
            tuple(known) if known else data.image_shape(self.load_split(), self.config.data)
        )  # folders of older runs

    @cached_property
    def last_step(self) -> int:
        """The step that the run ends with."""
        known = self._values.get("steps")
        return known or count_steps(
            self.config, len(data.load(self.config.data.source, self.config.data.train_split))
        )

    def load_split(self, name: str = "", source: str = "") -> data.Split:
        """A split of the run's data, or of other data: the evaluation split by default.

        DataError where the classes of the run's own data have changed since.
        """
        split = data.load(source or self.config.data.source, name or self.config.data.eval_split)
        if not source and split.class_names != self.class_names:
            pairs = [
                f"{i}: {a!r} is now {b!r}"
                for i, (a, b) in enumerate(zip(self.class_names, split.class_names))
                if a != b
            ]
            counts = f"{len(self.class_names)} classes were trained, the data has {len(split.class_names)}"
            raise DataError(
                f"{self.config.data.source} has other classes than {self.folder}: {'; '.join(pairs[:3]) or counts}"
            )
        return split

    def steps(self) -> list[int]:
        """The checkpoints at hand, oldest first."""
        with checkpoint.Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.steps()

    def restore(self, step: str = "latest", *, raw: bool = False) -> tuple[int, Any]:
        """(step, variables) of a checkpoint: 'latest', 'best' or a number.

        Moving averages where the run keeps them, the parameters themselves with `raw`.
        """
        with checkpoint.Checkpoints(self.folder / "checkpoints", read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise CheckpointError(f"{self.folder} has no checkpoint yet")
            wanted = {"latest": steps[-1], "best": checkpoints.best()}.get(step) or (
                int(step) if step.isdigit() else None
            )
            if wanted is None or wanted not in steps:
                raise CheckpointError(
                    f"{self.folder} has no checkpoint {step}; there are {', '.join(map(str, steps))}"
                )
            shapes = jax.eval_shape(
                partial(state.create_variables, self.model, image_shape=self.image_shape),
                jax.random.key(0),
            )
            return wanted, checkpoints.restore_variables(
                wanted, checkpoint.on_one_device(shapes), raw=raw
            )
