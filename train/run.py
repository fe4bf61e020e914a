"""The run folder: the config and the class names of a run, for the run itself and for whoever looks at it afterwards."""

import json
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from train import checkpoint, data, state
from train import config as configs
from train.build import build_model, build_optimizer, count_steps
from train.errors import CheckpointError, DataError, UserError


def open_workdir(workdir: str, config: configs.Config, class_names: tuple[str, ...]) -> epath.Path:
    """Makes the run folder or takes up an old one, which must hold the same run."""
    folder = epath.Path(workdir)
    path = folder / "config.json"
    values = configs.to_dict(config) | {"class_names": list(class_names)}
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir={workdir} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changed = configs.difference(json.loads(path.read_text()), values)
            if changed:
                raise UserError(
                    f"{workdir} holds a run with another config: {'; '.join(changed)}. "
                    "Take a new --workdir, or the old values to resume"
                )
        path.write_text(json.dumps(values, indent=1))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from None
    except json.JSONDecodeError:
        raise UserError(f"{path} is not JSON; take a new --workdir") from None
    return folder


class Run:
    """A run folder, opened to look at: its config, its classes, its model and any of its checkpoints."""

    def __init__(self, workdir: str):
        self.folder = epath.Path(workdir)
        path = self.folder / "config.json"
        if not path.exists():
            raise UserError(f"{workdir} is no run folder: it has no config.json")
        try:
            values = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise UserError(f"{path} is not JSON") from None
        self.config: configs.Config = configs.from_dict(values)
        self.class_names = tuple(values["class_names"])
        self.model: nn.Module = build_model(self.config, len(self.class_names))

    def load_split(self, name: str = "") -> data.Split:
        """A split of the run's data, the evaluation split by default; DataError where its classes are not the run's."""
        split = data.load(self.config.data.source, name or self.config.data.eval_split)
        if split.class_names != self.class_names:
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

    def restore(self, step: str, split: data.Split, *, raw: bool = False) -> tuple[int, Any]:
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
                raise CheckpointError(f"{self.folder} has no checkpoint {step}; there are {', '.join(map(str, steps))}")
            tx, _ = build_optimizer(self.config, count_steps(self.config, len(split)))
            image_shape = data.image_shape(split, self.config.data)
            averaged = self.config.optim.ema > 0
            create = partial(state.create_state, self.model, tx, image_shape=image_shape, ema=averaged)
            like = jax.eval_shape(create, jax.random.key(0))
            restored, _ = checkpoints.restore(wanted, checkpoint.on_one_device(like))
        if raw:
            return wanted, {"params": restored.params, "batch_stats": restored.batch_stats}
        return wanted, restored.variables
