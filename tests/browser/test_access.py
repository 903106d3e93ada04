"""Everybody can use it: by keyboard, by screen reader, and in a dark room."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator

from tests.browser.test_explorer_patching import SAE
from tests.support.jupyter_lab import ROOT, NotebookPage, wait_until
from tests.support.seen import faint_texts, reachable, unnamed, unreachable

PROMPT = "The capital of France is Paris. The capital of Italy is"
TABS = ["tokens", "lens", "attention", "patching", "steering", "norms", "features"]
IDLE = "() => !document.querySelector('.nnl-foot [role=status]').textContent.includes('running')"
VALUES = """with lm.trace("The <b>capital</b> of {} is $5") as tracer:
    h = lm.layers[2].output
    h[:, -1] += 4
    resid = h.save()
"""


LIVE = """%%trace "The <b>capital</b> of {} is $5" --live --as seen
lm.layers[3].output[:] *= nl.slider("scale", 0, 2, value=1)
nl.live_plot(lm.layers[4].output[0].norm(dim=-1), "norms")
top = lm.logits[0, -1].softmax(-1).max()
"""


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer with an autoencoder, so that no tab is missing."""
    shared.cell(SAE)
    explored = f"explorer = nl.explore(lm, {PROMPT!r}, sae=sae, layer=3)\nexplorer"
    found = shared.cell(explored).locator(".nnl-explorer")
    found.locator(".nnl-token").first.wait_for()
    return found


def opened(shared: NotebookPage, explorer: Locator, tab: str) -> None:
    explorer.locator(f"[data-view={tab}]").click()
    explorer.locator(".nnl-panel:visible").wait_for()
    shared.page.wait_for_function(IDLE)


@pytest.mark.parametrize("tab", TABS)
def test_the_keyboard_reaches_everything_and_is_seen(
    shared: NotebookPage, explorer: Locator, tab: str
) -> None:
    opened(shared, explorer, tab)
    assert unreachable(explorer) == []
    came, expected, without = reachable(
        shared.page, explorer, explorer.locator(f"[data-view={tab}]")
    )
    assert came == expected
    assert without == []
    assert len(came) >= 5


@pytest.mark.parametrize("tab", TABS)
def test_every_control_has_a_name(shared: NotebookPage, explorer: Locator, tab: str) -> None:
    opened(shared, explorer, tab)
    assert unnamed(shared.page, ".nnl-explorer") == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(shared: NotebookPage, explorer: Locator, dark: bool) -> None:
    shared.theme(dark=dark)
    faint = {}
    for tab in TABS:
        opened(shared, explorer, tab)
        shared.page.wait_for_timeout(700)  # a theme's colours come after its name
        faint[tab] = faint_texts(explorer)
    assert {tab: found for tab, found in faint.items() if found} == {}


RAMPS = """async (code) => {
    const { ramps, LINES } = await import("data:text/javascript," + encodeURIComponent(code));
    const rgb = (text) => {
        const pen = document.createElement("canvas").getContext("2d");
        pen.fillStyle = text;
        return pen.fillStyle.match(/\\w\\w/g).map((part) => parseInt(part, 16));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, two) => {
        const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const found = ramps(document.querySelector(".nnl-explorer"));
    const texts = [], dimmed = [], paper = rgb(found.paper);
    for (const ramp of [found.sequential, found.diverging]) {
        for (let at = 0; at <= 200; at++) {
            const cell = ramp(at / 200);
            texts.push(contrast(rgb(cell.ink), cell.rgb));
            dimmed.push(contrast(rgb(found.ink), cell.rgb.map((part, i) => 0.25 * part + 0.75 * paper[i])));
        }
    }
    return {
        dark: found.dark, texts: Math.min(...texts), dimmed: Math.min(...dimmed),
        labels: Math.min(contrast(rgb(found.ink), paper), contrast(rgb(found.faint), paper)),
        lines: Math.min(...LINES.map((line) => contrast(rgb(line), paper)), contrast(rgb(found.mark), paper)),
    };
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_what_is_written_on_a_heatmap_can_be_read(
    shared: NotebookPage,
    explorer: Locator,
    dark: bool,
) -> None:
    shared.theme(dark=dark)
    shared.page.wait_for_timeout(700)
    code = Path(ROOT, "nnsight_lab/jupyter/explorer/js/colours.js").read_text("utf-8")
    found = shared.page.evaluate(RAMPS, code)
    assert found["dark"] is dark
    assert found["texts"] >= 4.5
    assert found["dimmed"] >= 4.5
    assert found["labels"] >= 4.5
    assert found["lines"] >= 3


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_values_live_views_and_the_sidebar_can_be_read(shared: NotebookPage, dark: bool) -> None:
    shared.theme(dark=dark)
    shared.cell(VALUES)
    faint = {}
    for value in ("lm", "tracer.graph", "tracer.run", "resid"):
        faint[value] = faint_texts(shared.cell(value).locator(".jp-OutputArea-output"))
    live = shared.cell(LIVE)
    live.locator("input[type=range]").wait_for()
    shared.page.wait_for_timeout(700)
    for at, view in enumerate(live.locator(".nnl-live").all()):
        faint[f"live {at}"] = faint_texts(view)
    shared.page.evaluate("() => window.jupyterapp.commands.execute('nnsight-lab:show-sidebar')")
    sidebar = shared.page.locator(".nnl-Sidebar")
    wait_until(lambda: sidebar.locator(".nnl-Run").count() > 0, 10, "the runs")
    faint["sidebar"] = faint_texts(sidebar)
    assert unnamed(shared.page, ".nnl-Sidebar") == []
    assert unnamed(shared.page, ".nnl-live") == []
    assert {name: found for name, found in faint.items() if found} == {}
