"""One selection for all tabs, runs side by side, and a view that is mounted once more."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator

from tests.browser.test_explorer_patching import SAE, go_to
from tests.support.jupyter_lab import NotebookPage, wait_until

PROMPT = "The capital of France is Paris. The capital of Italy is"
TABS = ["tokens", "lens", "attention", "patching", "steering", "norms", "features"]
TOWARD, AWAY = "The language of France is", "The capital of France is"


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer in which every tab has been opened."""
    shared.cell(SAE)
    output = shared.cell(f"explorer = nl.explore(lm, {PROMPT!r}, sae=sae, layer=3)\nexplorer")
    found = output.locator(".nnl-explorer")
    for tab in TABS:
        opened(found, tab)
    return found


def opened(explorer: Locator, tab: str) -> Locator:
    explorer.locator(f"[data-view={tab}]").click()
    panel = explorer.locator(".nnl-panel:visible")
    panel.wait_for()
    note = explorer.locator(".nnl-foot [role=status]")
    wait_until(lambda: "running" not in note.inner_text(), 20, f"the numbers of {tab}")
    return panel


def select(panel: Locator, tab: str, place: dict[str, int]) -> None:
    """As a user would, in each tab."""
    if tab == "steering":
        panel.get_by_label("Layer", exact=True).select_option(str(place["layer"]))
    elif tab in {"tokens", "features"}:
        panel.locator(".nnl-token").nth(place["token"]).click()
    elif tab == "attention":
        panel.locator(f"[data-layer='{place['layer']}'][data-head='{place['head']}']").click()
        panel.locator(".nnl-token").nth(place["token"]).click()
    else:
        heat = panel.locator(".nnl-heat:visible").first
        go_to(heat, place["layer"], place["token"])
        heat.press("Enter")


def marked(heat: Locator) -> dict[str, int]:
    """The marked cell of a heatmap: the arrow keys go on from it."""
    heat.focus()
    heat.press("ArrowLeft")
    said = heat.locator("xpath=..").locator("[aria-live]").text_content() or ""
    heat.evaluate("it => it.blur()")
    layer, position = re.findall(r"layer (\d+), position (\d+)", said)[0]
    return {"layer": int(layer), "token": int(position) + 1}


def seen(panel: Locator, tab: str) -> dict[str, int]:
    """What of the selection a tab shows."""
    if tab == "steering":
        return {"layer": int(panel.get_by_label("Layer", exact=True).input_value())}
    if tab == "features":
        said = panel.get_by_text(re.compile("^Layer 3, position")).inner_text()
        return {"token": int(re.findall(r"position (\d+)", said)[0])}
    if tab in {"lens", "patching", "norms"}:
        return marked(panel.locator(".nnl-heat:visible").first)
    chosen = panel.locator(".nnl-token[aria-selected=true]")
    found = {"token": int(chosen.get_attribute("data-index") or -1)}
    if tab == "attention":
        head = panel.locator("[aria-pressed=true]")
        found |= {key: int(head.get_attribute(f"data-{key}") or -1) for key in ("layer", "head")}
    return found


@pytest.mark.parametrize(
    ("tab", "place"),
    [
        ("tokens", {"token": 5}),
        ("lens", {"layer": 5, "token": 3}),
        ("attention", {"layer": 4, "head": 2, "token": 9}),
        ("patching", {"layer": 2, "token": 8}),
        ("steering", {"layer": 1}),
        ("norms", {"layer": 3, "token": 6}),
        ("features", {"token": 7}),
    ],
)
def test_what_is_selected_in_one_tab_is_selected_in_all(
    shared: NotebookPage, explorer: Locator, tab: str, place: dict[str, int]
) -> None:
    before: dict[str, Any] = shared.python("explorer.selection")
    select(opened(explorer, tab), tab, place)
    expected = before | place
    assert expected != before
    wait_until(lambda: shared.python("explorer.selection") == expected, 10, "the selection")
    for other in TABS:
        panel = opened(explorer, other)
        shown = seen(panel, other)
        assert shown == {key: expected[key] for key in shown}, other
    plane = opened(explorer, "norms").get_by_label("Layer of the plane")
    assert plane.input_value() == str(expected["layer"])


def test_features_are_those_of_the_token_selected_elsewhere(
    shared: NotebookPage, explorer: Locator
) -> None:
    opened(explorer, "features")
    select(opened(explorer, "tokens"), "tokens", {"token": 4})
    panel = opened(explorer, "features")
    panel.get_by_text("Layer 3, position 4").wait_for()
    rows = panel.get_by_role("option", name=re.compile("^feature")).all_inner_texts()
    best = shared.python("explorer.views['features'].activations()[4].topk(10).indices.tolist()")

    assert [int(row.split()[0]) for row in rows] == best


def test_a_view_mounted_later_shows_what_was_chosen_and_typed(
    shared: NotebookPage, explorer: Locator
) -> None:
    panel = opened(explorer, "norms")
    panel.get_by_label("Chosen positions").fill("2, 5-7")
    panel.get_by_label("Chosen positions").press("Enter")
    shared.cell("towards = torch.arange(128.0)")
    panel.get_by_label("Kind of direction").select_option("variable")
    panel.get_by_label("Direction", exact=True).fill("towards")
    panel.get_by_label("Direction", exact=True).press("Enter")
    panel.get_by_text("Cosine to towards").wait_for()
    panel = opened(explorer, "steering")
    panel.get_by_label("Prompts to steer toward").fill(TOWARD)
    panel.get_by_label("Prompts to steer away from").fill(AWAY)
    panel.get_by_text("has length").wait_for()
    opened(explorer, "steering")

    later = shared.cell("explorer").locator(".nnl-explorer")
    panel = opened(later, "norms")
    assert panel.get_by_label("Chosen positions").input_value() == "2, 5-7"
    panel.get_by_text("4 chosen: explorer.selected has them.").wait_for()
    assert panel.get_by_label("Direction", exact=True).input_value() == "towards"
    panel.get_by_text("Cosine to towards").wait_for()
    panel = opened(later, "steering")
    assert panel.get_by_label("Prompts to steer toward").input_value() == TOWARD
    assert panel.locator(".nnl-text .nnl-token").count() > 3
    # Both views of one explorer show one choice.
    panel = opened(later, "norms")
    panel.get_by_label("Chosen positions").fill("3")
    panel.get_by_label("Chosen positions").press("Enter")
    chosen = opened(explorer, "norms").get_by_label("Chosen positions")
    wait_until(lambda: chosen.input_value() == "3", 10, "the choice in the other view")
    assert shared.python("explorer.selected") == [3]
    shared.cell("towards = None")


def test_only_the_view_that_asked_for_code_has_it(shared: NotebookPage, explorer: Locator) -> None:
    later = shared.cell("explorer").locator(".nnl-explorer")
    opened(later, "tokens")
    opened(explorer, "tokens")
    before = shared.count
    explorer.get_by_role("button", name="Copy as code").click()
    explorer.locator(".nnl-code pre").wait_for()
    shared.python("1")  # so what the other view would do is done
    assert shared.count == before + 1
    assert later.locator(".nnl-code pre").count() == 0


def test_a_comparison_goes_along_from_tab_to_tab_and_can_be_ended(
    shared: NotebookPage, explorer: Locator
) -> None:
    fresh = shared.cell(f"nl.explore(lm, {PROMPT!r})").locator(".nnl-explorer")
    for tab in ("lens", "attention"):
        opened(fresh, tab)
    fresh.locator("[data-layer='5'][data-head='3']").wait_for()
    pin = fresh.get_by_role("button", name="Pin", exact=True)
    pin.click()
    shared.cell(f"%%trace lm {PROMPT!r} --as silenced -q\nlm.layers[3].output[:, -1] = 0")
    other = shared.cell("silenced.explore()").locator(".nnl-explorer")
    opened(other, "lens")
    other.get_by_role("button", name="Pin", exact=True).click()
    choice = other.get_by_label("Compare with")
    titles = choice.locator("option").all_inner_texts()[-2:]
    plain, edited = (re.sub(r", [^,]*$", "", title) for title in titles)  # without the time
    assert "silenced, a run on" in edited
    assert plain != edited

    choice.select_option(label=titles[0])
    beside = other.locator(".nnl-panel:visible .nnl-pinned")
    assert beside.locator(".nnl-heat").count() == 1
    opened(other, "attention")
    assert beside.locator(".nnl-headtile").count() == 24
    opened(other, "norms")
    assert "had no numbers" in beside.inner_text()
    pin.click()  # the same run once more, in another explorer
    opened(other, "lens")
    assert beside.locator(".nnl-heat").count() == 1
    assert titles[0] in beside.inner_text()
    again = choice.locator("option").all_inner_texts()[-1]
    assert again.split(":")[0] != titles[0].split(":")[0]

    other.get_by_role("button", name="Remove pin").click()
    assert beside.count() == 0
    assert titles[0] not in choice.locator("option").all_inner_texts()
    assert titles[0] not in fresh.get_by_label("Compare with").locator("option").all_inner_texts()
