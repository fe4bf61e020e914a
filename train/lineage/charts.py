"""Charts as SVG: bars, dots with intervals, and a scatter. Their colours are the page's."""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

LEFT, RIGHT, ROW = 170, 92, 26  # room for names and for numbers, and the height of a line
WIDTH = 640


def number(value: float, lang: str, digits: int = 3) -> str:
    """A number with a few digits, as the language writes it: 23.8 M, 0,512."""
    size = abs(value)
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if size >= limit:
            text = f"{value / (1e3 if unit == ' k' else limit):.{digits}g}{unit}"
            break
    else:
        text = f"{value:.{digits}g}" if size < 100 or size != round(size) else f"{value:.0f}"
    return text.replace(".", ",") if lang == "es" else text


def svg(height: float, parts: Sequence[str], title: str, spoken: str, width: float = WIDTH) -> str:
    """A picture with what a screen reader says of it."""
    words = html.escape(f"{title}: {spoken}")
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" aria-label="{words}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        f"{f' class={kind!r}' if kind else ''}>{html.escape(words)}</text>"
    )


def bars(rows: Sequence[tuple[str, float]], title: str, lang: str, unit: str = "") -> str:
    """A bar for each (name, value), from zero."""
    top, room = max(value for _, value in rows) or 1, WIDTH - LEFT - RIGHT
    parts, spoken = [], []
    for place, (name, value) in enumerate(rows):
        y, told = 4 + ROW * place, number(value, lang) + unit
        parts.append(text(LEFT - 8, y + 15, name, "end"))
        length = room * value / top
        parts.append(
            f'<rect class="bar" x="{LEFT}" y="{y}" width="{length:.1f}" height="{ROW - 8}" rx="2"/>'
        )
        parts.append(text(LEFT + length + 6, y + 15, told))
        spoken.append(f"{name} {told}")
    return svg(8 + ROW * len(rows), parts, title, ", ".join(spoken))


class Series(NamedTuple):
    """Values of one setting: each seed's, their mean, and the interval of it."""

    name: str
    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None


def scale(low: float, high: float, room: float, start: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + room * (value - low) / span


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / count or 1))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= count)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def dots(rows: Sequence[Series], title: str, lang: str) -> str:
    """For each setting a dot a seed, and the mean with its interval below them."""
    every = [value for row in rows for value in row.values]
    every += [end for row in rows for end in (row.low, row.high) if end is not None]
    low, high = min(every), max(every)
    low, high = low - 0.04 * (high - low or 1), high + 0.04 * (high - low or 1)
    room, line = WIDTH - LEFT - RIGHT, 34
    x, bottom = scale(low, high, room, LEFT), 6 + line * len(rows)
    parts, spoken = [], []
    for tick in ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{bottom}"/>'
        )
        parts.append(text(x(tick), bottom + 14, number(tick, lang), "middle", "small"))
    for place, row in enumerate(rows):
        y = 6 + line * place + 10
        parts.append(text(LEFT - 8, y + 8, row.name, "end"))
        parts += [f'<circle class="dot" cx="{x(v):.1f}" cy="{y}" r="4"/>' for v in row.values]
        told = number(row.mean, lang)
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line class="mean" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" '
                f'y1="{y + 11}" y2="{y + 11}"/>'
            )
            ends = " – ".join(number(end, lang) for end in (row.low, row.high))
            told += f" ({ends})"
        parts.append(
            f'<rect class="mean" x="{x(row.mean) - 2:.1f}" y="{y + 6}" width="4" height="10"/>'
        )
        parts.append(text(WIDTH - RIGHT + 8, y + 8, number(row.mean, lang)))
        spoken.append(f"{row.name} {told}")
    return svg(bottom + 20, parts, title, "; ".join(spoken))


def scatter(
    points: Sequence[tuple[str, float, float]], title: str, x_name: str, y_name: str, lang: str
) -> str:
    """A dot for each (name, x, y); x on a logarithmic scale."""
    left, bottom, height = 60, 330, 380
    xs, ys = [math.log10(x) for _, x, _ in points], [y for *_, y in points]
    x = scale(min(xs) - 0.1, max(xs) + 0.35, WIDTH - left - 20, left)
    y = scale(math.floor(min(ys) - 2), math.ceil(max(ys) + 1), 10 - bottom, bottom)
    parts = []
    for tick in ticks(math.floor(min(ys) - 2), math.ceil(max(ys) + 1)):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - 20}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/>'
        )
        parts.append(text(left - 6, y(tick) + 4, f"{tick:g} %", "end", "small"))
    for power in range(math.floor(min(xs)), math.ceil(max(xs)) + 1):
        for digit in (1, 2, 5):
            at = math.log10(digit) + power
            if left <= x(at) <= WIDTH - 20:
                parts.append(
                    f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="10" y2="{bottom}"/>'
                )
                words = number(digit * 10.0**power, lang)
                parts.append(text(x(at), bottom + 16, words, "middle", "small"))
    taken: list[tuple[float, float]] = []
    for name, value, height_ in sorted(points, key=lambda point: -point[2]):
        px, py = x(math.log10(value)), y(height_)
        shift = py
        while any(abs(shift - other) < 13 and abs(px - at) < 130 for at, other in taken):
            shift += 13
        taken.append((px, shift))
        parts.append(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="5"/>')
        parts.append(text(px + 9, shift + 4, name, "start", "small"))
    parts.append(text((left + WIDTH - 20) / 2, bottom + 38, x_name, "middle"))
    parts.append(text(left - 50, 8, y_name, "start", "small"))
    spoken = "; ".join(
        f"{name}: {number(a, lang)} {x_name}, {number(b, lang)} %" for name, a, b in points
    )
    return svg(height, parts, title, spoken)
