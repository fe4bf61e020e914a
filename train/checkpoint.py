"""Checkpoints in `<workdir>/checkpoints/<step>`: the latest k and the best.

They are written in the background. This is the only file that knows orbax, and its functions
import it when they need it.

It is long because saving, restoring and setting damage aside share one state.
"""

import contextlib
import copy
import importlib
import json
import logging
import math
import os
import sys
import zlib
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath

from cnnjax.trees import flatten
from train import files
from train.errors import CheckpointError, tell

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

PARTS = ("params", "batch_stats")  # of a network, in a state and in its moving averages


class Foreign(CheckpointError):
    """A checkpoint that is sound, but of another network."""


def exists(workdir: epath.PathLike) -> bool:
    """Whether a run folder has a checkpoint."""
    folder = epath.Path(workdir).expanduser() / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


class Checkpoints:
    """A folder of steps, each a state (a tree of arrays) and `meta` (JSON).

    A context: leaving it waits for the writes that were started.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        keep: int = 2,
        *,
        best: str = "top1",
        read_only: bool = False,
    ):
        """`keep` of the latest stay, and the one with the best number of that name."""
        self.folder, self._keep, self._read_only = epath.Path(folder), keep, read_only
        self._number = best
        self._started: int | None = None  # the step of the last save
        self._failed: set[int | None] = set()  # steps that could not be written

    @cached_property
    def _manager(self) -> "ocp.CheckpointManager":
        """Made on first use, where several processes meet."""
        import orbax.checkpoint as ocp

        self._set_aside_unreadable()
        policies = ocp.checkpoint_managers
        quality = partial(goodness, name=self._number)  # of the metrics a step is saved with
        best = policies.BestN(get_metric_fn=quality, n=1, keep_checkpoints_without_metrics=False)
        # max_to_keep would delete the newest step when it is not among the best.
        both = policies.AnyPreservationPolicy([policies.LatestN(self._keep), best])
        return ocp.CheckpointManager(
            self.folder if "://" in str(self.folder) else self.folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                best_fn=quality,
                preservation_policy=both,
                read_only=self._read_only,
                create=not self._read_only,
            ),
            item_names=("state", "meta"),
        )

    @property
    def _opened(self) -> bool:
        return "_manager" in vars(self)

    def prepare(self) -> None:
        """Imports orbax: after a run's first step, which then comes sooner."""
        importlib.import_module("orbax.checkpoint")

    def __enter__(self):
        self._hook, sys.unraisablehook = sys.unraisablehook, self._complain
        # orbax logs each file that it touches, and every error that it raises.
        self._loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.CRITICAL)
        return self

    def __exit__(self, *_):
        self.wait()
        if self._opened:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # already reported
                self._manager.close()
        sys.unraisablehook = self._hook
        for logger, level in zip(self._loggers, self._levels):
            logger.setLevel(level)

    def _complain(self, unraisable: Any) -> None:
        """Passes on what cannot be raised, but for the echo of a failed save in orbax's threads."""
        if "Event loop is closed" not in str(unraisable.exc_value):
            self._hook(unraisable)

    def steps(self) -> list[int]:
        """The steps at hand, oldest first.

        Raises:
            CheckpointError: the folder cannot be opened.
        """
        try:
            known = self._opened or jax.process_count() > 1 or self.folder.exists()
            return sorted(self._manager.all_steps()) if known else []
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{self.folder} cannot be opened: {reason}") from error

    def _set_aside_unreadable(self) -> None:
        """orbax opens files of every step when it starts: a FIFO would never end, and it fails at
        the first metrics or metadata that are no JSON object.
        """
        if not self.folder.exists():
            return
        for place in [path for path in self.folder.iterdir() if path.name.isdecimal()]:
            name = "its folder"
            try:
                for path in (*place.glob("metrics/metrics"), *place.glob("_CHECKPOINT_METADATA")):
                    name = path.name
                    if not isinstance(json.loads(files.read(path)), dict):
                        raise ValueError("no object")
                for folder, _, names in os.walk(place):  # nothing where it is remote
                    for name in names:
                        if os.path.exists(f"{folder}/{name}"):  # orbax names what is missing
                            files.check_regular(f"{folder}/{name}")
            except (OSError, ValueError):
                reason = f"{place} is damaged: {name} cannot be read"
                if self._read_only:
                    raise CheckpointError(reason) from None
                self._set_aside(place, reason)

    def _set_aside(self, place: epath.Path, reason: str) -> None:
        tell(f"warning: {reason}; going back to the one before")
        if jax.process_index() == 0:
            aside = self.folder.with_name("damaged") / place.name
            if aside.exists():
                aside.rmtree()
            aside.parent.mkdir(exist_ok=True)
            place.rename(aside)

    def best(self) -> int | None:
        """The step with the best evaluation among those at hand."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, meta: dict, metrics: dict | None) -> None:
        """Starts writing a state and returns.

        A failure, of this save or of the one before, is a warning: the checkpoints at hand stay,
        and training can continue.

        Args:
            step: names the checkpoint.
            state: a tree of arrays.
            meta: JSON.
            metrics: of an evaluation at this very step, if there was one.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._started = step
        meta = copy.deepcopy(meta)  # orbax writes it later, when the caller's may have changed
        if jax.process_index() == 0:
            meta["checksums"] = checksums(state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            if step not in self.steps():
                self._manager.save(step, args=args, metrics=metrics)
        except (OSError, ValueError, RuntimeError, CheckpointError) as error:
            self._give_up(error)

    def wait(self) -> None:
        """Until the save that was started is on disk, or has failed."""
        if not self._opened:
            return
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:  # a full disk is a ValueError
            self._give_up(error)
        self._sweep()

    def _give_up(self, error: Exception) -> None:
        step, self._started = self._started, None
        reason = " ".join(str(error).split())[:200]
        if "No space left" in reason:
            reason = "no space is left"
        tell(
            f"warning: checkpoint {step} could not be written: {reason}. Training continues; "
            "earlier checkpoints are untouched."
        )
        self._failed.add(step)
        self._sweep()
        if self._opened:
            self._manager.reload()  # it had dropped those that this one was to replace

    def _sweep(self) -> None:
        """Removes what is left of failed saves, whose space the next one needs.

        Only where no save is under way. Threads of a failed one may write for a while, so this is
        repeated.
        """
        if jax.process_index() == 0:
            for left in [x for step in self._failed for x in self.folder.glob(f"{step}.*tmp*")]:
                with contextlib.suppress(OSError):
                    left.rmtree()

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """(state, meta) of one step.

        Args:
            step: which one.
            like: abstract arrays, with the shardings that the state will have.

        Raises:
            CheckpointError: it is damaged.
            Foreign: its parameters have other names or shapes.
        """
        import orbax.checkpoint as ocp

        place = self.folder / str(step)
        restore = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
        )
        with damage_named(place):
            read_through(place / "state")
            with ocp.StandardCheckpointer() as reader:
                saved = reader.metadata((place / "state").resolve()).item_metadata.tree
            compare(saved, {part: getattr(like, part, None) for part in PARTS}, place)
            out = self._manager.restore(step, args=restore)
            check(out["state"], out["meta"].pop("checksums", {}))
        return out["state"], out["meta"]

    def restore_variables(
        self, step: int, like: dict[str, Any], *, raw: bool = False
    ) -> dict[str, Any]:
        """{"params", "batch_stats"} of one step. `like` and errors are those of `restore`.

        Moving averages where the run keeps them, the parameters themselves with `raw`.
        """
        import orbax.checkpoint as ocp

        place = self.folder / str(step)
        state = (place / "state").resolve()
        with damage_named(place), ocp.PyTreeCheckpointer() as reader:
            read_through(state, without="opt_state.")
            saved = reader.metadata(state).item_metadata.tree
            averaged = bool(saved.get("ema")) and not raw
            compare(saved["ema"] if averaged else saved, like, place)
            item = {"ema": like} if averaged else like
            how = ocp.checkpoint_utils.construct_restore_args(item)
            arguments = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
            out = reader.restore(state, arguments)
            meta = ocp.args.Composite(meta=ocp.args.JsonRestore())
            check(out, self._manager.restore(step, args=meta)["meta"].get("checksums", {}))
        return out["ema"] if averaged else out

    def restore_latest(self, like: Any) -> tuple[Any, dict] | None:
        """The newest sound step, or None if there is none.

        A damaged one is named and set aside, and the one before is taken.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, like)
            except Foreign:
                raise
            except CheckpointError as error:
                if step == steps[0]:
                    raise
                self._set_aside(self.folder / str(step), str(error))
                self._manager.reload()
        return None


def goodness(metrics: dict[str, float], *, name: str) -> float:
    """How good an evaluation is by one of its numbers: higher is better."""
    value = metrics.get(name, math.nan)
    if math.isnan(value):
        return -math.inf
    return -value if name == "loss" else value


@contextlib.contextmanager
def damage_named(place: epath.Path):
    """Any error as a CheckpointError: orbax has no class for damaged files."""
    try:
        yield
    except Foreign:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{place} cannot be restored: {reason}") from error


def read_through(state: epath.Path, without: str = "") -> None:
    """Raises ValueError at the first array that cannot be read; `without` is what need not be.

    orbax reads all at once. When one fails it closes its event loop while others are under way,
    and their answers have crashed the process. What lies remote is read once, by orbax alone.
    """
    import tensorstore as ts

    if "://" in str(state) or not (state / "manifest.ocdbt").exists():
        return
    store = {"driver": "ocdbt", "base": state.resolve().as_uri()}
    for key in ts.KvStore.open(store).result().list().result():
        is_needed = not without or not key.startswith(without.encode())
        if key.endswith(b"/.zarray") and is_needed:
            place = store | {"path": key.decode().removesuffix(".zarray")}
            ts.open({"driver": "zarr", "kvstore": place}).result().read().result()


def checksums(state: Any) -> dict[str, int]:
    """The CRC-32 of each array's bytes, by its path. A flipped bit changes it."""
    return {path: checksum(leaf) for path, leaf in flatten(state).items()}


def checksum(leaf: Any) -> int:
    local = np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    # NumPy's float64 comes back as the float32 that jax makes of it.
    return zlib.crc32(local.astype(jax.dtypes.canonicalize_dtype(local.dtype)).tobytes())


def check(tree: Any, saved: dict[str, int]) -> None:
    """Raises ValueError where an array is not the one that was saved."""
    for path, leaf in flatten(tree).items():
        if path in saved and checksum(leaf) != saved[path]:
            raise ValueError(f"the values of {path} are not those that were saved")


def compare(saved: dict[str, Any], like: dict[str, Any], place: epath.Path) -> None:
    """Raises Foreign, with the first differences, where names or shapes are others."""
    for part in PARTS:
        there, here = (
            {path: tuple(leaf.shape) for path, leaf in flatten(tree.get(part) or {}).items()}
            for tree in (saved, like)
        )
        names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
        if names:
            shown = [
                f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
                for name in names[:3]
            ]
            more = f"; {len(names) - 3} more" if len(names) > 3 else ""
            raise Foreign(f"{place} is of another network: {'; '.join(shown)}{more}")


def on_one_device(like: Any) -> Any:
    """Abstract arrays on this process's first device: a target for `restore`."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), like
    )
