"""Several real processes: equal to one, ended politely together, and not left hanging when one
dies.

One file, because the tests share the starting of processes.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from jax._src import distributed as jax_distributed

from tests.helpers import ROOT, assert_trees_close, command
from tests.train.test_resume import OPTIONS, final_state, last_row, numbers
from tests.train.test_step import Small, run
from train import parallel
from train.__main__ import main
from train.errors import UserError
from train.runtime import cluster

LAUNCHER_VARIABLES = {name for pair in cluster.LAUNCHERS.values() for name in pair} | {
    "JAX_COORDINATOR_ADDRESS"
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start_two(*arguments, own=((), ())):
    """Two processes of one device each; each the same command with its own place, and further
    arguments of its `own`.
    """
    coordinator = f"localhost:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [
                sys.executable,
                *arguments,
                *own[place],
                f"--coordinator={coordinator}",
                "--num-processes=2",
                f"--process-id={place}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for place in range(2)
    ]


def finish(processes, timeout=600):
    outputs = [process.communicate(timeout=timeout) for process in processes]
    return [process.returncode for process in processes], [errors for _, errors in outputs]


WORKER = """
import argparse, jax, numpy as np
parser = argparse.ArgumentParser()
parser.add_argument("--out"), parser.add_argument("--coordinator")
parser.add_argument("--num-processes", type=int), parser.add_argument("--process-id", type=int)
args = parser.parse_args()
from train.runtime import cluster
cluster.connect(args.coordinator, args.num_processes, args.process_id)
from tests.train.test_step import Small, run
state, _ = run(Small(), "shard_map", 0)
if jax.process_index() == 0:
    np.savez(args.out, *jax.tree.leaves(state))
"""


def test_two_processes_equal_one_with_synced_batchnorm(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    codes, errors = finish(start_two(str(tmp_path / "worker.py"), f"--out={tmp_path}/state.npz"))
    assert codes == [0, 0], errors
    expected, _ = run(Small(), "pmap", 1)
    with np.load(tmp_path / "state.npz") as found:
        actual = jax.tree.unflatten(jax.tree.structure(expected), found.values())
    assert_trees_close(actual, expected, atol=1e-6, rtol=1e-5)


def wait_for_row(processes, workdir, step):
    deadline = time.monotonic() + 120
    while last_row(workdir) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parity
def test_a_signal_to_one_saves_on_both_and_one_process_goes_on(tmp_path):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    processes = start_two("-m", "train", *OPTIONS, f"--workdir={workdir}")
    wait_for_row(processes, workdir, 15)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = finish(processes)
    assert codes == [75, 75], errors
    sentences = {e.splitlines()[-1] for e in errors}
    assert len(sentences) == 1 and "stopped by a signal after step" in sentences.pop()

    for place in (workdir, whole):
        done = command("train", *OPTIONS, f"--workdir={place}")
        assert done.returncode == 0, done.stderr
    (step, state), (expected_step, expected) = final_state(workdir), final_state(whole)
    assert step == expected_step == 96
    assert_trees_close(state, expected, atol=1e-5)  # sums in another order, for a part of the way
    assert [row["step"] for row in numbers(workdir)] == [row["step"] for row in numbers(whole)]


def test_two_processes_of_different_configs_do_not_train(tmp_path):
    """Both compare before the run folder is made, and both say what differs."""
    rates = (("--config.optim.lr=0.1",), ("--config.optim.lr=0.2",))
    processes = start_two("-m", "train", *OPTIONS, f"--workdir={tmp_path / 'run'}", own=rates)
    codes, errors = finish(processes, timeout=300)
    assert codes == [2, 2] and not (tmp_path / "run").exists()
    assert all("differ in optim.lr (0.1 and 0.2)" in text for text in errors), errors


@pytest.mark.parity
def test_two_processes_start_from_a_run_folder(tmp_path):
    """Each reads it to a device of its own."""
    main([*OPTIONS, "--config.epochs=0.2", f"--workdir={tmp_path / 'first'}"])
    more = [
        "--config.epochs=0.1",
        f"--config.init.weights={tmp_path / 'first'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    codes, errors = finish(start_two("-m", "train", *OPTIONS, *more))
    assert codes == [0, 0] and f"starting from {tmp_path / 'first'}" in errors[0], errors


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.parity)])
def test_when_one_dies_the_other_ends_with_a_sentence(tmp_path, victim):
    workdir = tmp_path / "run"
    processes = start_two("-m", "train", *OPTIONS, f"--workdir={workdir}", "--config.epochs=1000")
    wait_for_row(processes, workdir, 10)
    processes[victim].kill()
    died = time.monotonic()
    codes, errors = finish(processes, timeout=300)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 6, errors
    assert "another process of this run died" in errors[1 - victim]
    assert time.monotonic() - died < 60


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("", 1, 0)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, ("SLURM", 8, 3)),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ("", 1, 0)),  # the batch script itself
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ("", 1, 0)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, ("Open MPI", 4, 1)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, ("MPI", 2, 1)),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "PMI_SIZE": "9", "PMI_RANK": "0"},
            ("JAX", 2, 1),
        ),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}, ("TPU", 4, 2)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, ("", 1, 0)),
    ],
)
def test_launchers(monkeypatch, environment, expected):
    for name in (
        *LAUNCHER_VARIABLES,
        "TPU_WORKER_HOSTNAMES",
        "TPU_PROCESS_ADDRESSES",
        "TPU_WORKER_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cluster.launcher() == expected


NODE = {  # what SLURM sets for a task of a step on two nodes of eight GPUs
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_GPUS_ON_NODE": "8",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}


def slurm(tasks, rank):
    place = {
        "SLURM_NTASKS": 2 * tasks,
        "SLURM_STEP_NUM_TASKS": 2 * tasks,
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x2)",
        "SLURM_PROCID": rank,
        "SLURM_NODEID": rank // tasks,
        "SLURM_LOCALID": rank % tasks,
    }
    return NODE | {name: str(value) for name, value in place.items()}


OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.7:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
NOBODY = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize("coordinator", ["", "node07:1234"])
@pytest.mark.parametrize(
    ("environment", "place", "gpus"),
    [
        (slurm(tasks=1, rank=1), (2, 1), "all"),  # a process a node
        (slurm(tasks=8, rank=11), (16, 11), "3"),  # a process a GPU, all visible
        (slurm(tasks=2, rank=3), (4, 3), "4,5,6,7"),
        (slurm(tasks=8, rank=11) | {"CUDA_VISIBLE_DEVICES": "0"}, (16, 11), "all"),  # its own
        (slurm(tasks=2, rank=3) | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (4, 3), "all"),
        (OPEN_MPI, (2, 1), "all"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, (2, 1), "0,1"),
        (NOBODY, (2, 1), "all"),
    ],
)
def test_gpus_that_jax_uses(monkeypatch, environment, place, gpus, coordinator):
    """jax's own code decides, up to the connection itself."""
    for name in {*LAUNCHER_VARIABLES, *NODE, *OPEN_MPI}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    connected = []
    fake = types.SimpleNamespace(connect=lambda: None)
    names = types.SimpleNamespace(
        get_distributed_runtime_client=lambda *args, **_: connected.append(args) or fake
    )
    state = jax_distributed.State()
    monkeypatch.setattr(jax_distributed, "_jax", names)
    monkeypatch.setattr(state, "initialize_preemption_sync_manager", lambda: None)
    monkeypatch.setattr(jax.distributed, "initialize", state.initialize)
    monkeypatch.setattr(cluster, "Connection", lambda: None)
    jax.config.update("jax_cuda_visible_devices", "all")
    if not coordinator and environment is NOBODY:
        coordinator = "localhost:1"
    try:
        cluster.connect(coordinator)
        assert jax.config.values["jax_cuda_visible_devices"] == gpus
    finally:
        jax.config.update("jax_cuda_visible_devices", "all")
    assert (state.num_processes, state.process_id) == place
    address, rank = connected[0]
    assert rank == place[1] and address.rpartition(":")[0] in ("node07", "10.0.0.7", "localhost")


def test_gpus_that_do_not_divide(monkeypatch):
    for name, value in slurm(tasks=3, rank=0).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="3 processes on this node cannot divide its 8 GPUs"):
        cluster.gpus_of_process()


def test_fewer_devices_than_the_launcher_granted_are_a_mistake(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, value in slurm(tasks=1, rank=0).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="grants 8 GPUs of this node, but 1 process"):
        cluster.check_devices()


def test_the_first_line_says_which_devices_are_used(monkeypatch, capsys):
    for name, value in (slurm(tasks=2, rank=0) | {"SLURM_GPUS_ON_NODE": "8"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    cluster.check_devices()
    own = jax.local_device_count()
    line = f"4 processes, 2 on this node: {2 * own} cpu device(s) of it, {own} in all\n"
    assert capsys.readouterr().err == line


def test_processes_that_do_not_know_each_other_are_a_mistake(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match="one of 4 processes, and nothing says how they find each"):
        cluster.check_devices()


def test_auto_leaves_everything_to_jax(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
    monkeypatch.setattr(cluster, "Connection", lambda: "connected")
    assert cluster.connect("auto") == "connected"
    assert {"coordinator_address", "num_processes", "process_id"}.isdisjoint(given)
    assert "cluster_detection_method" not in given


def test_pmap_is_for_one_process(monkeypatch):
    """With a donated state it would fail at the second step, deep inside."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"parallel\.mapping=pmap is for one process"):
        parallel.Parallel("pmap")


def test_incomplete_flags(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="2 processes need --coordinator=HOST:PORT"):
        cluster.connect(num_processes=2, process_id=0)
    with pytest.raises(UserError, match="--num-processes=2 and --process-id=2 do not fit"):
        cluster.connect("localhost:1", 2, 2)
