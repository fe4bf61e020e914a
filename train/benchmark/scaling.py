"""How a step grows: with the batch, the image and the devices; and whether it grows with time."""

import statistics
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.benchmark.contestants import OURS, Contestant, Job
from train.benchmark.memory import resident
from train.benchmark.race import in_turn, say
from train.benchmark.workloads import for_model, small

PICTURE = Path(__file__).parents[2] / ".readme" / "growth.png"


class Point(NamedTuple):
    batch: int
    side: int  # of the images, in pixels
    devices: int


class Axis(NamedTuple):
    """What grows while all else stays the same."""

    name: str
    model: str
    points: dict[int, Point]  # by their place on the axis
    steps: int  # a round


# LeNet-5 has one size of image. Inception v1 takes any side from 32 pixels on.
AXES = (
    Axis("images a step", "lenet5", {n: Point(n, 32, 1) for n in (32, 64, 128, 256, 512)}, 20),
    Axis(
        "pixels of an image",
        "inception_v1_bn",
        {side * side: Point(4, side, 1) for side in (64, 96, 128, 192)},
        2,
    ),
    Axis(
        "devices made of one CPU, 64 images each",
        "lenet5",
        {n: Point(64 * n, 32, n) for n in (1, 2, 4, 8)},
        20,
    ),
)


def growth(rounds: int = 5) -> dict[str, Any]:
    """Times a training step along each axis, fits a straight line and draws both."""
    result = {}
    for axis in AXES:
        racing = {}
        for place, (batch, side, devices) in axis.points.items():
            config = small(axis.model, batch, side)
            environment = {"JAX_NUM_CPU_DEVICES": str(devices)}
            racing[str(place)] = Contestant(Job(OURS, "step", config, environment=environment))
        timers = {place: contestant.run for place, contestant in racing.items()}
        seconds = in_turn(timers, axis.steps, rounds)
        for contestant in racing.values():
            contestant.kill()
        x, y = [*axis.points], [1e3 * statistics.median(values) for values in seconds.values()]
        a, b, worst = fit(x, y)
        result[axis.name] = {
            "model": axis.model,
            "x": x,
            "ms": y,
            "constant_ms": a,
            "slope_ms": b,
            "worst": worst,
        }
        line = f"{a:.3g} ms + {b:.3g} ms x: largest deviation {worst:.1%}"
        say(f"{axis.name:<40} {axis.model:<16} {line}")
    draw(result)
    return {"what": "growth", "rounds": rounds, "axes": result, "picture": str(PICTURE)}


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The line y = a + b x with the least squares of relative errors.

    Returns:
        a, b, and the largest relative error.
    """
    x_, y_ = np.array(x), np.array(y)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / y_, x_ / y_], axis=1), np.ones_like(y_), rcond=None)
    return float(a), float(b), float(np.max(np.abs((a + b * x_) / y_ - 1)))


def draw(result: dict[str, Any]) -> None:
    """Draws the measured times and their lines, one plot for each axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for place, (name, row) in zip(figure.subplots(1, len(result)), result.items()):
        line = np.linspace(0, max(row["x"]), 2)
        place.plot(line, row["constant_ms"] + row["slope_ms"] * line, color="0.6")
        place.plot(row["x"], row["ms"], "o", color="C0")
        place.set_title(f"{row['model']}: within {row['worst']:.1%} of a line")
        place.set(xlabel=name, ylabel="ms a training step", xlim=(0, None), ylim=(0, None))
        place.locator_params(axis="x", nbins=5)
        place.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


def scaling(model: str = "inception_v1_bn", side: int = 64, share: int = 2) -> dict[str, Any]:
    """Weak scaling, counted: the work of each of 1 to 8 devices, with `share` images each."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from train.benchmark import roofline
    from train.build import Task

    counted = []
    say("devices  multiply-adds    operations    bytes touched  all-reduces  bytes reduced")
    for devices in (1, 2, 4, 8):
        config = small(model, share * devices, side)
        config.parallel.devices = devices
        task = Task(config)
        arguments = (task.abstract_state, task.spread.place(next(task.batches(0))), task.key)
        compiled = task.step.lower(*arguments).compile()
        cost, reduced = compiled.cost_analysis(), roofline.all_reduces(compiled.as_text())
        row = {
            "devices": devices,
            "multiply_adds": roofline.count(task.step, *arguments).multiply_adds,
            "operations": int(cost["flops"]),
            "bytes": int(cost["bytes accessed"]),
            "all_reduces": len(reduced),
            "reduced": sum(reduced),
        }
        counted.append(row)
        widths = (7, 15, 14, 17, 13, 15)
        say("".join(f"{value:{width},}" for value, width in zip(row.values(), widths)))
    return {"what": "scaling", "model": model, "side": side, "share": share, "counted": counted}


def soak(steps: int = 10_000) -> dict[str, Any]:
    """A run of LeNet-5: its speed and its memory in the second half against the first."""
    from train import logs
    from train.loop import train

    config = for_model("lenet5", 32)
    config.data.source = "mnist5k"
    config.epochs = steps * config.data.batch_size / 4000
    config.log.every, config.log.eval_every = steps // 40, steps
    config.checkpoint.every = steps // 4
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.5):
            samples.append(resident("VmRSS"))

    with tempfile.TemporaryDirectory() as workdir:
        watcher = threading.Thread(target=sample, daemon=True)
        watcher.start()
        train(config, workdir)
        stop.set()
        watcher.join()
        rows = [row for row in logs.read(Path(workdir)) if row["split"] == "train"]
    rows = rows[1:]  # without the start
    ms = np.array([1e3 * config.data.batch_size / row["images_per_second"] for row in rows])
    memory = np.array(samples[len(samples) // 10 :]) / 2**20
    (ms_1, ms_2), (mib_1, mib_2) = np.array_split(ms, 2), np.array_split(memory, 2)
    result = {
        "what": "soak",
        "steps": steps,
        "drift_ms": steps * float(np.polyfit([row["step"] for row in rows], ms, 1)[0]),
        "ms_first_half": float(np.median(ms_1)),
        "ms_second_half": float(np.median(ms_2)),
        "memory_mib_first_half": float(mib_1.mean()),
        "memory_mib_second_half": float(mib_2.mean()),
    }
    say(
        f"{steps:,} steps, first half and second half: {result['ms_first_half']:.2f} and "
        f"{result['ms_second_half']:.2f} ms a step; {result['memory_mib_first_half']:.0f} and "
        f"{result['memory_mib_second_half']:.0f} MiB"
    )
    return result
