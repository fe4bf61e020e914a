"""The pieces of a page: sections of text, tables and figures, as one self-contained HTML file."""

import base64
import html
import io
import string
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from train import cli

PAGE = string.Template((Path(__file__).parent / "report.html").read_text())


def figure(fig: Figure) -> str:
    """A matplotlib figure as a data URI."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def section(title: str, text: str, fig: Figure, alt: str) -> str:
    """A section that is a figure; `alt` says in words what it shows."""
    return (
        f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n"
        f'<img src="{figure(fig)}" alt="{html.escape(alt)}">\n'
    )


def tabular(title: str, text: str, head: list[str], rows: list[list[Any]]) -> str:
    """A section that is a table."""
    heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n"
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(title)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def page(title: str, subtitle: str, headline: dict[str, str], sections: list[str]) -> str:
    """The whole page; the headline is a few numbers by name."""
    numbers = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
        for name, value in headline.items()
    )
    text = PAGE.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        numbers=numbers,
        sections="".join(sections),
    )
    return cli.printable(text)
