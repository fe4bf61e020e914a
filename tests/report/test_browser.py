"""The report in a browser: no messages, no network, alternative texts, usable by keyboard."""

import json
import re
import shutil
import subprocess

import pytest

from tests.helpers import ROOT
from train.__main__ import main as train
from train.report.__main__ import main as report

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)

# Reports on the page, in its title, once it is laid out.
PROBE = """<script>
const images = [...document.images], tables = [...document.querySelectorAll("[tabindex]")];
const style = getComputedStyle(document.body);
document.title = "PROBE" + JSON.stringify({
  images: images.length,
  drawn: images.every(i => i.naturalWidth > 100),
  words: images.every(i => i.alt.trim().length > 5),
  fetched: performance.getEntriesByType("resource").map(entry => entry.name),
  fits: document.documentElement.scrollWidth <= innerWidth,
  wide: [...document.querySelectorAll(".wide")].length,
  focused: tables.filter(t => {
    t.focus();
    return document.activeElement === t && t.getAttribute("aria-label");
  }).length,
  headings: [...document.querySelectorAll("h1, h2")].map(h => h.tagName + h.textContent),
  language: document.documentElement.lang, ink: style.color, page: style.backgroundColor,
}) + "END";
</script>"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a run, and the comparison of two."""
    root = tmp_path_factory.mktemp("runs")
    for name, rate in (("a", 0.1), ("b", 0.3)):
        train(
            [
                f"--config={ROOT}/configs/lenet_mnist.py",
                f"--workdir={root}/{name}",
                "--config.epochs=0.1",
                "--config.data.source=synthetic:28x28x1/10",
                f"--config.optim.lr={rate}",
            ]
        )
    report([f"--workdir={root}/a", "--images=40"])
    report(["--compare", f"{root}/a", f"{root}/b", f"--out={root}/compare.html"])
    return {"report": root / "a/report.html", "compare": root / "compare.html"}


def browse(page, place, *more, width=1100):
    """(the report of the probe, the lines of the browser's console)."""
    probed = place / "probed.html"
    probed.write_text(page.read_text().replace("</html>", PROBE + "</html>"))
    command = [
        CHROMIUM,
        *FLAGS,
        f"--window-size={width},900",
        f"--user-data-dir={place / 'profile'}",
        *more,
    ]
    done = subprocess.run(
        [*command, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"<title>PROBE(.*)END</title>", done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found[1].replace("&amp;", "&")), console


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_in_a_browser(written, name, tmp_path):
    text = written[name].read_text()
    probe, console = browse(written[name], tmp_path)
    assert console == [] and probe["fetched"] == []
    assert probe["images"] == text.count("<img ") >= 1 and probe["drawn"] and probe["words"]
    assert probe["wide"] == probe["focused"] >= 2  # wide tables scroll by keyboard
    assert probe["language"] == "en" and probe["headings"][0].startswith("H1") and probe["fits"]


def test_narrow_and_dark(written, tmp_path):
    light, _ = browse(written["report"], tmp_path, width=500)
    dark, _ = browse(written["report"], tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light["fits"]
    ink, page = (sum(map(int, re.findall(r"\d+", dark[key])[:3])) for key in ("ink", "page"))
    assert ink > 600 and page < 100
    ink, page = (sum(map(int, re.findall(r"\d+", light[key])[:3])) for key in ("ink", "page"))
    assert ink < 150 and page == 765
