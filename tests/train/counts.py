"""What a training step costs in counts that do not depend on the machine.

`python -m tests.train.counts` writes counts.json again, after a change that was meant to change
them. The counts of compiled programs belong to a version of jax, so run it with each version.

Counted in the equations: multiply-adds, bytes that no fusion saves, bytes that go into all-reduces.
Counted in the program compiled for CPUs: operations, bytes touched, all-reduces, custom calls. And
the programs that a whole run compiles.
"""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

from train import data
from train.benchmark import roofline
from train.benchmark.workloads import for_model, small
from train.build import Task

FILE = Path(__file__).with_suffix(".json")
DEVICES = 4

# Model -> side of the images. The Inceptions are only traced: each takes half a minute to compile.
COMPILED = {"lenet5": 32, "alexnet_owt": 63, "vgg11_bn": 32}
TRACED = COMPILED | {"inception_v1_bn": 64, "inception_v3": 75, "inception_resnet_v2": 75}


def step_of(model: str) -> tuple[Any, tuple]:
    """The step of two images a device on four devices, and its arguments."""
    config = small(model, 2 * DEVICES, TRACED[model])
    config.parallel.devices = DEVICES
    task = Task(config)
    batch = task.spread.place(next(task.batches(0)))
    return task.step, (task.abstract_state, batch, task.key)


def of_equations(model: str) -> dict[str, int]:
    step, arguments = step_of(model)
    return roofline.count(step, *arguments)._asdict()


def of_program(model: str) -> dict[str, int]:
    step, arguments = step_of(model)
    compiled = step.lower(*arguments).compile()
    cost, text = compiled.cost_analysis(), compiled.as_text()
    return {
        "operations": int(cost["flops"]),
        "bytes": int(cost["bytes accessed"]),
        "all_reduces": len(roofline.all_reduces(text)),
        "custom_calls": text.count(" custom-call("),
    }


def compilations(steps: int, evaluate_every: int) -> int:
    """Programs that a run of LeNet-5 compiles, evaluations and checkpoints included.

    jax's caches are emptied before.
    """
    from train.loop import train

    found: list[str] = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(event)

    config = for_model("lenet5", 8)
    config.data.source = "synthetic:28x28x1/10"
    config.parallel.devices, config.parallel.compile_cache = 1, ""
    config.log.every, config.log.eval_every, config.checkpoint.every = 2, evaluate_every, 4
    config.epochs = steps * 8 / len(data.load(config.data.source, "train"))
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
            train(config, workdir)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(found)


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    old = json.loads(FILE.read_text()) if FILE.exists() else {"programs": {}}
    programs: dict[str, Any] = {model: of_program(model) for model in COMPILED}
    programs["compilations"] = compilations(6, 3)
    new = {
        "equations": {model: of_equations(model) for model in TRACED},
        "programs": old["programs"] | {jax.__version__: programs},
    }
    FILE.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
