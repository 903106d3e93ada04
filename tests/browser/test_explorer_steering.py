"""Steering in a real browser: two texts that follow the hand."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator

from tests.support.jupyter_lab import NotebookPage, wait_until

LAYER = 3
TOWARD = ["The language of France is", "The language of Italy is"]
AWAY = ["The capital of France is", "The capital of Italy is"]


@pytest.fixture(scope="module")
def panel(shared: NotebookPage) -> Locator:
    """The tab, with a direction."""
    explorer = shared.cell(
        'explorer = nl.explore(lm, "The capital of France is")\nexplorer'
    ).locator(".nnl-explorer")
    explorer.locator("[data-view=steering]").click()
    found = explorer.locator(".nnl-panel:visible")
    found.get_by_label("Layer").select_option(str(LAYER))
    for label, prompts in (
        ("Prompts to steer toward", TOWARD),
        ("Prompts to steer away from", AWAY),
    ):
        area = found.get_by_label(label)
        area.fill("\n".join(prompts))
        area.press("Tab")
    return found


def texts(panel: Locator) -> list[str]:
    strips = panel.locator(".nnl-text .nnl-strip")
    return ["".join(strips.nth(side).locator(".nnl-token").all_inner_texts()) for side in (0, 1)]


def move(panel: Locator, strength: float) -> None:
    panel.get_by_label("Strength", exact=True).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        str(strength),
    )


def by_hand(shared: NotebookPage, strength: float) -> str:
    """What hooks on the plain model write: one of its own, for the tab may run at any moment."""
    shared.cell(
        f"""import torch
module, seen = nl.LanguageModel("tiny").executor.module, []
block = module.model.layers[{LAYER}]
whole = lambda out: out[0] if isinstance(out, tuple) else out
hook = block.register_forward_hook(lambda _, args, out: seen.append(whole(out)[0, -1]))
with torch.no_grad():
    for prompt in {TOWARD + AWAY!r}:
        module(torch.tensor(lm.tokenize(prompt).rows))
hook.remove()
vector = torch.stack(seen[:2]).mean(0) - torch.stack(seen[2:]).mean(0)
def push(_, args, out):
    stream = whole(out) + {strength} * vector
    return (stream, *out[1:]) if isinstance(out, tuple) else stream
hook = block.register_forward_hook(push)
ids = list(lm.tokenize("The capital of France is").rows[0]); start = len(ids)
with torch.no_grad():
    for _ in range(12):
        ids.append(int(module(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == lm.tokenizer.eos_token_id:
            break
hook.remove()
written = "".join(lm.token_string(id) for id in ids[start:]).replace(" ", "·")"""
    )
    found: str = shared.python("written")
    return found


def test_both_texts_are_what_hooks_write(shared: NotebookPage, panel: Locator) -> None:
    wanted = [by_hand(shared, strength) for strength in (0.0, 1.0)]
    wait_until(lambda: texts(panel) == wanted, 20, f"the texts {wanted}")
    assert wanted[0] != wanted[1]


def test_the_last_position_of_the_slider_wins(shared: NotebookPage, panel: Locator) -> None:
    for strength in (0.5, 1.5, -1.0, 3.0, 2.0):
        move(panel, strength)
    wanted = by_hand(shared, 2.0)
    wait_until(lambda: texts(panel)[1] == wanted, 20, f"the text {wanted}")
    heading = panel.locator(".nnl-text h4").nth(1)
    assert heading.inner_text() == "Steered by 2.00"


def test_it_follows_the_hand_while_a_cell_is_busy(shared: NotebookPage, panel: Locator) -> None:
    before = texts(panel)[1]
    busy = shared.add("import time\ntime.sleep(8)")
    shared.start(busy)
    wait_until(lambda: shared.busy(busy), 5, "the cell")
    move(panel, 0.0)
    wait_until(lambda: texts(panel)[1] == texts(panel)[0], 7, "the text without a push")

    assert shared.busy(busy)
    assert texts(panel)[1] != before
    shared.wait(busy)


def test_a_narrower_range_takes_the_strength_along(shared: NotebookPage, panel: Locator) -> None:
    move(panel, 3.0)
    heading = panel.locator(".nnl-text h4").nth(1)
    wait_until(lambda: heading.inner_text() == "Steered by 3.00", 20, "the text")
    reach = panel.get_by_label("Largest strength")
    reach.fill("2")
    reach.press("Enter")
    wait_until(lambda: heading.inner_text() == "Steered by 2.00", 20, "the narrower range")

    assert panel.get_by_label("Strength", exact=True).input_value() == "2"
    assert panel.locator("output").inner_text() == "2.00"
    assert shared.python("explorer._wanted['steering']['strength']") == 2
    assert texts(panel)[1] == by_hand(shared, 2.0)
    reach.fill("0")
    reach.press("Enter")
    assert reach.input_value() == "4"
