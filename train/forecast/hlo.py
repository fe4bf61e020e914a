"""Reads the program that XLA has optimized (its HLO text): work, traffic, collectives.

The least time is a roofline, operation by operation (Williams, Waterman, Patterson: Roofline,
2009). An operation takes at least the time of its arithmetic, and at least that of its traffic to
and from memory. Operations run one after another. Copies that XLA starts ahead run beside them, but
all traffic together takes its time too. Exchanges with other chips take none.

One parser of one text.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2} | dict.fromkeys(
    ("f32", "s32", "u32"), 4
)
SIZES |= dict.fromkeys(("f64", "s64", "u64"), 8)
SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
ELSEWHERE = re.compile(r"S\(\d+\)")  # a layout's mark of the chip's fast memories

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Names of what is there already, and the ends of what was started ahead.
FREE = {
    "parameter",
    "constant",
    "bitcast",
    "tuple",
    "get-tuple-element",
    "after-all",
    "partition-id",
    "replica-id",
    "add-dependency",
    "opt-barrier",
    "iota",
    "async-update",
}


class Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    operands: list[str]  # names; the number of a parameter
    attributes: str

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        keys = "calls|to_apply|body|true_computation|false_computation|called_computation"
        found = re.findall(rf"\b(?:{keys})=%?([\w.-]+)", self.attributes)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        return found + re.findall(r"[\w.-]+", branches[1] if branches else "")


Computation = dict[str, Instruction]


class Work(NamedTuple):
    """What a program does on one chip.

    Attributes:
        multiply_adds: of convolutions and matrix products, without those by a padding's zeros.
        bytes: to and from the chip's memory.
        seconds: the least time at the chip's peaks, see above.
        collectives: the bytes that a device puts into each exchange with the others.
        branches: conditionals.
    """

    multiply_adds: float = 0
    bytes: float = 0
    seconds: float = 0
    collectives: tuple[int, ...] = ()
    branches: int = 0

    def plus(self, other: "Work") -> "Work":
        pairs: Any = zip(self, other)
        return Work(*(a + b for a, b in pairs))

    def times(self, count: int) -> "Work":
        parts: Any = self
        return Work(*(count * part for part in parts))


def read(text: str, *, multiply_adds: float, bandwidth: float) -> Work:
    """The work of a program.

    Args:
        text: the HLO text of a scheduled module.
        multiply_adds: the chip's peak, a second.
        bandwidth: the peak of its memory, in bytes a second.
    """
    work = Reader(text, multiply_adds, bandwidth).work()
    return work._replace(seconds=max(work.seconds, work.bytes / bandwidth))


def collectives(text: str) -> tuple[int, ...]:
    """The bytes that a device puts into each exchange."""
    return Reader(text, math.inf, math.inf).work().collectives


def donated(text: str) -> int:
    """How many results take the memory of an argument."""
    return len(re.findall(r"(?:may|must)-alias", text.partition("\n")[0]))


def memory(text: str) -> tuple[int, int]:
    """(all bytes, those of arguments) in the chip's large memory, from XLA's buffer assignment."""
    lines = re.findall(r"^allocation \d+: size (\d+), (.*)$", text, flags=re.MULTILINE)
    kept = [(int(size), what) for size, what in lines if not re.search(r"color [1-9]", what)]
    return sum(size for size, _ in kept), sum(
        size for size, what in kept if what.startswith("parameter")
    )


class Reader:
    def __init__(self, text: str, peak: float, bandwidth: float):
        self.computations, self.entry = parse(text)
        self.peak, self.bandwidth = peak, bandwidth

    def work(self, name: str = "") -> Work:
        """Of a computation; by default of the whole program."""
        total, computation = Work(), self.computations[name or self.entry]
        for instruction in computation.values():
            total = total.plus(self.of(instruction, computation))
        return total

    def of(self, i: Instruction, computation: Computation) -> Work:
        if i.op in FREE or i.op.endswith("-done") or "AllocateBuffer" in i.attributes:
            return Work()
        if i.op.removesuffix("-start") in COLLECTIVES:
            moved = sum(size(computation[name].shape) for name in i.operands)
            return Work(collectives=(moved,))
        if i.op == "conditional":
            branches = [self.work(name) for name in i.called]
            longest = max(branches, key=lambda work: work.seconds)
            return longest.plus(Work(branches=1))
        if i.op == "while":
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.attributes)
            return self.work(i.called[0]).times(int(trips[1]) if trips else 1)
        if i.op == "call":
            return self.work(i.called[0])
        if i.op.endswith("-start"):
            return self.started(i)
        multiply_adds, traffic = self.multiply_adds(i, computation), self.traffic(i, computation)
        seconds = max(multiply_adds / self.peak, traffic / self.bandwidth)
        return Work(multiply_adds, traffic, seconds)

    def started(self, i: Instruction) -> Work:
        """A copy ahead, whose shape is (destination, source, …), or a collective in a wrapper."""
        inside = [self.work(name) for name in i.called if name in self.computations]
        if any(work.collectives for work in inside):
            return functools.reduce(Work.plus, inside)
        pair = [shape[0] for shape in SHAPE.finditer(i.shape)][:2]
        return Work(bytes=min(map(size, pair)) * sum(in_memory(shape) > 0 for shape in pair))

    def multiply_adds(self, i: Instruction, computation: Computation) -> float:
        if i.op == "fusion":
            return self.multiply_adds_inside(i.called[0])
        if i.op == "convolution":
            return of_convolution(i, computation)
        if i.op == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", i.attributes)
            left = dimensions(computation[i.operands[0]].shape)
            axes = [int(axis) for axis in (contracted[1] if contracted else "").split(",") if axis]
            return math.prod(dimensions(i.shape)) * math.prod(left[axis] for axis in axes)
        return 0

    @functools.cache  # noqa: B019 (a reader lives as long as its text)
    def multiply_adds_inside(self, name: str) -> float:
        computation = self.computations[name]
        return sum(self.multiply_adds(i, computation) for i in computation.values())

    def traffic(self, i: Instruction, computation: Computation) -> float:
        """Bytes that an operation reads from memory and writes there."""
        if i.op in ("slice", "dynamic-slice"):
            return 2 * in_memory(i.shape)
        if i.op == "dynamic-update-slice":
            return 2 * in_memory(computation[i.operands[1]].shape)
        inside = self.computations[i.called[0]] if i.op == "fusion" else {}
        parameters = {int(x.operands[0]): x.name for x in inside.values() if x.op == "parameter"}
        moved: float = in_memory(i.shape)
        for number, name in enumerate(i.operands):
            if name in computation:
                whole = in_memory(computation[name].shape)
                users = list(users_of(parameters[number], inside)) if inside else []
                moved += min(whole, read_of_part(users)) if users else whole
        return moved


def users_of(name: str, computation: Computation) -> Iterator[tuple[Instruction, int]]:
    """(instruction, place among its operands) for each use."""
    for user in computation.values():
        if user.op != "parameter":
            yield from ((user, at) for at, operand in enumerate(user.operands) if operand == name)


def read_of_part(users: list[tuple[Instruction, int]]) -> float:
    """Bytes that a fusion reads of an operand; infinite where it needs all of it."""
    total = 0
    for user, place in users:
        if user.op in ("slice", "dynamic-slice", "gather") and place == 0:
            total += size(user.shape)
        elif user.op != "dynamic-update-slice" or place != 0:
            return math.inf
    return total


def of_convolution(i: Instruction, computation: Computation) -> float:
    """Multiply-adds of a convolution, without those by zeros of its padding and dilation."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    assert labels, i.name
    image, kernel = (dimensions(computation[name].shape) for name in i.operands[:2])
    result = dimensions(i.shape)
    window = dict(
        part.split("=") for part in attribute(i.attributes, "window").strip("{}").split() if part
    )
    axes = sum(label.isdigit() for label in labels[1])
    one = "x".join("1" * axes)

    def numbers(key: str) -> list[int]:
        return [int(n) for n in window.get(key, one).split("x") if n]

    pads = window.get("pad", "x".join(["0_0"] * axes)).split("x")
    pairs = 1
    for axis, taps in enumerate(numbers("size")):
        extent = image[labels[1].index(str(axis))]
        places = result[labels[3].index(str(axis))]
        low = int(pads[axis].split("_")[0])
        pairs *= meetings(
            extent,
            taps,
            places,
            numbers("stride")[axis],
            low,
            numbers("lhs_dilate")[axis],
            numbers("rhs_dilate")[axis],
        )
    groups = re.search(r"batch_group_count=(\d+)", i.attributes)
    channels = kernel[labels[2].index("i")] / (int(groups[1]) if groups else 1)
    return pairs * result[labels[3].index("b")] * result[labels[3].index("f")] * channels


@functools.cache
def meetings(
    extent: int, taps: int, places: int, stride: int, low: int, hole: int, spread: int
) -> int:
    """Pairs of a result and a tap that meet a real element of the image, along one axis."""
    at = np.arange(places)[:, None] * stride + np.arange(taps) * spread - low
    return int(np.sum((at >= 0) & (at % hole == 0) & (at < extent * hole)))


def attribute(attributes: str, key: str) -> str:
    found = re.search(rf"\b{key}=(\{{[^}}]*\}})", attributes)
    return found[1] if found else ""


def dimensions(shape: str) -> list[int]:
    """Of the first array of a shape."""
    found = SHAPE.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def size(shape: str) -> int:
    """Bytes of all arrays of a shape."""
    return sum(
        SIZES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims, _ in SHAPE.findall(shape)
    )


def in_memory(shape: str) -> int:
    """Bytes of those arrays of a shape that lie in the chip's large memory."""
    arrays = (found[0] for found in SHAPE.finditer(shape))
    return sum(size(array) for array in arrays if not ELSEWHERE.search(array))


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations by name, and the name of the one that runs."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{\s*$", line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = parse_instruction(line.strip().removeprefix("ROOT "))
            current[instruction.name] = instruction
    return computations, entry


def parse_instruction(line: str) -> Instruction:
    """`%name = shape op(operands), attributes`."""
    name, _, rest = line.partition(" = ")
    end = closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    op, _, _ = rest.partition("(")
    end = closing(rest, len(op))
    inside = rest[len(op) + 1 : end]
    operands = [inside] if op == "parameter" else re.findall(r"%([\w.-]+)", inside)
    return Instruction(name.lstrip("%"), shape, op, operands, rest[end + 1 :])


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)
