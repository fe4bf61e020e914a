"""The quantities of the training claims, each from the folder of a finished run."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train import files, logs
from train.build import Task
from train.classifier import from_run
from train.evaluate import statistics
from train.evaluate.evaluation import answer
from train.lineage.texts import Text
from train.run import Run
from train.runtime import programs
from train.step import objective

FILE = "measures.json"  # in the run folder: what has been measured there
FIRST = ("conv1", "conv2")  # prefixes of the layers whose gradient is measured
BATCHES = 4


class Measure(NamedTuple):
    """A quantity of a run."""

    name: Text
    of: Callable[[Run], float]


def main_loss(run: Run) -> dict[int, float]:
    """The training cross-entropy of the classifier alone, by step: means since the row before."""
    weight = run.config.loss.main_weight
    rows = (row for row in logs.read(run.folder) if row["split"] == "train")
    return {row["step"]: row.get("main_loss", row["loss"] / weight) for row in rows}


def later_loss(run: Run) -> float:
    """The mean training cross-entropy of the second half of the steps."""
    half = run.last_step / 2
    return float(np.mean([loss for step, loss in main_loss(run).items() if step > half]))


def steps_to(run: Run, loss: float) -> float:
    """The first logged step at which the training cross-entropy is at most `loss`.

    A run that never gets there counts as one step more than it has.
    """
    reached = (step for step, value in main_loss(run).items() if value <= loss)
    return float(next(reached, run.last_step + 1))


def answers(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities (N, K), labels (N,)) of the last checkpoint."""
    found = answer([from_run(run)], run.load_split(split))
    return found.log_probabilities.astype(np.float64), found.labels


def cross_entropy(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.take_along_axis(log_probabilities, labels[:, None], axis=-1).mean())


def gap(run: Run) -> float:
    """Cross-entropy on the evaluation split minus that on the training split, both as they are."""
    data = run.config.data
    return cross_entropy(*answers(run, data.eval_split)) - cross_entropy(
        *answers(run, data.train_split)
    )


def confidence(run: Run) -> float:
    """The mean probability of the answers to the evaluation split."""
    return float(np.exp(answers(run, run.config.data.eval_split)[0].max(-1)).mean())


def calibration(run: Run) -> float:
    """The expected calibration error on the evaluation split."""
    scores, labels = answers(run, run.config.data.eval_split)
    return statistics.calibration_error(np.exp(scores.max(-1)), scores.argmax(-1) == labels)


def first_gradient(run: Run) -> float:
    """The gradient's norm of the first layers at the initial parameters, mean of some batches."""
    programs.cache_folder(run.config.parallel.compile_cache)  # all seeds have the same programs
    task = Task(run.config)
    state, batches = task.fresh_state(), task.batches(0)
    share: Any = task.step_of_share()
    how = {name: share.keywords[name] for name in ("loss_fn", "preprocess", "mix")}
    model = task.model.clone(**unmapped(task.model))
    forward = partial(model.apply, train=True, mutable=["batch_stats"])
    gradient = jax.grad(partial(objective, forward=forward, frozen=None, **how), has_aux=True)

    @jax.jit
    def norm(params: Any, batch_stats: Any, batch: Any, key: jax.Array) -> jax.Array:
        grads, _ = gradient(params, batch_stats, batch, key)
        first = {name: tree for name, tree in grads.items() if name.startswith(FIRST)}
        return optax.tree.norm(first)

    params, averages = jax.tree.map(jnp.asarray, (state.params, state.batch_stats))
    keys = jax.random.split(task.key, BATCHES)
    return float(np.mean([norm(params, averages, next(batches), key) for key in keys]))


def unmapped(model: Any) -> dict[str, Any]:
    """Options for a network that runs outside of any mapping over devices."""
    return {"bn_axis": None} if hasattr(model, "bn_axis") else {}


MEASURES = {
    "later_loss": Measure(
        Text(
            "training loss in the second half",
            "pérdida de entrenamiento en la segunda mitad",
        ),
        later_loss,
    ),
    **{
        f"steps_to_{text}": Measure(
            Text(
                f"steps to a training loss of {text}",
                f"pasos hasta una pérdida de {text.replace('.', ',')}",
            ),
            partial(steps_to, loss=float(text)),
        )
        for text in ("0.5", "1.0", "2.0")
    },
    "gap": Measure(Text("test loss − training loss", "pérdida en prueba − en entrenamiento"), gap),
    "confidence": Measure(Text("mean confidence", "confianza media"), confidence),
    "calibration": Measure(
        Text("calibration error (ECE)", "error de calibración (ECE)"), calibration
    ),
    "gradient": Measure(
        Text(
            "gradient norm of the first layers, at the start",
            "norma del gradiente de las primeras capas, al inicio",
        ),
        first_gradient,
    ),
}


def measure(run: Run, name: str) -> float:
    """A quantity of a finished run, computed once and kept in its folder."""
    path = run.folder / FILE
    known = json.loads(files.read(path)) if path.exists() else {}
    if name not in known:
        known[name] = MEASURES[name].of(run)
        files.write(path, json.dumps(known))
    return known[name]
