"""The only file that knows how a step is spread over devices: pmap, shard_map, the mesh, where arrays live."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from train.errors import UserError
from train.step import AXIS


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
            raise UserError("parallel.devices picks among one process's devices; with several processes all are used")
        self.mapping = ("pmap" if jax.process_count() == 1 else "shard_map") if mapping == "auto" else mapping
        self.devices = jax.devices()[:devices] if devices else jax.devices()
        # make_mesh would make explicit axes, whose arrays refuse to mix with ordinary ones.
        self.mesh = jax.make_mesh((len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)

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
            raise UserError(f"{name}={batch_size} must be a positive multiple of the {len(self.devices)} device(s)")

    def map(self, step: Callable, *, split: tuple[bool, ...], donate: bool = False) -> Callable:
        """Compiles a step of one device's share into the same of the global batch.

        `split` says for each argument whether it is divided over the devices or the same on all; results are the same
        on all. `donate` gives the first argument's memory to the result: it must not be used again.
        """
        donated = (0,) if donate else ()
        if self.mapping == "pmap":
            axes = tuple(0 if divided else None for divided in split)
            return jax.pmap(step, AXIS, in_axes=axes, out_axes=None, donate_argnums=donated, devices=self.devices)
        specs = tuple(P(AXIS) if divided else P() for divided in split)
        mapped = jax.shard_map(step, mesh=self.mesh, in_specs=specs, out_specs=P())
        return jax.jit(mapped, donate_argnums=donated)

    def replicate(self, tree: Any) -> Any:
        """Puts the same values on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def abstract(self, shapes: Any) -> Any:
        """Shapes of a tree that will be replicated: what a checkpoint is restored to."""
        where = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's share of a global host batch (N / processes, …) on its devices."""
        if self.mapping == "pmap":
            return {name: x.reshape(len(self.devices), -1, *x.shape[1:]) for name, x in batch.items()}
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}
