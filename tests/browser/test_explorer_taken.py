"""What is taken out of the explorer: pictures as files, code as cells, on every page."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from playwright.sync_api import Locator

from tests.browser.test_explorer_patching import SAE, go_to
from tests.browser.test_explorer_shared import AWAY, PROMPT, TABS, TOWARD, opened
from tests.support.jupyter_lab import NotebookPage, wait_until


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer with an autoencoder and a direction to steer by."""
    shared.cell(SAE)
    output = shared.cell(f"explorer = nl.explore(lm, {PROMPT!r}, sae=sae, layer=3)\nexplorer")
    found = output.locator(".nnl-explorer")
    panel = opened(found, "steering")
    panel.get_by_label("Prompts to steer toward").fill(TOWARD)
    panel.get_by_label("Prompts to steer away from").fill(AWAY)
    panel.get_by_text("has length").wait_for()
    return found


def number_shown(explorer: Locator, panel: Locator, tab: str) -> float:
    """A number that the tab shows in its hover box, or in its text."""
    tip = explorer.locator(".nnl-tip")
    if tab == "steering":
        panel.locator(".nnl-text .nnl-token").last.hover()
        return float(tip.inner_text().split()[-1])
    if tab in {"tokens", "features"}:
        panel.locator(".nnl-token").nth(8).hover()
        return float(tip.inner_text().split()[-1])
    if tab == "attention":
        said = panel.get_by_text(re.compile(r"^Layer \d, head \d:")).inner_text()
        return float(said[6])
    heat = panel.locator(".nnl-heat:visible").first
    go_to(heat, 4, 6)
    shown = tip.inner_text()
    heat.evaluate("it => it.blur()")
    return float(re.findall(r"norm ([\d.]+)" if tab == "norms" else r"\n([\d.]+)\s", shown)[0])


def taken(explorer: Locator, button: str) -> bytes:
    """What is downloaded at a press of a button of Figure."""
    explorer.get_by_role("button", name="Figure", exact=True).click()
    with explorer.page.expect_download() as started:
        explorer.get_by_role("button", name=button, exact=True).click()
    download = started.value
    kind = button.partition(":")[0].lower()
    assert re.fullmatch(rf"[a-z]+(-[a-z]+)?\.{kind}", download.suggested_filename)
    return Path(download.path()).read_bytes()


def check_png(data: bytes) -> None:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 300
    assert height >= 100
    assert len(data) > 4000  # an empty picture of this size is far smaller


def check_svg(data: bytes, shown: float) -> None:
    root = ET.fromstring(data)  # noqa: S314 - made by ourselves
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = " ".join(root.itertext())
    numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", texts)]
    assert any(number == pytest.approx(shown, abs=6e-4, rel=6e-3) for number in numbers), shown


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_saved_as_png_and_svg(explorer: Locator, tab: str) -> None:
    panel = opened(explorer, tab)
    shown = number_shown(explorer, panel, tab)
    more = ": stream" if tab == "norms" else ""
    check_png(taken(explorer, f"PNG{more}"))
    check_svg(taken(explorer, f"SVG{more}"), shown)


def test_the_plane_is_saved_as_well(explorer: Locator) -> None:
    panel = opened(explorer, "norms")
    canvas = panel.locator(".nnl-scatter canvas")
    canvas.wait_for()
    check_png(taken(explorer, "PNG: plane"))
    svg = taken(explorer, "SVG: plane").decode()
    assert "of the variance" in svg
    assert svg.count("<circle") == 12


@pytest.mark.parametrize("tab", TABS)
def test_a_plotly_figure_comes_as_code_that_runs(
    shared: NotebookPage, explorer: Locator, tab: str
) -> None:
    panel = opened(explorer, tab)
    if tab == "patching":
        text = panel.get_by_label("Source prompt")
        text.fill(PROMPT.replace("Italy", "Japan"))
        text.press("Enter")
        panel.get_by_text("Drag a cell of the source").wait_for()
        source = panel.locator(".nnl-heat").first
        go_to(source, 2, 12)
        source.press("Enter")
        source.press("p")
        panel.get_by_text(re.compile("^Result: source layer 2")).wait_for()
    explorer.get_by_role("button", name="Figure", exact=True).click()
    explorer.get_by_role("button", name=re.compile("^Plotly figure, as code")).first.click()
    code = explorer.locator(".nnl-code pre")
    wait_until(lambda: f'.figure("{tab}"' in code.inner_text(), 20, "the code")
    shared.cell(f"figure = {code.inner_text()}", 120)

    assert shared.python("len(figure.data)") > 0


def test_without_a_direction_the_reason_is_said(shared: NotebookPage) -> None:
    found = shared.cell(f"nl.explore(lm, {PROMPT!r})").locator(".nnl-explorer")
    opened(found, "steering")
    found.get_by_role("button", name="Figure", exact=True).click()
    found.get_by_role("button", name="PNG", exact=True).click()
    found.get_by_text(
        "There is no direction yet. Give prompts of two kinds, or choose a vector"
    ).wait_for()


def inserted(shared: NotebookPage, explorer: Locator, cells: int) -> str:
    """Press "Copy as code", and run the cells that come below; their text."""
    at = explorer.evaluate(
        """view => window.jupyterapp.shell.currentWidget.content.widgets
            .findIndex(cell => cell.node.contains(view))"""
    )
    before = shared.count
    explorer.get_by_role("button", name="Copy as code").click()
    wait_until(lambda: shared.count == before + cells, 20, "the new cells")
    for index in range(at + 1, at + 1 + cells):
        shared.run(index)
        assert [out for out in shared.outputs(index) if out["output_type"] == "error"] == []
    return "\n# %%\n".join(shared.source(index) for index in range(at + 1, at + 1 + cells))


def test_the_cells_of_steering_write_what_is_shown(shared: NotebookPage, explorer: Locator) -> None:
    panel = opened(explorer, "steering")
    panel.get_by_label("Strength", exact=True).evaluate(
        "it => { it.value = '0.5'; it.dispatchEvent(new Event('input')); }"
    )
    panel.get_by_text("Steered by 0.50").wait_for()
    opened(explorer, "steering")
    texts = [
        "".join(strip.locator(".nnl-token").all_inner_texts())
        for strip in panel.locator(".nnl-text .nnl-strip").all()
    ]
    tip = explorer.locator(".nnl-tip")
    shown = []
    for chip in panel.locator(".nnl-text").nth(1).locator(".nnl-token").all():
        chip.hover()
        shown.append(float(tip.inner_text().split()[-1]))
    code = inserted(shared, explorer, 2)

    assert code.count("%%trace") == 1
    assert texts[0] != texts[1]
    for side, text in enumerate(texts):
        after = f"steering_ids[{side}, len(explorer.subject.ids):].tolist()"
        written = shared.python(f"[lm.token_string(id) for id in {after}]")
        assert "".join(written).replace(" ", "·").startswith(text)
    along = shared.python("[float(step[1]) for step in steering_along]")
    assert shown == pytest.approx(along[: len(shown)], abs=6e-4)
    # Exactly: the cell runs what the tab ran.
    shared.cell(
        "sheets = []\nexplorer.views['steering'].ask(explorer._wanted['steering'], sheets.append)"
    )
    same = "torch.equal(torch.stack(list(steering_along), 1).float(), torch.from_numpy(sheets[-1].arrays['along']))"
    assert shared.python(same)


def test_the_cell_of_features_gives_what_is_shown(shared: NotebookPage, explorer: Locator) -> None:
    panel = opened(explorer, "features")
    panel.locator(".nnl-token").nth(5).click()
    panel.get_by_text("Layer 3, position 5").wait_for()
    rows = panel.get_by_role("option", name=re.compile("^feature"))
    rows.nth(2).click()
    third = rows.nth(2).inner_text().split()[0]
    panel.get_by_text(f"What feature {third} says").wait_for()
    seen = [row.split() for row in rows.all_inner_texts()]
    said = [row.split() for row in panel.get_by_role("listitem").all_inner_texts()]
    inserted(shared, explorer, 1)

    assert [int(row[0]) for row in seen] == shared.python("feature_ids.tolist()")
    assert [float(row[-1]) for row in seen] == pytest.approx(
        shared.python("feature_values.tolist()"), abs=6e-4
    )
    words = shared.python("[lm.token_string(int(id)).replace(' ', '·') for id in feature_words]")
    assert [row[0] for row in said] == words
    assert [float(row[-1]) for row in said] == pytest.approx(
        shared.python("feature_logits.tolist()"), abs=6e-4
    )
    shared.cell(
        "sheets = []\nexplorer.views['features'].ask(explorer._wanted['features'], sheets.append)"
    )
    for name in ("values", "strip", "logits"):
        same = f"torch.equal(feature_{name}.float(), torch.from_numpy(sheets[-1].arrays[{name!r}]))"
        assert shared.python(same), name


@pytest.mark.parametrize("old_way", [True, False], ids=["old way", "by hand"])
def test_a_page_without_a_clipboard_says_the_truth(
    shared: NotebookPage, explorer: Locator, old_way: bool
) -> None:
    """As over plain http."""
    panel = opened(explorer, "tokens")
    panel.wait_for()
    page = shared.page
    page.evaluate("() => navigator.clipboard.writeText('before')")
    page.evaluate(
        """works => {
            const real = navigator.clipboard;
            Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true });
            window.putBack = () => { delete navigator.clipboard; delete document.execCommand; };
            if (!works) document.execCommand = () => false;
        }""",
        old_way,
    )
    try:
        explorer.get_by_role("button", name="Copy as code").click()
        panel = explorer.locator(".nnl-code")
        if old_way:
            panel.get_by_text("Inserted below, and copied.").wait_for()
            text = panel.locator("pre").inner_text()
        else:
            panel.get_by_text("Inserted below.", exact=True).wait_for()
            text = panel.get_by_label("Code to copy").input_value()
            page.keyboard.press("Control+c")  # it is selected
    finally:
        page.evaluate("() => window.putBack()")
    assert text.startswith("%%trace lm ")
    wait_until(
        lambda: page.evaluate("() => navigator.clipboard.readText()") == text, 5, "the clipboard"
    )


def test_without_the_sidebar_it_says_what_to_do(shared: NotebookPage, explorer: Locator) -> None:
    opened(explorer, "tokens")
    page = shared.page
    page.evaluate(
        """() => {
            window.stop = (event) => event.stopPropagation();
            window.addEventListener('nnsight-lab:insert-cell', window.stop, true);
            Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true });
            document.execCommand = () => false;
        }"""
    )
    before = shared.count
    try:
        explorer.get_by_role("button", name="Copy as code").click()
        explorer.get_by_text("Not copied").wait_for()
        assert "Copied" not in explorer.locator(".nnl-code").inner_text()
        assert explorer.get_by_label("Code to copy").evaluate("it => it === document.activeElement")
    finally:
        page.evaluate(
            """() => {
                window.removeEventListener('nnsight-lab:insert-cell', window.stop, true);
                delete navigator.clipboard;
                delete document.execCommand;
            }"""
        )
    assert shared.count == before
