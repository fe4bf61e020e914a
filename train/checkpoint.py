"""Checkpoints in `<workdir>/checkpoints/<step>`: the latest k and the best, written in the background.

The only file that knows orbax, which comes with the functions that need it: importing it takes a sixth of a second.
"""

import contextlib
import copy
import importlib
import logging
import sys
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import absl.logging
import jax
import numpy as np
from etils import epath

from train.errors import CheckpointError

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

# orbax reports each file that it touches, and once more each error that it raises
for logger in (absl.logging.get_absl_logger(), logging.getLogger("asyncio")):
    logger.setLevel(logging.CRITICAL)

PARTS = (
    "params",
    "batch_stats",
)  # what a network is made of, in a state and in its moving averages


class Foreign(CheckpointError):
    """A checkpoint that is sound, but of another network."""


class Checkpoints:
    """A folder of steps, each a state (a tree of arrays) and `meta` (JSON). Leaving its context waits for writes."""

    def __init__(self, folder: epath.PathLike, keep: int = 2, *, read_only: bool = False):
        self.folder, self._keep, self._read_only = epath.Path(folder), keep, read_only
        self._started: int | None = None  # the step of the save that was begun last
        self._failed: set[int | None] = set()  # those that could not be written

    @cached_property
    def _manager(self) -> "ocp.CheckpointManager":
        """Made when it is first needed. Several processes meet there, and make it with their first look at the folder."""
        import orbax.checkpoint as ocp

        policies = ocp.checkpoint_managers
        accuracy = itemgetter("top1")  # of the metrics that a step is saved with
        best = policies.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
        return ocp.CheckpointManager(
            self.folder.resolve() if "://" not in str(self.folder) else self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=accuracy,
                # max_to_keep would delete the newest step when it is not among the best, and resume would go back in time.
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), best]
                ),
                read_only=self._read_only,
                create=not self._read_only,
            ),
            item_names=("state", "meta"),
        )

    @property
    def _opened(self) -> bool:
        return "_manager" in vars(self)

    def prepare(self) -> None:
        """Imports orbax: behind a run's first step, which then comes sooner, and ahead of what is timed."""
        importlib.import_module("orbax.checkpoint")

    def __enter__(self):
        self._hook, sys.unraisablehook = sys.unraisablehook, self._complain
        return self

    def __exit__(self, *_):
        self.wait()
        if self._opened:
            with contextlib.suppress(
                OSError, ValueError, RuntimeError
            ):  # what failed has been told
                self._manager.close()
        sys.unraisablehook = self._hook

    def _complain(self, unraisable: Any) -> None:
        """Passes on what cannot be raised, but for the echo of a failed save: writes under way find its event loop closed."""
        if "Event loop is closed" not in str(unraisable.exc_value):
            self._hook(unraisable)

    def steps(self) -> list[int]:
        """The steps at hand, oldest first. CheckpointError: the folder cannot be opened."""
        try:
            known = self._opened or jax.process_count() > 1 or self.folder.exists()
            return sorted(self._manager.all_steps()) if known else []
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be opened: {error.strerror or error}"
            ) from error

    def best(self) -> int | None:
        """The step with the highest top-1 accuracy among those at hand."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, meta: dict, metrics: dict | None) -> None:
        """Starts writing and returns; `metrics` are an evaluation at this very step, if there was one.

        A failure, of this save or of the one before, is a warning: what is at hand stays, and training can go on.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._started = step
        meta = copy.deepcopy(
            meta
        )  # orbax writes it in the background, when the caller's may have changed
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            if step not in self.steps():
                self._manager.save(step, args=args, metrics=metrics)
        except (OSError, ValueError, RuntimeError, CheckpointError) as error:
            self._give_up(error)

    def wait(self) -> None:
        """Until what was started is on disk, or has failed."""
        if not self._opened:
            return
        try:
            self._manager.wait_until_finished()
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # tensorstore raises a ValueError for a full disk
            self._give_up(error)
        self._sweep()

    def _give_up(self, error: Exception) -> None:
        step, self._started = self._started, None
        reason = (
            "no space is left"
            if "No space left" in str(error)
            else " ".join(str(error).split())[:200]
        )
        print(f"warning: checkpoint {step} could not be written, {reason}; training goes on, and the checkpoints before "
              "are as they were", file=sys.stderr, flush=True)  # fmt: skip
        self._failed.add(step)
        self._sweep()
        if self._opened:
            self._manager.reload()  # it had already taken those off its list that this one was to replace

    def _sweep(self) -> None:
        """Removes what there is of failed saves: it would take the space that the next one needs.

        Only where no save is under way. Threads of one that failed may write on for a while, so this is done each time.
        """
        if jax.process_index() == 0:
            for left in [
                left for step in self._failed for left in self.folder.glob(f"{step}.*tmp*")
            ]:
                with contextlib.suppress(OSError):
                    left.rmtree()

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """(state, meta) of one step; `like` are abstract arrays with the shardings that the state will have.

        CheckpointError: it is damaged, or (Foreign) its parameters have other names or shapes.
        """
        import orbax.checkpoint as ocp

        place = self.folder / str(step)
        try:
            with ocp.StandardCheckpointer() as reader:
                saved = reader.metadata((place / "state").resolve()).item_metadata.tree
            compare(saved, {part: getattr(like, part, None) for part in PARTS}, place)
            out = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
                ),
            )
        except Foreign:
            raise
        except Exception as error:  # orbax has no error class for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{place} cannot be restored: {reason}") from error
        return out["state"], out["meta"]

    def restore_variables(
        self, step: int, like: dict[str, Any], *, raw: bool = False
    ) -> dict[str, Any]:
        """{"params", "batch_stats"} of one step and nothing else of it; `like` and errors as in `restore`.

        Moving averages where there are any, the parameters themselves with `raw`.
        """
        import orbax.checkpoint as ocp

        place = self.folder / str(step)
        state = (place / "state").resolve()
        try:
            with ocp.PyTreeCheckpointer() as reader:
                saved = reader.metadata(state).item_metadata.tree
                averaged = bool(saved.get("ema")) and not raw
                compare(saved["ema"] if averaged else saved, like, place)
                wanted = {"ema": like} if averaged else like
                how = ocp.checkpoint_utils.construct_restore_args(wanted)
                out = reader.restore(
                    state,
                    ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True),
                )
        except Foreign:
            raise
        except Exception as error:  # orbax has no error class for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{place} cannot be restored: {reason}") from error
        return out["ema"] if averaged else out

    def restore_latest(self, like: Any) -> tuple[Any, dict] | None:
        """The newest readable step, or None if there is none; a damaged one is named, set aside and passed over."""
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, like)
            except Foreign:
                raise
            except CheckpointError as error:
                if step == steps[0]:
                    raise
                print(
                    f"warning: {error}; going back to the checkpoint before",
                    file=sys.stderr,
                    flush=True,
                )
                if jax.process_index() == 0:
                    aside = self.folder.with_name("damaged") / str(step)
                    if aside.exists():
                        aside.rmtree()
                    aside.parent.mkdir(exist_ok=True)
                    (self.folder / str(step)).rename(aside)
                self._manager.reload()
        return None


def compare(saved: dict[str, Any], like: dict[str, Any], place: epath.Path) -> None:
    """Raises Foreign, with the first differences, where parameters or statistics have other names or shapes."""
    for part in PARTS:
        there, here = (_shapes(tree.get(part) or {}) for tree in (saved, like))
        different = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
        if different:
            shown = [
                f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
                for name in different
            ]
            more = f"; {len(different) - 3} more" if len(different) > 3 else ""
            raise Foreign(f"{place} is of another network: {'; '.join(shown[:3])}{more}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def on_one_device(like: Any) -> Any:
    """Abstract arrays with a place to be: a target for `restore` on whatever device is here."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), like
    )
