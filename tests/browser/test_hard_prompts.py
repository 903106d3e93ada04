"""A prompt is text: whatever is in it is shown as it is, and nothing of it is carried out."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.jupyter_lab import NotebookPage

HARD = (
    "a {x} {} $y$ and $HOME \\(z\\) <script>window.hacked = 1</script>"
    '<img src=x onerror="window.hacked = 1"> 🙂 &amp; "quoted" ends '
)
WRITTEN = """%%trace lm "Once" --live -g {count} --as written
for step, id in zip(tracer.iter[:], hard_ids):
    lm.tokens[:] = id
    nl.live_plot(lm.logits[:, -1].max(), "<img src=x onerror=\\"window.hacked = 1\\"> $y$")
"""


def check_nothing_ran(page: NotebookPage) -> None:
    """No script, no picture, no formula came of it."""
    assert page.page.evaluate("() => window.hacked") is None
    assert page.page.locator("img[onerror], .jp-OutputArea script").count() == 0
    assert page.page.locator("mjx-container").count() == 0


@pytest.fixture(scope="module")
def tokens(shared: NotebookPage) -> list[str]:
    """The prompt's tokens, as the tokenizer itself gives them."""
    shared.cell(f"hard = {HARD!r}\nhard_ids = lm.tokenizer(hard)['input_ids']")
    found: list[str] = shared.python("[lm.token_string(id) for id in hard_ids]")
    assert len(found) > 40
    return found


@pytest.mark.parametrize("prompt", [repr(HARD), "{hard}"], ids=["literal", "expression"])
def test_a_cell_traces_the_tokens_of_the_tokenizer(
    shared: NotebookPage, tokens: list[str], prompt: str
) -> None:
    shared.cell(f"%%trace lm {prompt} --as traced\nh = lm.layers[1].output")
    assert shared.python("list(traced.inputs.rows[0]) == list(hard_ids)")
    assert shared.python("h.shape[1]") == len(tokens)

    text = shared.cell("traced").locator("[data-nnl=run]").inner_text()
    assert "<script>window.hacked = 1</script>" in text
    shared.page.evaluate("() => window.jupyterapp.commands.execute('nnsight-lab:show-sidebar')")
    row = shared.page.locator(".nnl-Run .nnl-prompt").first
    expect(row).to_contain_text("a {x} {} $y$ and $HOME \\(z\\) <script>")
    check_nothing_ran(shared)


def test_the_explorer_shows_every_token(shared: NotebookPage, tokens: list[str]) -> None:
    found = shared.cell("nl.explore(lm, hard)").locator(".nnl-explorer")
    chips = found.locator(".nnl-panel:visible .nnl-token")
    chips.first.wait_for()
    shown = chips.all_inner_texts()
    assert shown == tokens
    assert "🙂".encode().hex(" ").upper() in " ".join(shown)  # parts of a letter, as bytes
    assert tokens[-1].endswith("·")

    found.locator("[data-view=lens]").click()
    found.get_by_role("button", name="Copy as code").click()
    code = found.locator(".nnl-code pre")
    code.wait_for()
    shared.cell(code.inner_text())
    assert shared.python("list(run.inputs.rows[0]) == list(hard_ids)")
    check_nothing_ran(shared)


def test_the_live_strip_shows_what_is_sampled(shared: NotebookPage, tokens: list[str]) -> None:
    output = shared.cell(WRITTEN.format(count=len(tokens)), 120)
    output.locator(".nnl-live[data-state=done]").wait_for()
    shown = output.locator(".nnl-live-token").all_inner_texts()
    assert shown == tokens
    saved = shared.outputs(shared.count - 1)[0]["data"]["text/plain"]
    assert HARD.rstrip() in "".join(saved)  # whole letters, in the notebook's file
    expect(output.locator(".nnl-live-chart figcaption")).to_contain_text("<img src=x onerror=")
    check_nothing_ran(shared)
