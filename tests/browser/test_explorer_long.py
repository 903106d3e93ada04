"""A prompt of 1,024 tokens on a deep model: tabs with a number for every place stay usable."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator

from tests.browser.conftest import READY
from tests.browser.test_explorer_patching import go_to
from tests.browser.test_explorer_shared import opened
from tests.support.jupyter_lab import JupyterServer, NotebookPage, wait_until

LONG = """
from tests.support.explored import random_gpt2
deep = nl.LanguageModel(random_gpt2(30, 2, 16, 1024), tokenizer=lm.tokenizer)
said = torch.randint(40, 60, (1, 1024), generator=torch.Generator().manual_seed(0))
explorer = nl.explore(deep, said.tolist())
explorer"""
FOLLOWED = "ABCDEF"


@pytest.fixture(scope="module")
def explorer(browser: Browser, jupyter: JupyterServer) -> Iterator[Locator]:
    """An explorer of it; what the page complained of is looked at when all is done."""
    page = NotebookPage.open(browser, jupyter, "long", [READY])
    page.run(0)
    found = page.cell(LONG, 120).locator(".nnl-explorer")
    found.locator(".nnl-token").first.wait_for()
    yield found
    page.close()
    page.check()


def idle(explorer: Locator) -> None:
    note = explorer.locator(".nnl-foot [role=status]")
    wait_until(lambda: "running" not in note.inner_text(), 120, "the numbers")


def repainted(heat: Locator) -> float:
    """Milliseconds to draw it once, on the way down and to the right."""
    found: float = heat.evaluate(
        """it => {
            const began = performance.now();
            for (let step = 1; step <= 10; step++) {
                it.scrollTop = step * 20;
                it.scrollLeft = step * 500;
                it.dispatchEvent(new Event("scroll"));
            }
            return (performance.now() - began) / 10;
        }"""
    )
    return found


def test_tokens(explorer: Locator) -> None:
    idle(explorer)
    panel = opened(explorer, "tokens")
    chips = panel.locator(".nnl-token")
    assert chips.count() == 1024
    chips.nth(1000).click()
    panel.get_by_text("1024 tokens. Position 1000").wait_for()
    assert "surprisal" in panel.get_by_text("Position 1000").inner_text()


def test_six_tokens_are_followed_in_the_lens(explorer: Locator) -> None:
    panel = opened(explorer, "lens")
    idle(explorer)
    field = panel.get_by_label("Token to follow")
    for place, letter in enumerate(FOLLOWED):
        field.fill(letter)
        field.press("Enter")
        panel.locator(".nnl-chip").nth(place).wait_for()
    for by in ("rank", "entropy", "chance", "rank"):
        panel.get_by_label("Colour by").select_option(by)
    heat = panel.locator(".nnl-heat").first
    assert repainted(heat) < 200
    heat.focus()
    heat.press("ArrowLeft")
    assert "position" in (panel.locator("[aria-live]").first.text_content() or "")
    assert panel.locator(".nnl-lines").nth(1).locator("polyline").count() == 6


def test_a_patch(explorer: Locator) -> None:
    panel = opened(explorer, "patching")
    idle(explorer)
    text = panel.get_by_label("Source prompt")
    text.fill(("0123456789" * 103)[:1023])  # and the token at the beginning
    text.press("Enter")
    panel.get_by_text("Drag a cell of the source").wait_for(timeout=120_000)
    source = panel.locator(".nnl-heat").first
    go_to(source, 2, 3)
    source.press("Enter")
    began = time.monotonic()
    source.press("p")
    panel.get_by_text("Result: source layer").wait_for(timeout=120_000)
    assert time.monotonic() - began < 60
    assert repainted(panel.locator(".nnl-heat").nth(2)) < 200
