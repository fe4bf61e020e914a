"""Several processes of one run: how they find each other, and how they end when one is gone."""

import ctypes
import os
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
        coordinator: HOST:PORT of process 0.
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
    if coordinator and (size < 1 or not 0 <= rank < size):
        raise UserError(
            f"--num-processes={size} and --process-id={rank} do not fit: ids count from 0"
        )
    given: dict[str, Any] = {}
    if coordinator:
        given = dict(coordinator_address=coordinator, num_processes=size, process_id=rank)
    if rank == 0:
        print(f"waiting for {size} processes ({name or coordinator})…", file=sys.stderr, flush=True)
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
