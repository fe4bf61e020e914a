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
)  # bytes of an array, up to which XLA copies it to a CPU's memory before it goes on


def are_one_cpu(devices: Sequence[jax.Device]) -> bool:
    """Whether what these devices are to compute must find its arrays there: else it is handed to another thread of XLA's."""
    return len(devices) == 1 and devices[0].platform == "cpu"


def each_row(function: Callable, variables: Any, devices: int = 0) -> tuple[Callable, Any, int]:
    """For inference: function(variables, rows) -> rows, spread over this process's devices, without any other process.

    Returns it compiled, the variables where it reads them, and the number of devices, which divides the rows.
    """
    local = jax.local_devices()
    if not 0 <= devices <= len(local):
        raise UserError(f"--devices={devices}, but this process has {len(local)} device(s)")
    chosen = local[:devices] if devices else local
    mesh = jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)
    same, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    # A device computes its rows as if it were alone: even what looks at a single pixel then asks no other device.
    alone = (
        jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS))
        if len(chosen) > 1
        else function
    )
    compiled = jax.jit(alone, in_shardings=(same, divided), out_shardings=divided)

    def run(variables: Any, rows: Any) -> jax.Array:
        rows = jax.device_put(rows, divided)  # among several processes jit takes no host arrays
        return compiled(variables, jax.block_until_ready(rows) if are_one_cpu(chosen) else rows)

    return run, jax.device_put(variables, same), len(chosen)


class Parallel:
    """Data parallelism over the devices of all processes, by one of two equal mappings.

    State goes in and comes out replicated with plain shapes; batches are split along their first axis.
    """

    def __init__(self, mapping: str = "auto", devices: int = 0):
        if mapping not in ("auto", "pmap", "shard_map"):
            raise UserError(f"parallel.mapping is auto, pmap or shard_map, got {mapping!r}")
        local = jax.local_device_count()
        if not 0 <= devices <= local:
            raise UserError(f"parallel.devices={devices}, but this process has {local} device(s)")
        if jax.process_count() > 1 and devices:
            raise UserError(
                "parallel.devices picks among one process's devices; with several processes all are used"
            )
        if jax.process_count() > 1 and mapping == "pmap":
            raise UserError(
                "parallel.mapping=pmap is for one process; with several take auto or shard_map"
            )
        self.mapping = (
            ("pmap" if jax.process_count() == 1 else "shard_map") if mapping == "auto" else mapping
        )
        self.devices = jax.devices()[:devices] if devices else jax.devices()
        # make_mesh would make explicit axes, whose arrays refuse to mix with ordinary ones.
        self.mesh = jax.make_mesh(
            (len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )
        self._divided = NamedSharding(self.mesh, P(AXIS))

    @property
    def one_cpu(self) -> bool:
        """Whether the only device is a CPU, which shares its cores and its memory with the host's work."""
        return are_one_cpu(self.devices)

    @property
    def steps_ahead(self) -> int:
        """How many steps the host may hand out before the first of them is done.

        One, so that the devices never wait for the host; none on several devices made of one CPU, where the collectives
        of two steps at once can wait for each other's threads for ever.
        """
        return 0 if len(self.devices) > 1 and self.devices[0].platform == "cpu" else 1

    def check(self, name: str, batch_size: int) -> None:
        """Raises UserError when a global batch does not divide over the devices."""
        if batch_size <= 0 or batch_size % len(self.devices):
            hint = (
                "; parallel.devices takes fewer of them"
                if 0 < batch_size < len(self.devices)
                else ""
            )
            raise UserError(
                f"{name}={batch_size} must be a positive multiple of the {len(self.devices)} device(s){hint}"
            )

    def map(self, step: Callable, *, split: tuple[bool, ...], donate: bool = False) -> Any:
        """Compiles a step of one device's share into the same of the global batch.

        `split` says for each argument whether it is divided over the devices or the same on all; results are the same
        on all. It can be called, or lowered. `donate` gives the first argument's memory to the result: it must not be used
        again.
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
        several = (
            len(self.devices) > 1
        )  # one device has all of the batch, which is then the same on all
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

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's share of a global host batch (N / processes, …) on its devices, or on its way there."""
        placed = self._shard(batch)
        if self.one_cpu:  # a step whose batch is still being copied would be handed to another thread: see `tune_cpu`
            for name, x in placed.items():
                if x.nbytes > COPIED_AT_ONCE:
                    placed[name] = jax.block_until_ready(jax.device_put(x, self._divided))
        return placed

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """As `shard`, and on the devices when it returns, for a batch that is used more than once."""
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
