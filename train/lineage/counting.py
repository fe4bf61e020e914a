"""Decides the claims of `counted.py`: parameters, multiply-adds, receptive fields, depth.

All figures are traced from the modules. The small ones are here; the networks are the registry's.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from cnnjax import analysis
from cnnjax.models.layers import ConvRelu, global_avg_pool, max_pool
from train.lineage.claims import Count, Counting
from train.lineage.graph import trace

CHANNELS = 64  # of the small modules; the shares do not depend on it


class Stack(nn.Module):
    """Convolutions with ReLU, one after the other: (N, H, W, C) -> (N, H, W, C)."""

    kernels: tuple[tuple[int, int], ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for number, kernel in enumerate(self.kernels, 1):
            x = ConvRelu(x.shape[-1], kernel, name=f"conv{number}")(x)
        return x


class Pyramid(nn.Module):
    """Two 3x3 convolutions in each of four stages with a pooling between.

    (N, H, W, 64) -> (N, H/8, W/8, 64 growth³). The channels grow where the map halves.
    """

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        for stage in range(4):
            x = max_pool(x, 2, 2) if stage else x
            for number in (1, 2):
                name = f"stage{stage + 1}_conv{number}"
                x = ConvRelu(CHANNELS * self.growth**stage, (3, 3), name=name)(x)
        return x


class Classifier(nn.Module):
    """What turns the last map into scores: (N, H, W, C) -> (N, 1000).

    A global average and one dense layer (GoogLeNet), or three dense layers over the map (VGG).
    """

    average: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if self.average:
            x = global_avg_pool(x)
        else:
            x = x.reshape(x.shape[0], -1)
            x = nn.relu(nn.Dense(4096, name="fc6")(x))
            x = nn.relu(nn.Dense(4096, name="fc7")(x))
        return nn.Dense(1000, name="head")(x)


def one(n: int) -> tuple[tuple[int, int], ...]:
    return ((n, n),)


def pair(n: int) -> tuple[tuple[int, int], ...]:
    return ((1, n), (n, 1))


@functools.cache
def count(module: nn.Module, size: tuple[int, int, int]) -> Count:
    """The figures of a module for one image (H, W, C)."""
    summary, graph = analysis.summarize(module, size), trace(module, size)
    costs = summary.parameters, summary.multiply_adds, summary.receptive_field
    return Count(*costs, graph.relus, graph.depth)


def stages(growth: int) -> list[int]:
    """The multiply-adds of the second convolution of each stage of a `Pyramid`."""
    rows = analysis.summarize(Pyramid(growth), (56, 56, CHANNELS)).layers
    return [row.multiply_adds for row in rows if row.name.endswith("conv2/conv")]


class Result(NamedTuple):
    """The counts of a claim's modules, by value of the switch, and the verdict."""

    counts: dict[Any, Count]
    verdict: str


def decide(claim: Counting) -> Result:
    """Counts the modules of a claim, and says whether its statement holds."""
    counts = {value: count(claim.module(value), claim.size_of(value)) for value in claim.values}
    holds = claim.holds(list(counts.values()))
    return Result(counts, "reproduced" if holds else "not reproduced")
