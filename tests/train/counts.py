"""What a training step costs by counts, that do not depend on the machine: a change that makes it dearer shows here.

`python -m tests.train.counts` writes counts.json anew, for a change that was meant; counts of compiled programs are kept for
each version of jax, so run it under each of them.

Of the equations, whatever the version: multiply-adds, bytes that no fusion saves, bytes that all-reduces take in. Of the
program compiled for CPUs: operations, bytes touched, all-reduces, custom calls; and how many programs a whole run compiles.
"""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jax

from train.benchmark import roofline
from train.benchmark.race import for_model
from train.build import Task

FILE = Path(__file__).with_suffix(".json")
DEVICES = 4

# Model -> side of the images. The Inceptions are only traced: compilation takes half a minute each.
COMPILED = {"lenet5": 32, "alexnet_owt": 63, "vgg11_bn": 32}
TRACED = COMPILED | {"inception_v1_bn": 64, "inception_v3": 75, "inception_resnet_v2": 75}


def task_of(model: str) -> tuple[Task, tuple]:
    """Two images a device, on four devices."""
    config = for_model(model, 2 * DEVICES, size=TRACED[model])
    config.parallel.devices = DEVICES
    if model.startswith("inception"):
        config.model.options = {"aux": False}
    task = Task(config)
    return task, (task.abstract_state, task.spread.place(next(task.batches(0))), task.key)


def of_equations(model: str) -> dict[str, int]:
    task, arguments = task_of(model)
    return roofline.count(task.step, *arguments)._asdict()


def of_program(model: str) -> dict[str, int]:
    task, arguments = task_of(model)
    compiled = task.step.lower(*arguments).compile()
    cost, text = compiled.cost_analysis(), compiled.as_text()
    return {
        "operations": int(cost["flops"]),
        "bytes": int(cost["bytes accessed"]),
        "all_reduces": len(roofline.all_reduces(text)),
        "custom_calls": text.count(" custom-call("),
    }


def compilations(steps: int, evaluate_every: int) -> int:
    """Programs that a whole run of LeNet-5 compiles, with evaluations and checkpoints; everything else forgotten before."""
    from train.loop import train

    found: list[str] = []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(event)

    config = for_model("lenet5", 8)
    config.data.source = "synthetic:28x28x1/10"
    config.parallel.devices, config.parallel.compile_cache = 1, ""
    config.log.every, config.log.eval_every, config.checkpoint.every = 2, evaluate_every, 4
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()):
            from train import data

            config.epochs = steps * 8 / len(data.load(config.data.source, "train"))
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
