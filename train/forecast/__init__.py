"""What a recipe will take on TPUs and GPUs that are not here: does it fit, how fast can it be?

The step is compiled by the chip's own compiler. Memory is what the compiler assigns. Times are
lower bounds: each operation at the published peaks of the chip, and nothing for the wires between
chips. Trust their ratios. Of a program for GPUs only memory and exchanges are known.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

from cnnjax import create_model
from train.config import Config
from train.errors import UserError
from train.forecast.chips import GIB, chip_of, count_chips
from train.forecast.topology import Step, compile_step
from train.schema import check

NOTES = {
    "tpu": """\
bounds     each operation at the chip's published peaks (cloud.google.com/tpu/docs), one after
           another, without the wires between chips; from the program that XLA optimizes at its
           default effort""",
    "cuda": """\
GPUs       compiled without a GPU: no bound of time, and the memory is without the workspaces of
           cuDNN, which chooses its algorithms on the device. jax takes three quarters of the
           device's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise""",
}


def forecast(config: Config, topologies: list[str]) -> dict[str, Any]:
    """Compiles the step for each topology; prints what it takes, and a table of several.

    Args:
        config: of the run; `data.batch_size` is that of the whole batch on all of them.
        topologies: "v5e:8x8", "h100:8" and so on.

    Returns:
        {"model", "batch_size", "topologies": {name: its figures}}.

    Raises:
        UserError: a topology is unknown, the batch does not divide, or the compiler is missing.
    """
    check(config)
    for topology in topologies:  # all of them, before minutes of compilation
        check_batch(config, topology)
    found = {}
    for topology in topologies:
        step = compile_step(config, topology)
        found[topology] = figures(step, config.data.batch_size)
        say(describe(step, config))
        if not step.fits:
            say("           tried, one at a time:")
            found[topology]["remedies"] = tried = {}
            for name, changed in remedies(config, step.devices):
                say(f"           {name}…")
                other = compile_step(changed, topology)
                tried[name] = figures(other, config.data.batch_size)
                say(f"           {name}: {verdict(other)}")
    for platform in dict.fromkeys(chip_of(topology).platform for topology in topologies):
        say(NOTES[platform])
    if len(topologies) > 1:
        say(table(found))
    return {
        "model": config.model.name,
        "batch_size": config.data.batch_size,
        "topologies": found,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check_batch(config: Config, topology: str) -> None:
    """Raises UserError unless the batch divides over the topology's chips."""
    chips, batch = count_chips(topology), config.data.batch_size
    if config.parallel.devices:
        raise UserError("parallel.devices is for this machine; --topology takes all its chips")
    if batch % chips:
        raise UserError(
            f"data.batch_size={batch} must be a multiple of the {chips} chips of {topology}"
        )


def remedies(config: Config, devices: int) -> Iterator[tuple[str, Config]]:
    """(option, the config with it) for each single change that saves memory."""

    def change(group: str, **values: Any) -> Config:
        inner = dataclasses.replace(getattr(config, group), **values)
        return dataclasses.replace(config, **{group: inner})

    chosen = config.model
    if chosen.dtype != "bfloat16":
        yield "model.dtype=bfloat16", change("model", dtype="bfloat16")
    share = config.data.batch_size // devices
    for parts in (2, 4):
        parts *= config.parallel.accumulate
        if share % parts == 0:
            yield f"parallel.accumulate={parts}", change("parallel", accumulate=parts)
    if chosen.keep != "products":
        yield "model.keep=products", change("model", keep="products")
    options = chosen.options | {"remat": True}
    if options != chosen.options and hasattr(create_model(chosen.name), "remat"):
        yield "model.options.remat=true", change("model", options=options)


def figures(step: Step, batch_size: int) -> dict[str, Any]:
    """JSON; the figures of one chip, and for TPUs the speed of all."""
    work, chip = step.work, step.chip
    known = {
        "devices": step.devices,
        "device_bytes": step.total,
        "argument_bytes": step.arguments,
        "chip_bytes": int(chip.memory),
        "fits": step.fits,
        "collectives": len(work.collectives),
        "collective_bytes": sum(work.collectives),
        "largest_collective_bytes": max(work.collectives, default=0),
        "donated": step.donated,
    }
    if chip.platform == "cuda":
        return known
    return known | {
        "multiply_adds": int(work.multiply_adds),
        "traffic_bytes": int(work.bytes),
        "bound_ms": 1e3 * work.seconds,
        "images_per_second_bound": batch_size / work.seconds,
        "share_of_peak": work.multiply_adds / chip.multiply_adds / work.seconds,
    }


def verdict(step: Step) -> str:
    state = f"{step.total / GIB:.3g} of {step.chip.memory / GIB:.2f} GiB a chip"
    return f"fits, {state}" if step.fits else f"does NOT fit, {state}"


def describe(step: Step, config: Config) -> str:
    work, batch = step.work, config.data.batch_size
    lines = [
        f"{step.topology:10} {step.devices} x {step.kind}, by {step.mapping}, "
        f"{batch // step.devices} of {batch} images on each",
        f"memory     {verdict(step)}: {step.arguments / GIB:.3g} state and batch, "
        f"{(step.total - step.arguments) / GIB:.3g} temporaries; "
        f"{step.donated} arrays of the state are updated in place",
    ]
    if step.kind == "TPU v4":
        lines.append(
            "           (libtpu compiles ahead for one of a v4's two cores; the memory is of both)"
        )
    if step.chip.platform == "tpu":
        lines += describe_time(step, batch)
    lines.append(
        f"exchange   {len(work.collectives)} collectives, {sum(work.collectives) / 1e6:,.3g} MB, "
        f"the largest {max(work.collectives, default=0) / 1e6:,.3g} MB"
    )
    return "\n".join(lines)


def describe_time(step: Step, batch: int) -> list[str]:
    work, chip = step.work, step.chip
    alone = (1e3 * work.multiply_adds / chip.multiply_adds, 1e3 * work.bytes / chip.bandwidth)
    return [
        f"work       {work.multiply_adds / 1e9:,.3g} G multiply-adds and "
        f"{work.bytes / 1e9:,.3g} GB of traffic a chip",
        f"bound      {1e3 * work.seconds:.3g} ms a step at least "
        f"(arithmetic alone {alone[0]:.3g}, traffic alone {alone[1]:.3g}), "
        f"{batch / work.seconds:,.0f} images/s at most, "
        f"{alone[0] / (1e3 * work.seconds):.0%} of the peak",
    ]


TIMED = ("bound ms", "images/s", "a chip", "of peak")  # columns that GPUs leave empty


def table(found: dict[str, dict[str, Any]]) -> str:
    """The topologies side by side; efficiency is the speed of a chip relative to the first's."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "chips": lambda row: str(row["devices"]),
        "fits": lambda row: "yes" if row["fits"] else "no",
        "GiB a chip": lambda row: f"{row['device_bytes'] / GIB:.2f}",
        "bound ms": lambda row: f"{row['bound_ms']:.3g}",
        "images/s": lambda row: f"{row['images_per_second_bound']:,.0f}",
        "a chip": lambda row: f"{row['images_per_second_bound'] / row['devices']:,.0f}",
        "of peak": lambda row: f"{row['share_of_peak']:.0%}",
        "exchanged MB": lambda row: f"{row['collective_bytes'] / 1e6:,.1f}",
    }

    def cells(row: dict[str, Any]) -> list[str]:
        timed = "bound_ms" in row
        return [cell(row) if timed or name not in TIMED else "-" for name, cell in columns.items()]

    rows = [["", *columns], *([name, *cells(row)] for name, row in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    )
