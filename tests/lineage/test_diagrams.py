"""Diagrams are the modules: every convolution once, what it reads, how deep the network is."""

import re

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnnjax import create_model, get_spec
from tests.helpers import ROOT
from train.lineage import diagrams
from train.lineage.graph import trace
from train.lineage.story import CHAPTERS

DEPTHS = {"lenet5": 5, "alexnet": 8, "vgg19": 19, "inception_v1": 22, "inception_v3": 48}


def convolutions(name, heads):
    """The convolutions of a network, by its golden list of variables."""
    lines = (ROOT / f"tests/models/golden/{name}.txt").read_text().splitlines()
    found = [re.fullmatch(r"params/(.+)/kernel (\d+)x(\d+)x\d+x\d+", line) for line in lines]
    return sorted(m[1] for m in found if m and (heads or not m[1].startswith("aux")))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.model)
def test_the_whole_network_has_each_convolution_once(chapter):
    model, size = create_model(chapter.model), get_spec(chapter.model).input_size
    graph = trace(model, size, train=chapter.heads)
    blocks = diagrams.blocks(graph)
    for block in blocks:
        check(block.nodes)
    drawn = "".join(diagrams.draw(block.nodes, block.name) for block in blocks)
    named = re.findall(r'<g class="conv"><title>(\S+) → \S+</title>', drawn)
    dense = {node.name for node in graph.nodes if node.kind == "dense"}
    assert sorted(set(named)) == sorted(named)
    assert sorted(set(named) - dense) == convolutions(chapter.model, chapter.heads)
    assert len(re.findall("<rect", drawn)) == len(graph.nodes) - 1 + inputs(blocks)
    assert {picture.block for picture in chapter.pictures} <= {block.name for block in blocks}
    if chapter.model in DEPTHS:
        assert graph.depth == DEPTHS[chapter.model]


def inputs(blocks):
    """The boxes of what blocks read from elsewhere."""
    return sum(len(diagrams.Layout(block.nodes).outside) for block in blocks)


class Residual(nn.Module):
    """A branch of three layers, a branch of one, joined; and a shortcut past both."""

    @nn.compact
    def __call__(self, x, *, train=False):
        a = nn.relu(nn.Conv(4, (1, 1), name="a1")(x))
        a = nn.Conv(4, (1, 7), name="a2")(a)
        a = nn.Conv(4, (7, 1), name="a3")(a)
        b = nn.Conv(4, (3, 3), name="b")(x)
        y = nn.Conv(x.shape[-1], (1, 1), name="up")(jnp.concatenate([a, b], axis=-1))
        return nn.Dense(10, name="head")(nn.relu(x + 0.1 * y).mean((1, 2)))


def test_a_graph_says_what_each_layer_reads():
    graph = trace(Residual(), (14, 14, 8))
    nodes = {node.name or node.kind: node for node in graph.nodes}
    reads = {name: [graph.nodes[i].name for i in node.inputs] for name, node in nodes.items()}
    assert reads["a1"] == reads["b"] == [""] and reads["a3"] == ["a2"]
    kinds = [node.kind for node in graph.nodes]
    assert kinds == ["image", *["conv"] * 4, "concat", "conv", "sum", "mean", "dense"]
    joined, total = graph.nodes[5], graph.nodes[7]
    assert [graph.nodes[i].name for i in joined.inputs] == ["a3", "b"]
    assert [graph.nodes[i].name for i in total.inputs] == ["", "up"]
    assert nodes["a2"].window == (1, 7) and nodes["a2"].shape == (14, 14, 4)
    assert graph.depth == 5 and graph.relus == 2


def test_boxes_do_not_overlap_and_stand_below_what_they_read():
    check(trace(Residual(), (14, 14, 8)).nodes[1:])


def check(nodes):
    layout = diagrams.Layout(nodes)
    places = [layout.place(number) for number in (*layout.outside, *layout.nodes)]
    for i, a in enumerate(places):
        assert a.x >= diagrams.WIDTH / 2
        for b in places[:i]:
            assert abs(a.x - b.x) >= diagrams.WIDTH or abs(a.y - b.y) >= diagrams.HEIGHT
    for node in nodes:
        assert all(layout.place(i).y < layout.place(node.number).y for i in node.inputs)


def test_a_diagram_speaks_and_has_words_of_the_language():
    graph = trace(create_model("lenet5"), (32, 32, 1))
    picture = diagrams.draw(graph.nodes[1:3], "LeNet <5>", "es")
    assert 'role="img"' in picture and "LeNet &lt;5&gt;: c1 5×5 · 6; s2 media 2×2 /2" in picture
    assert "imagen" in picture and "image<" not in picture


def test_a_block_that_is_not_there():
    with pytest.raises(ValueError, match="no block 'mixed9z'"):
        diagrams.block(trace(create_model("lenet5"), (32, 32, 1)), "mixed9z")
