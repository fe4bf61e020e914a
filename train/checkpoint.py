"""Checkpoints in `<workdir>/checkpoints/<step>`: the latest k and the best, written in the background.

The only file that knows orbax.
"""

import logging
import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from train.errors import CheckpointError

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports each file it touches


class Checkpoints:
    """A folder of steps, each a state (a tree of arrays) and `meta` (JSON). Leaving its context waits for writes."""

    def __init__(self, folder: epath.PathLike, keep: int = 2, *, read_only: bool = False):
        self.folder = epath.Path(folder)
        policies = ocp.checkpoint_managers
        accuracy = lambda metrics: metrics["top1"]  # noqa: E731
        best = policies.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.folder.resolve() if "://" not in str(folder) else self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=accuracy,
                # max_to_keep would delete the newest step when it is not among the best, and resume would go back in time.
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
                read_only=read_only,
                create=not read_only,
            ),
            item_names=("state", "meta"),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps at hand, oldest first."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step with the highest top-1 accuracy among those at hand."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, meta: dict, metrics: dict | None) -> None:
        """Starts writing and returns; `metrics` are an evaluation at this very step, if there was one."""
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
            metrics=metrics,
        )

    def wait(self) -> None:
        """Until what was started is on disk."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """(state, meta) of one step; `like` are abstract arrays with the shardings that the state will have."""
        try:
            out = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
            )
        except Exception as error:  # orbax has no error class for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self.folder / str(step)} cannot be restored: {reason}") from error
        return out["state"], out["meta"]

    def restore_latest(self, like: Any) -> tuple[Any, dict] | None:
        """The newest readable step, or None if there is none; a damaged one is named, deleted and passed over."""
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, like)
            except CheckpointError as error:
                if step == steps[0]:
                    raise
                print(f"warning: {error}; going back to the checkpoint before", file=sys.stderr, flush=True)
                self._manager.delete(step)
        return None


def on_one_device(like: Any) -> Any:
    """Abstract arrays with a place to be: a target for `restore` on whatever device is here."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), like)
