"""The chips that steps are compiled for: their names, peaks and memory."""

import math
import re
from typing import NamedTuple

from cnnjax.spelling import nearest
from train.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """A kind of TPU or GPU: its published peaks, and the memory that a program may take.

    Attributes:
        flops: a second, in bfloat16.
        bandwidth: bytes a second, of its memory.
        memory: bytes.
        platform: "tpu" or "cuda".
    """

    flops: float
    bandwidth: float
    memory: float
    platform: str = "tpu"

    @property
    def multiply_adds(self) -> float:
        return self.flops / 2


# Peaks of TPUs: https://cloud.google.com/tpu/docs/v4 and so on. Memory: libtpu's message "exceeds
# available HBM"; of a v4 that of both cores, 15.25 GiB each. Of the H100 (SXM, Nvidia's data sheet)
# jax takes three quarters of 79.1 GiB, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
CHIPS = {
    "v4": Chip(275e12, 1200e9, 30.5 * GIB),
    "v5e": Chip(197e12, 819e9, 15.75 * GIB),
    "v5p": Chip(459e12, 2765e9, 95.74 * GIB),
    "v6e": Chip(918e12, 1638e9, 31.25 * GIB),
    "h100": Chip(989e12, 3352e9, 0.75 * 79.11 * GIB, "cuda"),
}
GPUS_OF_A_NODE = 8

# XLA's description of an H100 (its GpuTargetConfigProto), with the numbers of the device itself.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""


def chip_of(topology: str) -> Chip:
    return CHIPS[topology.partition(":")[0]]


def count_chips(topology: str) -> int:
    """The chips of a topology: "v5e:8x8" has 64 TPUs, "h100:16" has 16 GPUs.

    Raises:
        UserError: it is not one.
    """
    kind, _, grid = topology.partition(":")
    if kind not in CHIPS:
        hint = nearest(kind, CHIPS)
        raise UserError(f"--topology={topology}: no such chip; {hint}")
    if CHIPS[kind].platform == "cuda":
        return count_gpus(topology, grid)
    if not re.fullmatch(r"[1-9]\d?(x[1-9]\d?){1,2}", grid):
        raise UserError(f"--topology={topology} must be a chip and its grid, as in v5e:8x8")
    sides = [int(side) for side in grid.split("x")]
    if math.prod(sides) > 1 and (sides[0] % 2 or sides[1] % 2):
        raise UserError(
            f"--topology={topology}: a host has 2x2 chips, so the first two sides must be even"
        )
    return math.prod(sides)


def count_gpus(topology: str, number: str) -> int:
    """The same of GPUs, whose nodes have eight each."""
    if not re.fullmatch(r"[1-9]\d{0,3}", number):
        raise UserError(f"--topology={topology} must be a GPU and how many, as in h100:8")
    if int(number) > GPUS_OF_A_NODE and int(number) % GPUS_OF_A_NODE:
        raise UserError(
            f"--topology={topology}: a node has {GPUS_OF_A_NODE} GPUs, so more than "
            f"{GPUS_OF_A_NODE} must be a multiple of it"
        )
    return int(number)
