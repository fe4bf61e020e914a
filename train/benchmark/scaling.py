"""How a step grows: with the batch, the image and the devices, measured; with many devices, counted; with time, not at all."""

import json
import statistics
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.benchmark.contestants import OURS, Contestant, Job, resident
from train.benchmark.race import in_turn, say
from train.benchmark.workloads import for_model, small

PICTURE = Path(__file__).parent.parent / ".readme" / "growth.png"


class Axis(NamedTuple):
    """What grows while all else stays."""

    name: str
    model: str
    points: dict[
        int, tuple[int, int, int]
    ]  # what is drawn along the axis -> (batch, side of the images, devices)
    steps: int  # a round


# LeNet-5 has one size of image. Inception v1 takes any from 32 on, and its time is that of its convolutions.
AXES = (
    Axis("images a step", "lenet5", {n: (n, 32, 1) for n in (32, 64, 128, 256, 512)}, 20),
    Axis(
        "pixels of an image", "inception_v1_bn", {n * n: (4, n, 1) for n in (64, 96, 128, 192)}, 2
    ),
    Axis(
        "devices made of one CPU, 64 images each",
        "lenet5",
        {n: (64 * n, 32, n) for n in (1, 2, 4, 8)},
        20,
    ),
)


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """a, b of y = a + b x with the least relative errors, and the largest relative error."""
    x_, y_ = np.array(x), np.array(y)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / y_, x_ / y_], axis=1), np.ones_like(y_), rcond=None)
    return float(a), float(b), float(np.max(np.abs((a + b * x_) / y_ - 1)))


def growth(rounds: int = 5) -> dict[str, Any]:
    """Seconds of a training step along each axis, fitted by a straight line and drawn."""
    result = {}
    for axis in AXES:
        racing = []
        for batch, side, devices in axis.points.values():
            job = Job(
                OURS,
                "step",
                small(axis.model, batch, side),
                environment={"JAX_NUM_CPU_DEVICES": str(devices)},
            )
            racing.append(Contestant(job))
        seconds = in_turn({str(i): one.run for i, one in enumerate(racing)}, axis.steps, rounds)
        for one in racing:
            one.kill()
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
        say(
            f"{axis.name:<40} {axis.model:<16} {a:.3g} ms + {b:.3g} ms x: largest deviation {worst:.1%}"
        )
    draw(result)
    return {"what": "growth", "rounds": rounds, "axes": result, "picture": str(PICTURE)}


def draw(result: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, places = plt.subplots(1, len(result), figsize=(12, 3.6), layout="constrained")
    for place, (name, row) in zip(places, result.items()):
        line = np.linspace(0, max(row["x"]), 2)
        place.plot(line, row["constant_ms"] + row["slope_ms"] * line, color="0.6")
        place.plot(row["x"], row["ms"], "o", color="C0")
        place.set(title=f"{row['model']}: within {row['worst']:.1%} of a line", xlabel=name, ylabel="ms a training step",
                  xlim=(0, None), ylim=(0, None))  # fmt: skip
        place.locator_params(axis="x", nbins=5)
        place.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


# ---------------------------------------------------------------------------------------------- steps


def soak(steps: int = 10_000) -> dict[str, Any]:
    """A real run of LeNet-5 of so many steps: its rate and its memory in the second half against the first."""
    from train.loop import train

    config = for_model("lenet5", 32)
    config.data.source = "mnist5k"
    config.epochs = steps * config.data.batch_size / 4000
    config.log.every, config.log.eval_every, config.checkpoint.every = (
        steps // 40,
        steps,
        steps // 4,
    )
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
        lines = [
            json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()
        ]
    rows = [line for line in lines if line["split"] == "train"][1:]  # the first holds the start
    x = np.array([row["step"] for row in rows])
    ms = np.array([1e3 * config.data.batch_size / row["images_per_second"] for row in rows])
    memory = np.array(samples[len(samples) // 10 :]) / 2**20
    slope = float(np.polyfit(x, ms, 1)[0]) * steps
    half = len(ms) // 2
    result = {
        "what": "soak", "steps": steps, "drift_ms": slope,
        "ms_first_half": float(np.median(ms[:half])), "ms_second_half": float(np.median(ms[half:])),
        "memory_mib_first_half": float(memory[: len(memory) // 2].mean()),
        "memory_mib_second_half": float(memory[len(memory) // 2 :].mean()),
    }  # fmt: skip
    say(
        f"{steps:,} steps: {result['ms_first_half']:.2f} ms a step in the first half, {result['ms_second_half']:.2f} in the "
        f"second; {result['memory_mib_first_half']:.0f} and {result['memory_mib_second_half']:.0f} MiB"
    )
    return result


# ---------------------------------------------------------------------------------------------- devices


class Link(NamedTuple):
    name: str
    bytes_per_second: float  # out of each device, and as much in at the same time
    hop: float  # seconds from one device to the next, for the smallest message


LINKS = (
    Link("NVLink 4 (450 GB/s a direction, 3 us a hop)", 450e9, 3e-6),
    Link("Ethernet (100 Gbit/s a device, 20 us a hop)", 12.5e9, 20e-6),
)
# What a device is taken to compute: 256 images a step in bfloat16 at 40 % of an H100's 989e12 operations a second.
IMAGES, OPERATIONS = 256, 0.4 * 989e12
DEVICES = (8, 64, 256, 1024)


def ring(size: float, devices: int, link: Link) -> float:
    """Seconds of a ring all-reduce: twice (N - 1) messages of one N-th. Patarasuk, Yuan: Bandwidth optimal all-reduce, 2009."""
    return 2 * (devices - 1) * (size / devices / link.bytes_per_second + link.hop)


def scaling(model: str = "inception_v1_bn", side: int = 64, share: int = 2) -> dict[str, Any]:
    """Weak scaling: what one device does of a step over 1 to 8 of them, counted; and its exchange on paper up to 1,024."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from train.benchmark import roofline
    from train.build import Task

    counted, paper = [], []
    say(
        "devices  multiply-adds    operations    bytes touched  all-reduces  bytes reduced   (each device)"
    )
    for devices in (1, 2, 4, 8):
        config = small(model, share * devices, side)
        config.parallel.devices = devices
        task = Task(config)
        arguments = (task.abstract_state, task.spread.place(next(task.batches(0))), task.key)
        compiled = task.step.lower(*arguments).compile()
        work, cost = roofline.count(task.step, *arguments), compiled.cost_analysis()
        reduced = roofline.all_reduces(compiled.as_text())
        row = {"devices": devices, "multiply_adds": work.multiply_adds, "operations": int(cost["flops"]),
               "bytes": int(cost["bytes accessed"]), "all_reduces": len(reduced), "reduced": sum(reduced)}  # fmt: skip
        counted.append(row)
        say(
            "{devices:7}  {multiply_adds:13,}  {operations:12,}  {bytes:15,}  {all_reduces:11}  {reduced:13,}".format(
                **row
            )
        )
    for name in ("vgg16", "inception_v3"):
        paper += exchange(name)
    return {
        "what": "scaling",
        "model": model,
        "side": side,
        "share": share,
        "counted": counted,
        "paper": paper,
    }


def exchange(model: str) -> list[dict[str, Any]]:
    """Time of the all-reduce of float32 gradients and statistics beside the computation, the one behind the other."""
    from cnnjax import create_model, get_spec
    from cnnjax.analysis import abstract_variables, count_parameters

    spec = get_spec(model)
    size = 4 * count_parameters(
        abstract_variables(create_model(model), spec.input_size, train=True)
    )
    # Forward, and backward by the input and by the kernel; two operations each multiply-add.
    compute = 3 * 2 * spec.multiply_adds * IMAGES / OPERATIONS
    rows = []
    for link in LINKS:
        for devices in DEVICES:
            seconds = ring(size, devices, link)
            rows.append({"model": model, "link": link.name, "devices": devices, "megabytes": size / 1e6, "ms": 1e3 * seconds,
                         "compute_ms": 1e3 * compute, "efficiency": compute / (compute + seconds)})  # fmt: skip
        last = rows[-len(DEVICES) :]
        say(
            f"{model:<13} {size / 1e6:4.0f} MB  {link.name:<46} computes {1e3 * compute:4.0f} ms; "
            + ", ".join(
                f"{row['devices']}: {row['ms']:.1f} ms ({row['efficiency']:.0%})" for row in last
            )
        )
    return rows
