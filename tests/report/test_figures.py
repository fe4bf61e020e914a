"""The report's pictures say numbers, names and true classes."""

import numpy as np
import pytest

from train.report import explain, figures


@pytest.mark.parametrize(
    "losses", [(0.9, 0.8), (0.5, 0.2), (2.0, 0.01), (0.31, 0.02), (0.0, 0.0)], ids=str
)
def test_curves_have_numbers_on_their_axes(losses):
    rows = [
        {"step": 10 * k, "split": "train", "loss": loss, "top1": 1 - loss / 2, "lr": 0.1}
        for k, loss in enumerate(losses, start=1)
    ]
    fig = figures.plot_curves({"": rows})
    fig.canvas.draw()
    for ax in fig.axes:
        low, high = ax.get_ylim()
        ticks = zip(ax.get_yticks(), ax.get_yticklabels())
        shown = [label.get_text() for at, label in ticks if low <= at <= high]
        assert sum(map(bool, shown)) >= 2, f"{ax.get_title()}: {shown}"


def test_mistakes_are_numbered_and_the_surest_comes_first():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1])
    wrong = figures.worst(probabilities, labels)
    assert wrong.tolist() == [2, 1]
    fig = figures.plot_mistakes(
        wrong,
        probabilities,
        labels,
        ("good", "bad"),
        lambda rows: np.zeros((len(rows), 4, 4, 1), np.uint8),
    )
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["1: bad (70%)\ntrue good", "2: bad (60%)\ntrue good"]


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_flat_map_leaves_the_image_as_it_is(value):
    image = np.full((16, 16, 1), 200, np.uint8)
    heat = np.full((4, 4), value)
    assert explain.flat(heat) and (explain.overlay(image, heat) == 200).all()
    heat[1, 1] += 0.5
    assert explain.flat(heat) == (value < 0)


def test_a_fall_is_marked_as_a_fall():
    image, fall = np.full((16, 16, 1), 200, np.uint8), np.zeros((4, 4))
    assert figures.occluded(image, fall)[1] == "occlusion: no fall"
    fall[1, 1] = 0.09
    drawn, title = figures.occluded(image, fall)
    assert title == "occlusion: −9%" and (drawn != 200).any()
