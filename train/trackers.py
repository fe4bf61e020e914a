"""Trackers that a run's rows also go to. Each is a function that makes (track, close), where
`close` is told whether the run failed.

A tracker that fails, without a network say, is named and left out; training goes on.
"""

import contextlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from train.errors import UserError, tell

Tracker = tuple[Callable[[int, dict[str, float]], Any], Callable[[bool], Any]]


class Where(NamedTuple):
    """What a tracker has to know of a run."""

    workdir: epath.Path
    project: str
    config: dict[str, Any]
    resume_at: int  # rows of later steps come again

    @property
    def id(self) -> str:
        """One for a run folder, whoever resumes it; folders in two places are two runs."""
        place = self.workdir if "://" in str(self.workdir) else self.workdir.resolve()
        return f"{self.workdir.name}-{zlib.crc32(str(place).encode()):08x}"


def tensorboard(where: Where) -> Tracker:
    from tensorboardX import SummaryWriter

    folder = str(where.workdir / "tensorboard")
    writer = SummaryWriter(folder, purge_step=where.resume_at + 1)

    def track(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return track, lambda failed: writer.close()


def wandb(where: Where) -> Tracker:
    import wandb

    run = wandb.init(
        project=where.project,
        name=where.workdir.name,
        id=where.id,
        resume="allow",
        config=where.config,
        dir=str(where.workdir),
    )
    return (
        lambda step, values: run.log(values, step=step),
        lambda failed: run.finish(exit_code=int(failed)),
    )


def mlflow(where: Where) -> Tracker:
    import mlflow
    from mlflow.tracking import MlflowClient

    if "MLFLOW_TRACKING_URI" not in os.environ:  # a database in the run folder
        mlflow.set_tracking_uri(f"sqlite:///{where.workdir.resolve()}/mlflow.db")
    client = MlflowClient()
    found = client.get_experiment_by_name(where.project)
    experiment = found.experiment_id if found else client.create_experiment(where.project)
    known = client.search_runs([experiment], f"tags.folder = '{where.id}'")
    run = (
        known[0]
        if known
        else client.create_run(experiment, run_name=where.workdir.name, tags={"folder": where.id})
    )
    if not known:
        from train.config import flatten

        for name, value in flatten(where.config).items():
            client.log_param(run.info.run_id, name, value)

    def track(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            client.log_metric(run.info.run_id, name, value, step=step)

    def close(failed: bool) -> None:
        client.set_terminated(run.info.run_id, "FAILED" if failed else "FINISHED")

    return track, close


def trackio(where: Where) -> Tracker:
    import trackio

    trackio.init(
        project=where.project, name=where.id, config=where.config, resume="allow", embed=False
    )
    return lambda step, values: trackio.log(values, step=step), lambda failed: trackio.finish()


TRACKERS: dict[str, Callable[[Where], Tracker]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
}
PACKAGES = {"tensorboard": "tensorboardX"}  # where it has another name


def check(names: tuple[str, ...]) -> None:
    """Raises UserError where the package of a tracker is missing, on every process alike."""
    for name in names:
        package = PACKAGES.get(name, name)
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise missing(name)


def missing(name: str) -> UserError:
    package = PACKAGES.get(name, name)
    return UserError(f"log.to={name} needs the package {package}: pip install {package}")


class Trackers:
    """The trackers of a run by name."""

    def __init__(self, names: tuple[str, ...], where: Where):
        """Raises UserError where the package of one is missing."""
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = TRACKERS[name](where)
            except ImportError:
                raise missing(name) from None
            except Exception as error:
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        tell(f"warning: log.to={name} failed: {reason}; training goes on without it")

    def track(self, step: int, split: str, values: dict[str, float]) -> None:
        named = {f"{split}/{name}": value for name, value in values.items()}
        for name, (track, _) in list(self._open.items()):
            try:
                track(step, named)
            except Exception as error:
                self._leave_out(name, error)

    def close(self, failed: bool) -> None:
        for _, close in self._open.values():
            with contextlib.suppress(Exception):
                close(failed)
