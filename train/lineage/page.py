"""The page `lineage.html`: story, diagrams, charts and claims in one self-contained file."""

import html
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax import counts, create_model, get_spec
from train import cli, seeds
from train.lineage import charts, counted, counting, diagrams, story, trained, training
from train.lineage.charts import Series, number
from train.lineage.claims import Count, Counting, Training
from train.lineage.experiments import EXPERIMENTS
from train.lineage.graph import trace
from train.lineage.measures import MEASURES
from train.lineage.words import word

PAGE = string.Template((Path(__file__).parent / "lineage.html").read_text(encoding="utf-8"))
COLOURS = {"reproduced": "good", "not reproduced": "bad", "undecided": "open", "": "open"}
SECTIONS = ("summary", "story", "charts", "counting", "training")


def write(found: dict[str, training.Found], lang: str) -> str:
    """The whole page.

    Args:
        found: what the runs say of each training claim, by its name.
        lang: a language of `texts.LANGUAGES`.
    """
    decided = {claim.name: counting.decide(claim) for claim in counted.CLAIMS}
    parts = {
        "summary": summary(decided, found, lang),
        "story": "".join(chapter(item, lang) for item in story.CHAPTERS),
        "charts": published(lang),
        "counting": note("count_test", lang)
        + "".join(by_counting(claim, decided[claim.name], lang) for claim in counted.CLAIMS),
        "training": note("test", lang)
        + "".join(by_training(claim, found[claim.name], lang) for claim in trained.CLAIMS),
    }
    sections = "".join(
        f'<section id="{name}"><h2>{word(name, lang)}</h2>{parts[name]}</section>\n'
        for name in SECTIONS
    )
    nav = "".join(f'<li><a href="#{name}">{word(name, lang)}</a></li>' for name in SECTIONS)
    words = {name: word(name, lang) for name in ("title", "lead", "skip", "contents")}
    return cli.printable(PAGE.substitute(lang=lang, nav=nav, sections=sections, **words))


def note(name: str, lang: str) -> str:
    return f'<p class="soft">{html.escape(word(name, lang))}</p>'


def badge(verdict: str, lang: str) -> str:
    return f'<span class="verdict {COLOURS[verdict]}">{word(verdict, lang)}</span>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], label: str, texts: int = 1) -> str:
    """A table of HTML cells that scrolls where it is wide; its first columns are texts."""

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f"<{tag}{' class=n' if place >= texts else ''}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label)}"><table>'
        f"<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table></div>"
    )


def scrolls(picture: str, label: str) -> str:
    """A picture that scrolls where it is wider than the page."""
    words = html.escape(label)
    return f'<div class="wide" tabindex="0" role="region" aria-label="{words}">{picture}</div>'


def commands(lines: Sequence[str], lang: str) -> str:
    code = "<br>".join(f"<code>{html.escape(line)}</code>" for line in lines)
    return f"<details><summary>{word('repeat', lang)}</summary><p>{code}</p></details>"


# The sections


def summary(
    decided: dict[str, counting.Result], found: dict[str, training.Found], lang: str
) -> str:
    rows = []
    claims: list[Counting | Training] = [*counted.CLAIMS, *trained.CLAIMS]
    for claim in claims:
        by: Any = decided if isinstance(claim, Counting) else found
        how = "counted" if isinstance(claim, Counting) else "trained"
        link = f'<a href="#{claim.name}">{html.escape(claim.idea(lang))}</a>'
        cells = [link, html.escape(claim.source(lang)), word(how, lang)]
        rows.append([*cells, badge(by[claim.name].verdict, lang)])
    head = [word(name, lang) for name in ("idea", "source", "how", "verdict")]
    return table(head, rows, word("summary", lang), texts=4)


def chapter(item: story.Chapter, lang: str) -> str:
    size, known = get_spec(item.model).input_size, counts.load()[item.model]
    graph = trace(create_model(item.model), size)
    costs = [
        f"{word('input', lang)} {'×'.join(map(str, size))}",
        f"{number(known['parameters'], lang)} {word('parameters', lang)}",
        f"{number(known['multiply_adds'], lang)} {word('multiply_adds', lang)}",
        f"{graph.depth} {word('depth', lang)}",
    ]
    return (
        f'<article><h3 id="{item.model}">{item.title}</h3>'
        f'<p class="soft">{html.escape(item.paper)}. {"; ".join(costs)}.</p>'
        f"<p>{html.escape(item.story(lang))}</p>"
        f'<div class="blocks">{"".join(picture(item, one, lang) for one in item.pictures)}</div>'
        f"{whole(item, lang)}</article>\n"
    )


def picture(item: story.Chapter, shown: story.Picture, lang: str) -> str:
    model = create_model(item.model, **shown.options)
    graph = trace(model, get_spec(item.model).input_size)
    caption = shown.caption(lang)
    drawing = diagrams.draw(diagrams.block(graph, shown.block).nodes, caption, lang)
    name = f"{caption} ({shown.block})"
    return (
        f"<figure>{scrolls(drawing, caption)}<figcaption>{html.escape(name)}</figcaption></figure>"
    )


def whole(item: story.Chapter, lang: str) -> str:
    """Every block of a network, folded."""
    graph = trace(create_model(item.model), get_spec(item.model).input_size, train=item.heads)
    folded = []
    for part in diagrams.blocks(graph):
        last = part.nodes[-1]
        shape, count = diagrams.size(last), len(part.nodes)
        title = f"{part.name} → {shape}"
        what = diagrams.label(last, lang) if count == 1 else f"{count} {word('layers', lang)}"
        drawing = scrolls(diagrams.draw(part.nodes, f"{item.title}, {part.name}", lang), title)
        folded.append(f"<details><summary>{title} ({what})</summary>{drawing}</details>")
    title = word("with_heads" if item.heads else "whole", lang)
    averages = any(node.kind == "average pool" for node in graph.nodes)
    told = f'<p class="soft">{story.CONVOLVES_FIRST(lang)}</p>' if averages else ""
    return f"<details><summary>{title}</summary>{told}{''.join(folded)}</details>"


def published(lang: str) -> str:
    points, parts = story.published(), []
    costs = {
        "multiply_adds": ("against_costs", [(p[0], p[2], p[3]) for p in points]),
        "parameters": ("against_parameters", [(p[0], p[1], p[3]) for p in points]),
    }
    for name, (title, data) in costs.items():
        labels = word(title, lang), word(name, lang), word("top1", lang)
        parts.append(f"<h3>{labels[0]}</h3>{charts.scatter(data, *labels, lang)}")
    names = [counts.load()[point[0]] for point in points]
    head = ["", *(word(name, lang) for name in ("parameters", "multiply_adds", "top1"))]
    rows = [
        [point[0], f"{row['parameters']:,}", f"{row['multiply_adds']:,}", f"{point[3]:.1f}"]
        for point, row in zip(points, names)
    ]
    listed = table(head, rows, word("charts", lang))
    parts.append(f"<details><summary>{word('figures', lang)}</summary>{listed}</details>")
    errors = charts.bars(story.ILSVRC, word("ilsvrc", lang), lang, " %")
    return (
        f"{note('published', lang)}{''.join(parts)}<h3>{word('ilsvrc', lang)}</h3>{errors}"
        f"{note('ilsvrc_source', lang)}"
    )


def opening(claim: Counting | Training, verdict: str, switch: str, lang: str) -> str:
    return (
        f'<article class="claim"><h3 id="{claim.name}">{html.escape(claim.idea(lang))}</h3>'
        f"<p>{html.escape(claim.statement(lang))} {badge(verdict, lang)}</p>"
        f'<p class="soft">{html.escape(claim.source(lang))}. {word("switch", lang)}: '
        f"<code>{html.escape(switch)}</code>.</p>"
    )


def shown(value: Any, lang: str) -> str:
    """A value of a switch in words: "3×3 + 3×3", "on"."""
    if isinstance(value, tuple):
        return " + ".join("×".join(map(str, kernel)) for kernel in value)
    known = {"True": word("on", lang), "False": word("off", lang)}
    return known.get(str(value), str(value))


def by_counting(claim: Counting, result: counting.Result, lang: str) -> str:
    fields = Count._fields
    named = {shown(value, lang): count for value, count in result.counts.items()}
    plotted = [(name, float(getattr(count, claim.quantity))) for name, count in named.items()]
    if claim.name == "doubling":  # a bar for each stage of each module
        plotted = [
            (f"{claim.switch} {growth}, {word('stage', lang)} {stage}", float(cost))
            for growth in claim.values
            for stage, cost in enumerate(counting.stages(growth), 1)
        ]
    title = f"{claim.idea(lang)}: {word(claim.quantity, lang)}"
    head = [claim.switch, *(word(field, lang) for field in fields)]
    rows = [[name, *(f"{value:,}" for value in count)] for name, count in named.items()]
    switch = f"{claim.switch}={', '.join(named)}"
    return (
        f"{opening(claim, result.verdict, switch, lang)}"
        f'<p class="soft">{html.escape(word(claim.quantity, lang))}</p>'
        f"{charts.bars(plotted, title, lang)}"
        f"<details><summary>{word('figures', lang)}</summary>"
        f"{table(head, rows, title)}</details>"
        f"{commands([f'python -m train.lineage --claim={claim.name}'], lang)}</article>\n"
    )


def by_training(claim: Training, found: training.Found, lang: str) -> str:
    experiment, quantity = EXPERIMENTS[claim.experiment], MEASURES[claim.quantity].name(lang)
    names = [shown(value, lang) for value in claim.pair]
    series = []
    for value, by_seed in found.values.items():
        if by_seed:
            mean = seeds.mean(list(by_seed.values()))
            ends = mean.low, mean.high
            series.append(Series(shown(value, lang), list(by_seed.values()), mean.mean, *ends))
    body = ""
    if series:
        body = charts.dots(series, f"{claim.idea(lang)}: {quantity}", lang)
    if found.difference is not None:
        body += difference(found.difference, names, lang)
    how = training.commands(claim)
    switch = f"{experiment.switch}={', '.join(names)}"
    return (
        f"{opening(claim, found.verdict, switch, lang)}"
        f'<p class="soft">{html.escape(quantity)}</p>{body}'
        f"<p><strong>{word('limits', lang)}:</strong> {html.escape(claim.limits(lang))}</p>"
        f"{commands([how['claim'], how['sweep']], lang)}</article>\n"
    )


def difference(found: seeds.Mean, names: Sequence[str], lang: str) -> str:
    told = f"{word('difference', lang)} ({names[1]} − {names[0]}): {number(found.mean, lang)}"
    if found.low is not None and found.high is not None:
        ends = f"{number(found.low, lang)} … {number(found.high, lang)}"
        told += f"; {word('interval', lang)} {ends}"
    return f"<p>{html.escape(told)}; n = {found.n} {word('seeds', lang)}</p>"


def markdown(found: dict[str, training.Found]) -> str:
    """The training claims as a table in Markdown: pair, quantity, difference, verdict, command."""
    lines = [
        "| claim | pair | quantity | seeds | difference | 95 % interval | verdict |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for claim in trained.CLAIMS:
        mean = found[claim.name].difference
        pair = f"`{EXPERIMENTS[claim.experiment].switch}`: {' → '.join(claim.pair)}"
        cells = [f"`--claim={claim.name}`", pair, MEASURES[claim.quantity].name("en")]
        if mean is None:
            cells += ["0", "", "", "not run yet"]
        else:
            ends = [f"{end:+.3g}" for end in (mean.low, mean.high) if end is not None]
            cells += [str(mean.n), f"{mean.mean:+.3g}", " to ".join(ends)]
            cells.append(found[claim.name].verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
