"""The only file that knows how a step is spread over devices: pmap, shard_map, mesh, placement."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train.errors import UserError
from train.step import AXIS

COPIED_AT_ONCE = (
    100 * 1024
)  # bytes of an array up to which XLA waits for its copy to a CPU's memory


def data_mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """The devices along one axis, which is not an explicit one: those do not mix."""
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def are_one_cpu(devices: Sequence[jax.Device]) -> bool:
    """Whether a program runs on the calling thread, if its arrays are there already."""
    return len(devices) == 1 and devices[0].platform == "cpu"


def each_row(function: Callable, variables: Any, devices: int = 0) -> tuple[Callable, Any, int]:
    """For inference: a function of rows, spread over this process's devices.

    Args:
        function: (variables, rows) -> rows.
        variables: a tree of arrays.
        devices: how many of the local devices; 0: all.

    Returns:
        The compiled function, the variables where it reads them, and the number of devices, of
        which the number of rows must be a multiple.

    Raises:
        UserError: there are fewer devices.
    """
    local = jax.local_devices()
    if not 0 <= devices <= len(local):
        raise UserError(f"--devices={devices}, but this process has {len(local)} device(s)")
    chosen = local[:devices] if devices else local
    mesh = data_mesh(chosen)
    same, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    if len(chosen) > 1:  # mapped, so that no device ever asks another one
        function = jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS))
    compiled = jax.jit(function, in_shardings=(same, divided), out_shardings=divided)

    def run(variables: Any, rows: Any) -> jax.Array:
        rows = jax.device_put(rows, divided)  # among several processes jit takes no host arrays
        if are_one_cpu(chosen):
            rows = jax.block_until_ready(rows)
        return compiled(variables, rows)

    return run, jax.device_put(variables, same), len(chosen)


class Parallel:
    """Data parallelism over the devices of all processes, by one of two equal mappings.

    State goes in and comes out replicated, with plain shapes; batches are split along their first
    axis.
    """

    def __init__(
        self,
        mapping: str = "auto",
        devices: int = 0,
        *,
        among: Sequence[jax.Device] | None = None,
    ):
        """`devices`: how many of this process's devices; 0: all.

        `among` are devices to compile for, instead of this process's; no array can be put on them.
        """
        several = among is None and jax.process_count() > 1
        known = jax.devices() if among is None else list(among)
        local = jax.local_device_count() if among is None else len(known)
        if not 0 <= devices <= local:
            raise UserError(f"parallel.devices={devices}, but this process has {local} device(s)")
        if several and devices:
            raise UserError(
                "parallel.devices is for one process; with several all devices are used"
            )
        if several and mapping == "pmap":
            raise UserError(
                "parallel.mapping=pmap is for one process; with several take auto or shard_map"
            )
        self.mapping = mapping
        if mapping == "auto":
            self.mapping = "shard_map" if several else "pmap"
        self.devices = known[:devices] if devices else known
        self.mesh = data_mesh(self.devices)
        self._divided = NamedSharding(self.mesh, P(AXIS))

    @property
    def one_cpu(self) -> bool:
        """Whether the only device is a CPU, which shares cores and memory with the host's work."""
        return are_one_cpu(self.devices)

    @property
    def steps_ahead(self) -> int:
        """How many steps the host may dispatch before the first of them is done.

        One, so that the devices never wait for the host. None on several devices of one CPU, where
        collectives of two steps can wait for each other's threads for ever.
        """
        return 0 if len(self.devices) > 1 and self.devices[0].platform == "cpu" else 1

    def check(self, name: str, batch_size: int) -> None:
        """Raises UserError unless a global batch divides over the devices."""
        count = len(self.devices)
        if batch_size <= 0 or batch_size % count:
            hint = "; parallel.devices takes fewer of them" if 0 < batch_size < count else ""
            raise UserError(
                f"{name}={batch_size} must be a positive multiple of the {count} device(s){hint}"
            )

    def map(self, step: Callable, *, split: tuple[bool, ...], donate: bool = False) -> Any:
        """A step of one device's share as the same of the global batch, to be called or lowered.

        Args:
            step: its results must be the same on all devices.
            split: for each argument, whether it is divided over the devices or the same on all.
            donate: give the first argument's memory to the result; it must not be used again.
        """
        donated = (0,) if donate else ()
        if self.mapping == "pmap":
            axes = tuple(0 if divided else None for divided in split)
            return jax.pmap(
                step,
                AXIS,
                in_axes=axes,
                out_axes=None,
                donate_argnums=donated,
                devices=self.devices,
            )
        several = len(self.devices) > 1  # on one device the share is the whole batch
        specs = tuple(P(AXIS) if divided and several else P() for divided in split)
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=specs, out_specs=P())
        return jax.jit(mapped, donate_argnums=donated)

    def replicate(self, tree: Any) -> Any:
        """Puts the same values on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def abstract(self, shapes: Any) -> Any:
        """Shapes of a tree that will be replicated: what a checkpoint is restored to."""
        where = NamedSharding(self.mesh, P())
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
        )

    def abstract_batch(self, shapes: dict[str, Any]) -> dict[str, Any]:
        """Shapes of a global batch, as the step takes it: `shard` makes the arrays for them."""
        if self.mapping == "pmap":
            count = len(self.devices)
            return {
                name: jax.ShapeDtypeStruct((count, x.shape[0] // count, *x.shape[1:]), x.dtype)
                for name, x in shapes.items()
            }
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._divided)
            for name, x in shapes.items()
        }

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's share of a host batch (N / processes, …) on its devices.

        The copies may still be under way, except on one CPU: a step whose batch is not there yet
        would run on another thread.
        """
        placed = self._shard(batch)
        if self.one_cpu:
            for name, x in placed.items():
                if x.nbytes > COPIED_AT_ONCE:
                    placed[name] = jax.block_until_ready(jax.device_put(x, self._divided))
        return placed

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """As `shard`, and complete when it returns: for a batch that is used several times."""
        return jax.block_until_ready(jax.device_put(self._shard(batch), self._divided))

    def _shard(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        if self.mapping == "pmap":
            return {
                name: x.reshape(len(self.devices), -1, *x.shape[1:]) for name, x in batch.items()
            }
        return {
            name: jax.make_array_from_process_local_data(self._divided, x)
            for name, x in batch.items()
        }
