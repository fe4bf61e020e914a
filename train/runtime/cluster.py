"""Several processes of one run: how they find each other, and how they end when one is gone."""

import ctypes
import glob
import os
import re
import signal
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.errors import LostError, UserError

# Seconds: to wait for the others at the start; until a process that gives no sign of life counts as
# dead; to wait for the others at the end.
MEET_WITHIN, DEAD_AFTER, LEAVE_WITHIN = 300, 20, 30

# Launcher -> the variables in which it tells how many processes there are and which this one is.
LAUNCHERS = {
    "JAX": ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "MPI": ("PMI_SIZE", "PMI_RANK"),
}

AUTO = "auto"  # a coordinator that jax finds itself

# Variables that restrict the GPUs that a process sees.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

# Parts of the messages of errors that mean that another process is gone.
SIGNS_OF_LOSS = (
    "Gloo",
    "NCCL",
    "coordination",
    "Connection reset",
    "Connection closed",
    "heartbeat",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)

_handlers: list[Any] = []  # C keeps the address of a handler only, so Python must keep the handler


class Connection:
    """This process's part in a run of several; `exit_code` is what it ends with if jax aborts it.

    jax aborts a process from a thread of its own when another one dies. That gets a sentence here.
    """

    def __init__(self) -> None:
        self.exit_code = LostError.exit_code

        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def on_abort(_):
            if self.exit_code == LostError.exit_code:
                print(f"error: {LostError.sentence}", file=sys.stderr, flush=True)
            os._exit(self.exit_code)

        _handlers.append(on_abort)
        ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)


def launcher() -> tuple[str, int, int]:
    """(name, number of processes, rank) from the environment; ("", 1, 0) for a single one.

    SLURM counts the tasks of this very step, so that a batch script, or a shell on one of the
    nodes, is a single process.
    """
    for name, variables in LAUNCHERS.items():
        size, rank = (os.environ.get(variable, "") for variable in variables)
        if size.isdigit() and rank.isdigit() and int(size) > 1:
            return name, int(size), int(rank)
    environment = os.environ.get
    hosts = environment("TPU_WORKER_HOSTNAMES") or environment("TPU_PROCESS_ADDRESSES") or ""
    if "," in hosts:
        number = environment("TPU_WORKER_ID") or environment("CLOUD_TPU_TASK_ID") or 0
        return "TPU", hosts.count(",") + 1, int(number)
    return "", 1, 0


def tasks_of_node() -> tuple[int, int]:
    """(processes of this run on this node, which of them this is); (1, 0) where nobody says."""
    environment = os.environ.get
    # SLURM writes "4(x2),3": two nodes with four tasks, and one with three.
    pattern = r"(\d+)(?:\(x(\d+)\))?"
    groups = re.findall(pattern, environment("SLURM_STEP_TASKS_PER_NODE", ""))
    if groups:
        tasks = [int(count) for count, nodes in groups for _ in range(int(nodes or 1))]
        node = min(int(environment("SLURM_NODEID", "0")), len(tasks) - 1)
        return tasks[node], int(environment("SLURM_LOCALID", "0"))
    size, rank = (environment(f"OMPI_COMM_WORLD_LOCAL_{name}", "") for name in ("SIZE", "RANK"))
    return (int(size), int(rank)) if size.isdigit() and rank.isdigit() else (1, 0)


def visible_gpus() -> int:
    """How many GPUs this process sees."""
    for name in VISIBLE:
        if name in os.environ:
            return len([gpu for gpu in os.environ[name].split(",") if gpu.strip()])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def gpus_of_process() -> list[int]:
    """Which of the GPUs that it sees this process uses; none are named if it uses all of them.

    A process that is alone on its node uses all of the node's GPUs. Several divide them, unless the
    launcher has given each process its own.

    Raises:
        UserError: they do not divide.
    """
    (tasks, place), seen = tasks_of_node(), visible_gpus()
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if tasks == 1 or seen < max(tasks, int(granted) if granted.isdigit() else 0):
        return []
    if seen % tasks:
        raise UserError(f"{tasks} processes on this node cannot divide its {seen} GPUs evenly")
    share = seen // tasks
    return list(range(place * share, (place + 1) * share))


def check_devices() -> None:
    """Process 0 of several says which devices of the nodes are used.

    Raises:
        UserError: SLURM granted more GPUs than that, or the processes are not connected.
    """
    count, own = jax.process_count(), jax.local_devices()
    if count > 1 and not jax.distributed.is_initialized():
        raise UserError(
            f"this is one of {count} processes, and nothing says how they find each other: add "
            "--coordinator=auto, as on TPU VMs, or --coordinator=HOST:PORT"
        )
    tasks, _ = tasks_of_node()
    used, kind = tasks * len(own), own[0].platform
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if granted.isdigit() and used < int(granted) and "JAX_PLATFORMS" not in os.environ:
        hint = "; pip install 'jax[cuda12]' adds GPUs to jax" if kind == "cpu" else ""
        raise UserError(
            f"SLURM grants {granted} GPUs of this node, but {tasks} process(es) on it use {used} "
            f"{kind} device(s){hint}"
        )
    if count > 1 and jax.process_index() == 0:
        print(
            f"{count} processes, {tasks} on this node: {used} {kind} device(s) of it, "
            f"{jax.device_count()} in all",
            file=sys.stderr,
            flush=True,
        )


def connect(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    timeout: int = MEET_WITHIN,
    heartbeat: int = DEAD_AFTER,
) -> Connection | None:
    """Joins this process to the others of its run, before anything else of jax.

    What is not given comes from the launcher: SLURM, Open MPI, a TPU pod, or the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Args:
        coordinator: HOST:PORT of process 0; "auto" leaves everything to jax, as on TPU VMs.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        timeout: seconds to wait for the others.
        heartbeat: seconds without a sign of life after which a process counts as dead. A process
            that is suspended for longer ends the run.

    Returns:
        The connection, or None in a single process, where nothing happens.

    Raises:
        UserError: something is missing, or the others did not come in time.
    """
    name, size, rank = launcher()
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    size, rank = num_processes or size, process_id if process_id >= 0 else rank
    if not coordinator and not num_processes and size == 1:
        return None
    if not coordinator and name not in ("SLURM", "Open MPI", "TPU"):
        raise UserError(f"{size} processes need --coordinator=HOST:PORT of process 0")
    given: dict[str, Any] = {}
    if coordinator and coordinator != AUTO:
        if size < 1 or not 0 <= rank < size:
            raise UserError(
                f"--num-processes={size} and --process-id={rank} do not fit: ids count from 0"
            )
        given = dict(coordinator_address=coordinator, num_processes=size, process_id=rank)
        given["cluster_detection_method"] = "deactivate"
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # Left to jax, a process of SLURM or Open MPI takes one GPU of its node.
        given["local_device_ids"] = gpus_of_process()
    if rank == 0:
        others = f"{size} processes" if size > 1 else "the other processes"
        print(f"waiting for {others} ({name or coordinator})…", file=sys.stderr, flush=True)
    connection = Connection()  # first, for jax aborts where the others do not come
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=LEAVE_WITHIN,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        place = coordinator or name
        raise UserError(f"process {rank} of {size} found no others at {place}: {reason}") from None
    return connection


def is_lost_peer(error: Exception) -> bool:
    """Whether an error of a collective, or of jax's coordination service, means a lost process."""
    return jax.process_count() > 1 and any(sign in str(error) for sign in SIGNS_OF_LOSS)


def first_process_says(value: bool = True) -> bool:
    """The first process's value, on all of them, which wait for it."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
