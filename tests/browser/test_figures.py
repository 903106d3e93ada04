"""Figures in a real page: their words are read in the light and in the dark theme, drawn and still."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator

from nnsight_lab.jupyter.figures_theme import WORDS
from nnsight_lab.jupyter.static_frame import DARK, DARK_INK, INK, PAPER
from tests.support.jupyter_lab import ROOT, NotebookPage
from tests.support.seen import faint_texts

LENS = """with lm.trace("The capital of France is") as tracer:
    lm.logits.save()
tracer.run.fig.lens()"""
LINES = """from nnsight_lab.jupyter.figures_plots import plot_figure
from nnsight_lab.jupyter.static_plots import Series
series = [Series(str(n), [0, 1, 2], [n, 2 * n, 5 - n]) for n in range(6)]
lines = plot_figure(series, title="six lines", x_title="layer", y_title="share")
lines"""
ATTENTION = "tracer.run.fig.attention(2)"
STILL = """from IPython.display import display
display({"image/svg+xml": lines._svg}, raw=True)"""
COLOURS_SEEN = """async png => {
    const image = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
    const pen = new OffscreenCanvas(image.width, image.height).getContext("2d");
    pen.drawImage(image, 0, 0);
    const counts = new Map();
    const data = pen.getImageData(0, 0, image.width, image.height).data;
    for (let at = 0; at < data.length; at += 4) {
        const colour = `${data[at]} ${data[at + 1]} ${data[at + 2]}`;
        counts.set(colour, (counts.get(colour) || 0) + 1);
    }
    return [...counts].sort((a, b) => b[1] - a[1]);
}"""
"""The colours of a picture and how many pixels each has, the most frequent first."""
WHERE = "each => each.closest('.hm, .heatmap-label') ? 'heatmap' : ''"


@pytest.fixture(scope="module")
def drawn(shared: NotebookPage) -> dict[str, Locator]:
    """The output of each figure."""
    return {name: shared.cell(code) for name, code in
            (("lens", LENS), ("lines", LINES), ("attention", ATTENTION))}  # fmt: skip


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_words_of_a_figure_can_be_read(
    shared: NotebookPage, drawn: dict[str, Locator], dark: bool
) -> None:
    shared.theme(dark=dark)
    shared.page.wait_for_timeout(700)  # a theme's colours come after its name
    faint = {}
    for name, output in drawn.items():
        plot = output.locator(".js-plotly-plot")
        plot.wait_for()
        words = plot.locator("text:visible").all()
        own = [each for each in words if "heatmap" not in str(each.evaluate(WHERE))]
        assert len(own) > 5
        faint[name] = [found for each in own for found in faint_texts(each)]
        papers = plot.locator(".main-svg").first.evaluate("each => each.style.background")
        assert "rgba(0, 0, 0, 0)" in papers

    assert {name: found for name, found in faint.items() if found} == {}


def test_the_style_sheet_knows_the_colour_of_the_words() -> None:
    assert f"fill: {WORDS}" in (ROOT / "labextension/style/base.css").read_text("utf-8")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_still_picture_is_of_the_theme(
    shared: NotebookPage, drawn: dict[str, Locator], dark: bool
) -> None:
    assert drawn
    image = shared.cell(STILL).locator(".jp-RenderedSVG img")
    shared.theme(dark=dark)
    shared.page.wait_for_timeout(700)
    image.scroll_into_view_if_needed()

    assert colours_of(image) == ((DARK, DARK_INK) if dark else (PAPER, INK))


def colours_of(image: Locator) -> tuple[str, str]:
    """The most frequent colour of a picture as it is seen, and the grey farthest from it."""
    png = base64.b64encode(image.screenshot()).decode()
    counts = image.page.evaluate(COLOURS_SEEN, png)
    colours = [[int(part) for part in colour.split()] for colour, count in counts if count > 5]
    greys = [colour[0] for colour in colours if max(colour) - min(colour) < 4]
    ink = max(greys, key=lambda grey: abs(grey - colours[0][0]))
    return "#{:02x}{:02x}{:02x}".format(*colours[0]), f"#{ink:02x}{ink:02x}{ink:02x}"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_elsewhere_a_still_picture_is_what_the_reader_wants(
    browser: Browser, shared: NotebookPage, drawn: dict[str, Locator], dark: bool
) -> None:
    assert drawn
    svg = quote(shared.python("lines._svg"), safe="")
    page = browser.new_page(color_scheme="dark" if dark else "light")
    page.set_content(
        f"<meta name='color-scheme' content='light dark'><img src='data:image/svg+xml,{svg}'>"
    )
    found = colours_of(page.locator("img"))
    page.close()

    assert found == ((DARK, DARK_INK) if dark else (PAPER, INK))
