"""Block diagrams as SVG, drawn from a network's graph: every layer of it appears once."""

import html
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from train.lineage.graph import Graph, Node
from train.lineage.texts import Text

WIDTH, HEIGHT = 100, 24  # of a box
COLUMN, LINE = 112, 44  # distances of boxes
MARGIN = 8
KINDS = {
    "image": Text("image", "imagen"),
    "conv": Text("convolution", "convolución"),
    "dense": Text("dense", "densa"),
    "max pool": Text("max pool", "máx."),
    "average pool": Text("average", "media"),
    "norm": Text("LRN", "LRN"),
    "mean": Text("global average", "media global"),
    "concat": Text("concat", "unir"),
    "sum": Text("sum", "suma"),
}
INPUT = Text("input", "entrada")


class Block(NamedTuple):
    """A part of a network that is drawn as one: a direct child of it, or some plain layers."""

    name: str
    nodes: list[Node]


def blocks(graph: Graph) -> list[Block]:
    """The direct children of a network, in its order; together they have all layers but the image.

    A layer without a name belongs to the block before it.
    """
    owner, names = "", []
    for node in graph.nodes[1:]:
        first = node.name.partition("/")[0]
        if "/" in node.name or node.kind in ("conv", "dense") or not owner:
            owner = first
        names.append(first if node.kind not in ("concat", "sum") and first else owner)
    pairs = zip(names, graph.nodes[1:])
    return [Block(name, [node for _, node in of]) for name, of in groupby(pairs, lambda p: p[0])]


def block(graph: Graph, name: str) -> Block:
    """The block of a name.

    Raises:
        ValueError: there is none.
    """
    found = next((block for block in blocks(graph) if block.name == name), None)
    if found is None:
        raise ValueError(f"the network has no block {name!r}")
    return found


def label(node: Node, lang: str) -> str:
    """What stands in a box: "3×3 /2 · 128"."""
    if node.kind in ("conv", "max pool", "average pool"):
        text = "×".join(map(str, node.window)) + (f" /{node.stride}" if node.stride > 1 else "")
        kind = "" if node.kind == "conv" else f"{KINDS[node.kind](lang)} "
        return f"{kind}{text}" + (f" · {node.shape[-1]}" if node.kind == "conv" else "")
    kind = KINDS[node.kind](lang)
    return f"{kind} · {node.shape[-1]}" if node.kind in ("dense", "concat") else kind


def size(node: Node) -> str:
    return "×".join(map(str, node.shape))


class Place(NamedTuple):
    """The middle of a box."""

    x: float
    y: float


class Layout:
    """Where the boxes of a block stand: below what they read, branches side by side."""

    def __init__(self, nodes: Sequence[Node]):
        inside = {node.number for node in nodes}
        self.outside = list(
            dict.fromkeys(i for node in nodes for i in node.inputs if i not in inside)
        )
        self.nodes = {node.number: node for node in nodes}
        self.level = dict.fromkeys(self.outside, 0)
        for node in nodes:
            self.level[node.number] = 1 + max(self.level[i] for i in node.inputs)
        # Branches are the leaves of a tree: of the layers with one input. A merge ends them.
        self.children: dict[int, list[tuple[int, int]]] = {}
        for node in nodes:
            for number in node.inputs if len(node.inputs) > 1 else ():
                if any(other.inputs == (number,) for other in nodes) or number in self.outside:
                    # A shortcut: a way of its own, past the boxes, to the merge.
                    self.children.setdefault(number, []).append((number, node.number))
            if len(node.inputs) == 1:
                self.children.setdefault(node.inputs[0], []).append((-1, node.number))
        self.x: dict[int, float] = {}
        self.way: dict[tuple[int, int], float] = {}  # of a shortcut, by its ends
        self.columns = 0.0
        for number in self.outside:
            self.stand(number)
        for node in nodes:
            if len(node.inputs) > 1:
                ends = [self.way.get((i, node.number), self.x.get(i, 0.0)) for i in node.inputs]
                self.shift(node.number, sum(ends) / len(ends))
        self.least = min([0.0, *self.x.values(), *self.way.values()])

    def stand(self, number: int) -> float:
        """Gives a box and all below it their columns; the box stands above the middle of them."""
        below = []
        for start, end in self.children.get(number, ()):
            if start == number:
                self.way[start, end] = self.columns
                below.append(self.columns)
                self.columns += 1
            else:
                below.append(self.stand(end))
        if not below:
            below = [self.columns]
            self.columns += 1
        self.x[number] = (min(below) + max(below)) / 2
        return self.x[number]

    def shift(self, number: int, x: float) -> None:
        """Puts a merge, and what hangs below it, at a column."""
        columns, self.columns = self.columns, 0.0
        old = set(self.x)
        self.stand(number)
        move = x - self.x[number]
        moved = self.x.keys() - old
        for n in moved:
            self.x[n] += move
        for ends in self.way:
            if ends[0] in moved:
                self.way[ends] += move
        self.columns = max(columns, max(self.x.values()) + 1, *(w + 1 for w in self.way.values()))

    def place(self, number: int) -> Place:
        return Place(self.across(self.x[number]), MARGIN + HEIGHT / 2 + LINE * self.level[number])

    def across(self, column: float) -> float:
        """The middle of a column, in pixels."""
        return MARGIN + WIDTH / 2 + COLUMN * (column - self.least)

    def way_x(self, start: int, end: int) -> float:
        """Where the line from a box to a box goes down."""
        if len(self.nodes[end].inputs) == 1:
            return self.across(self.x[end])
        return self.across(self.way.get((start, end), self.x[start]))


def draw(nodes: Sequence[Node], title: str, lang: str = "en") -> str:
    """Some layers of a graph and what they read, as an SVG picture.

    Args:
        nodes: the layers, in the order of computation.
        title: what a screen reader says first.
        lang: of the words in it.
    """
    layout = Layout(nodes)
    parts = [line(layout, i, node.number) for node in nodes for i in node.inputs]
    for number in layout.outside:
        name = KINDS["image"] if number == 0 else INPUT
        parts.append(box(layout.place(number), name(lang), "io", ""))
    for node in nodes:
        told = f"{node.name} → {size(node)}"
        parts.append(box(layout.place(node.number), label(node, lang), css(node), told))
    places = [layout.place(number) for number in (*layout.outside, *layout.nodes)]
    ways = [layout.way_x(i, node.number) for node in nodes for i in node.inputs]
    width = max([place.x for place in places] + ways) + WIDTH / 2 + MARGIN
    height = max(place.y for place in places) + HEIGHT / 2 + MARGIN
    spoken = "; ".join(f"{node.name or node.kind} {label(node, lang)}" for node in nodes)
    return (
        f'<svg class="diagram" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" aria-label="{html.escape(f"{title}: {spoken}")}">'
        f"{''.join(parts)}</svg>"
    )


def css(node: Node) -> str:
    """The class of a box's colour."""
    return {"conv": "conv", "dense": "conv", "concat": "join", "sum": "join"}.get(node.kind, "pool")


def box(place: Place, text: str, kind: str, told: str) -> str:
    x, y = place.x - WIDTH / 2, place.y - HEIGHT / 2
    title = f"<title>{html.escape(told)}</title>" if told else ""
    return (
        f'<g class="{kind}">{title}<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" '
        f'rx="5"/><text x="{place.x:g}" y="{place.y + 4:g}">{html.escape(text)}</text></g>'
    )


def line(layout: Layout, start: int, end: int) -> str:
    """The line from a box to one that reads it: down its own column, then across."""
    a, b, x = layout.place(start), layout.place(end), layout.way_x(start, end)
    top, bottom = a.y + HEIGHT / 2, b.y - HEIGHT / 2
    turn, low = top + (LINE - HEIGHT) / 2, bottom - (LINE - HEIGHT) / 2
    points = [(a.x, top), (a.x, turn), (x, turn), (x, low), (b.x, low), (b.x, bottom)]
    return f'<polyline points="{" ".join(f"{px:g},{py:g}" for px, py in points)}"/>'
