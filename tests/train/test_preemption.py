"""Signals, failed saves, foreign checkpoints and losses that are no numbers: nothing is lost, and
the end is the same.

One file, because the tests share a run that nothing disturbed.
"""

import json
import resource
import signal

import numpy as np
import pytest

from tests.helpers import ROOT, assert_trees_close
from tests.train.test_full_disk import limit_files
from tests.train.test_resume import OPTIONS, final_state, numbers
from train.__main__ import main
from train.errors import CheckpointError, DataError, DivergedError, Preempted, UserError
from train.loop import Training

SHORT = [
    *OPTIONS,
    "--config.epochs=1",
    "--config.parallel.devices=1",
]  # 32 steps, saved every 7, evaluated every 17


def go(workdir, *more, options=SHORT):
    return main([*options, f"--workdir={workdir}", *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    go(workdir)
    return workdir


def at_step(monkeypatch, number, action):
    """Does something once, right before the training loop looks for signals after a step."""
    from train.runtime.signals import Interrupt

    requested, done = Interrupt.requested, []

    def look(self, step):
        if step == number and not done:
            done.append(step)
            action()
        return requested(self, step)

    monkeypatch.setattr(Interrupt, "requested", look)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, monkeypatch, whole, number, capfd):
    before = signal.getsignal(number)
    at_step(monkeypatch, 19, lambda: signal.raise_signal(number))
    with pytest.raises(Preempted, match="stopped by a signal after step 19 of 32; saved") as caught:
        go(tmp_path / "run")
    assert caught.value.exit_code == 75 and signal.getsignal(number) == before
    assert (tmp_path / "run/checkpoints/19").is_dir()
    go(tmp_path / "run")
    assert "resuming at step 19 of 32" in capfd.readouterr().err
    assert numbers(tmp_path / "run") == numbers(whole)
    assert_trees_close(final_state(tmp_path / "run"), final_state(whole))


def test_failed_saves_are_warnings_and_leave_what_is_there(tmp_path, monkeypatch, whole, capsys):
    """From step 10 to step 20 nothing longer than 2,000 bytes can be written: neither checkpoints
    nor rows.
    """
    try:
        at_step(monkeypatch, 10, lambda: limit_files(2000))
        save, seen = Training.save, []

        def watch(self, number, *rest):
            save(self, number, *rest)
            if number in (7, 14):
                self.checkpoints.wait()
            if number == 14:
                seen.extend(self.checkpoints.steps())
            if number == 21:
                limit_files(resource.RLIM_INFINITY)
                save(self, number, *rest)

        monkeypatch.setattr(Training, "save", watch)
        result = go(tmp_path / "run")
    finally:
        limit_files(resource.RLIM_INFINITY)
    said = capsys.readouterr().err
    assert (
        "warning: checkpoint 14 could not be written" in said
        and "Training continues" in said
        and "Traceback" not in said
    )
    assert seen == [7] and result["step"] == 32
    assert not list((tmp_path / "run/checkpoints").glob("*tmp*"))
    assert numbers(tmp_path / "run") == numbers(whole)
    assert_trees_close(final_state(tmp_path / "run"), final_state(whole))


def test_an_end_that_cannot_be_saved_is_an_error(tmp_path, monkeypatch):
    try:
        at_step(monkeypatch, 30, lambda: limit_files(2000))
        with pytest.raises(
            CheckpointError, match="step 32 is done, but could not be saved"
        ) as caught:
            go(tmp_path / "run")
    finally:
        limit_files(resource.RLIM_INFINITY)
    assert caught.value.exit_code == 4
    assert go(tmp_path / "run")["step"] == 32


def test_a_foreign_checkpoint_is_refused_by_name(tmp_path, whole):
    """The run folder says lenet5 with ten classes; somebody has put another network's checkpoint
    into it.
    """
    other = tmp_path / "other"
    go(other, "--config.model.num_classes=12")
    config = json.loads((other / "config.json").read_text())
    config["model"]["num_classes"] = 0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match="checkpoints/32 is of another network: output/bias is"
    ) as caught:
        go(other)
    assert "(12,) there and (10,) here" in str(caught.value) and caught.value.exit_code == 4
    assert (other / "checkpoints/32").is_dir()


def test_a_changed_config_is_shown_and_harmless_keys_pass(tmp_path, whole):
    with pytest.raises(UserError, match=r"optim\.momentum: 0\.9 -> 0\.8; seed: 0 -> 1"):
        go(whole, "--config.optim.momentum=0.8", "--config.seed=1")
    assert (
        go(
            whole,
            "--config.checkpoint.every=3",
            "--config.rollbacks=9",
            "--config.log.tensorboard=true",
        )["step"]
        == 32
    )


def test_the_best_so_far_survives_resume(tmp_path, monkeypatch):
    """Evaluations at 17 and 32 with made-up accuracies; the run is interrupted between them."""
    monkeypatch.setattr(Training, "evaluate", made_up({17: 0.9, 28: 0.5, 32: 0.4}))
    every = ["--config.checkpoint.every=17", "--config.checkpoint.keep=1"]
    at_step(monkeypatch, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        go(tmp_path / "run", *every)
    go(tmp_path / "run", *every)
    assert sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()) == [17, 32]


def test_the_best_is_saved_where_no_checkpoint_is_due(tmp_path, monkeypatch):
    """Evaluations at 8, 16, 24 and 32, checkpoints at 30 only; an interruption forgets nothing."""
    monkeypatch.setattr(Training, "evaluate", made_up({8: 0.3, 16: 0.9, 24: 0.5, 32: 0.4}))
    every = [
        "--config.checkpoint.every=30",
        "--config.checkpoint.keep=1",
        "--config.log.eval_every=8",
    ]
    at_step(monkeypatch, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        go(tmp_path / "run", *every)
    go(tmp_path / "run", *every)
    assert sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()) == [16, 32]


def made_up(values):
    def evaluate(self, number):
        self.result = {"loss": 1.0, "top1": values[number], "examples": 1}
        return self.result

    return evaluate


def poison(monkeypatch, bad):
    """The loss of these (attempt, step)s is not a number, from data that is none."""
    from train.build import Task

    batches = Task.batches

    def poisoned(self, start, attempt=0):
        for number, batch in enumerate(batches(self, start, attempt), start + 1):
            image = batch["image"].astype(np.float32)
            yield batch | {"image": image * np.nan if (attempt, number) in bad else image}

    monkeypatch.setattr(Task, "batches", poisoned)


def test_stop_names_the_step(tmp_path, monkeypatch):
    poison(monkeypatch, {(0, 13)})
    with pytest.raises(DivergedError, match="the loss of step 13 is nan"):
        go(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["7"]


def test_skip_counts_and_goes_on(tmp_path, monkeypatch):
    poison(monkeypatch, {(0, 12), (0, 14)})
    result = go(tmp_path / "run", "--config.on_nan=skip")
    rows = {row["step"]: row for row in numbers(tmp_path / "run") if row["split"] == "train"}
    assert [row.get("skipped", 0) for row in rows.values()] == [0, 0, 2, 0, 0, 0, 0]
    assert np.isfinite([row["loss"] for row in rows.values()]).all() and np.isfinite(result["loss"])


def test_nothing_but_skipped_updates_is_diverged(tmp_path, monkeypatch):
    poison(monkeypatch, {(0, number) for number in range(11, 40)})
    with pytest.raises(DivergedError, match="all of the last 5 updates were skipped"):
        go(tmp_path / "run", "--config.on_nan=skip")


def test_rollback_goes_back_and_on_in_another_order(tmp_path, monkeypatch, whole, capfd):
    poison(monkeypatch, {(0, 13)})
    go(tmp_path / "run", "--config.on_nan=rollback")
    assert (
        "the loss of step 13 is nan" in (said := capfd.readouterr().err)
        and "resuming at step 7 of 32" in said
    )
    rows, undisturbed = numbers(tmp_path / "run"), numbers(whole)
    assert [row["step"] for row in rows] == [row["step"] for row in undisturbed]
    # Step 5, and step 10 after checkpoint 7. A program with another on_nan may round otherwise.
    first, second = ((a["loss"], b["loss"]) for a, b in zip(rows[:2], undisturbed))
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert second[0] != pytest.approx(second[1], rel=1e-5)

    # What comes later remembers the order.
    at_step(monkeypatch, 20, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        go(tmp_path / "again", "--config.on_nan=rollback")
    go(tmp_path / "again", "--config.on_nan=rollback")
    assert numbers(tmp_path / "again") == rows


def test_rollbacks_are_counted(tmp_path, monkeypatch):
    poison(monkeypatch, {(attempt, 13) for attempt in range(9)})
    with pytest.raises(DivergedError, match=r"step 13 is nan.*; 2 rollback\(s\) did not help"):
        go(tmp_path / "run", "--config.on_nan=rollback", "--config.rollbacks=2")


def test_a_plateau_survives_resume(tmp_path, monkeypatch):
    """Its memory is in the state: the rate is reduced at the same step, and stays so."""
    options = [
        "--config.optim.schedule=plateau",
        "--config.optim.patience=1",
        "--config.optim.warmup=0",
        "--config.log.eval_every=4",
    ]
    accuracies = {4: 0.5, 8: 0.6, 12: 0.6, 16: 0.7, 20: 0.7, 24: 0.8, 28: 0.8, 32: 0.9}

    def evaluate(self, number):
        made_up(accuracies)(self, number)
        self.state = self.task.observe(self.state, self.result["top1"])
        return self.result

    monkeypatch.setattr(Training, "evaluate", evaluate)
    go(tmp_path / "whole", *options)
    rates = {row["step"]: row["lr"] for row in numbers(tmp_path / "whole")}
    expected = {5: 0.05, 10: 0.05, 15: 0.005, 20: 0.005, 25: 0.0005, 30: 0.00005, 32: 0.00005}
    assert rates == pytest.approx(expected)
    at_step(monkeypatch, 19, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        go(tmp_path / "run", *options)
    go(tmp_path / "run", *options)
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


def test_out_of_memory_says_what_to_lower(tmp_path, monkeypatch):
    from train.build import Task

    def fail(self, start, attempt=0):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(Task, "batches", fail)
    with pytest.raises(UserError) as caught:
        go(tmp_path / "run")
    sentence = str(caught.value)
    assert sentence.startswith(
        "out of memory with lenet5 and 64 images at once on each of 1 device(s)"
    )
    assert (
        "parallel.accumulate=2" in sentence
        and "model.dtype=bfloat16" in sentence
        and "remat" not in sentence
    )


def test_out_of_memory_in_evaluation_names_its_batch(tmp_path, monkeypatch):
    from train.evaluator import Evaluator

    def fail(self, *_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(Evaluator, "__call__", fail)
    with pytest.raises(
        UserError, match=r"out of memory in evaluation; try less than data\.eval_batch_size=128"
    ):
        go(tmp_path / "run")


def test_dry_run(capsys, tmp_path):
    result = main(
        [f"--config={ROOT}/configs/lenet_mnist.py", f"--workdir={tmp_path / 'run'}", "--dry_run"]
    )
    said = capsys.readouterr().err
    assert result["parameters"] == 61706 and result["multiply_adds"] == 416520
    assert result["device_bytes"] > result["state_bytes"] > 2 * 4 * 61706
    assert "61,706 parameters" in said and "█" in said and not (tmp_path / "run").exists()


def test_dry_run_without_the_data(capsys, tmp_path, monkeypatch):
    """MNIST is nowhere, but how many digits it has is known."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    options = ["--config.parallel.devices=1", f"--workdir={tmp_path / 'run'}", "--dry_run"]
    assert main([f"--config={ROOT}/configs/lenet_1998.py", *options])["steps"] == 20 * 60_000
    assert "is not prepared in" in capsys.readouterr().err
    with pytest.raises(DataError, match="tfds:mnist2 "):
        main([f"--config={ROOT}/configs/lenet_1998.py:tfds:mnist2", *options])
