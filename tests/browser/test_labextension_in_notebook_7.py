"""The same in Notebook 7: the panel and the button, cells, live views, the explorer and its numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser import test_explorer as laws
from tests.browser.conftest import READY
from tests.support.jupyter_lab import JupyterServer, NotebookPage

pytestmark = pytest.mark.slow  # a Jupyter server of its own

SHORTCUTS = "(reading 'schema')"
"""What Notebook 7 complains of by itself, while it loads its shortcuts, without any extension."""

ACTIVE = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
BY_HAND = """
seen = []
hook = lm.module.model.layers[2].register_forward_hook(lambda _, args, out: seen.append(out))
lm.module(torch.tensor(lm.tokenize("The capital of France is").rows))
hook.remove()
by_hand = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
"""


@pytest.fixture(scope="module")
def shared(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """A notebook in Notebook 7 for the file, with the extension loaded and the sidebar open."""
    server = JupyterServer.start(tmp_path_factory.mktemp("notebook"), app="notebook")
    notebook = NotebookPage.open(browser, server, "seven", [READY])
    notebook.run(0)
    command(notebook, "nnsight-lab:show-sidebar")
    yield notebook
    notebook.close()
    server.stop()
    assert notebook.heard.outside == []
    assert [said for said in notebook.heard.errors if SHORTCUTS not in said] == []


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer below its cell."""
    output = shared.cell(f"explorer = nl.explore(lm, {laws.PROMPT!r})\nexplorer")
    found = output.locator(".nnl-explorer")
    found.wait_for()
    shared.cell(laws.BY_HAND)
    return found


def command(notebook: NotebookPage, name: str) -> None:
    notebook.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def test_it_is_notebook_7(shared: NotebookPage) -> None:
    named, version = shared.page.evaluate(
        "() => [window.jupyterapp.name, window.jupyterapp.version]"
    )

    assert named == "Jupyter Notebook"
    assert version.startswith("7.")


def test_the_panel_and_the_button_are_there_and_no_status_bar(shared: NotebookPage) -> None:
    expect(shared.page.locator(".nnl-Sidebar")).to_be_visible()
    expect(shared.page.locator(".nnl-Model[data-model='lm']")).to_have_count(1)
    expect(shared.page.locator(".nnl-Status")).to_have_count(0)

    index = shared.add("h = lm.layers[2].output")
    shared.page.evaluate(
        "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", index
    )
    command(shared, "nnsight-lab:toggle-trace")
    assert shared.source(index) == '%%trace ""\nh = lm.layers[2].output'


def test_a_traced_cell_gives_what_a_hook_gives_and_has_a_badge(shared: NotebookPage) -> None:
    shared.cell('%%trace "The capital of France is"\nh = lm.layers[2].output')
    cells = shared.page.locator(".jp-Notebook-cell")
    expect(cells.last.locator(".nnl-Badge")).to_contain_text("run ")
    expect(shared.page.locator(".nnl-Run").first).to_have_attribute("data-state", "done")
    shared.cell(BY_HAND)

    assert shared.python("tuple(h.shape) == tuple(by_hand.shape)")
    assert shared.python("float((h - by_hand).abs().max())") < 1e-5
    assert shared.python("float(h.abs().max())") > 0.1


def test_tokens_come_in_a_live_view(shared: NotebookPage) -> None:
    output = shared.cell(
        '%%trace "The capital of France is" --live -g 5 --as written\nlast = lm.logits[:, -1]'
    )
    view = output.locator(".nnl-live[data-state=done]")
    view.wait_for()
    words = shared.python("[lm.token_string(row[0]) for row in written.tokens]")

    assert view.locator(".nnl-live-token").all_inner_texts() == words
    assert len(words) == 5


def test_the_tokens_tab_is_the_same(shared: NotebookPage, explorer: Locator) -> None:
    laws.test_tokens_and_their_surprisal(shared, explorer)


def test_the_lens_tab_is_the_same(shared: NotebookPage, explorer: Locator) -> None:
    laws.test_the_lens_in_the_page_is_what_hooks_give(shared, explorer, 4, 12)
    laws.test_a_click_follows_a_token_through_the_layers(shared, explorer)


def test_a_key_of_the_explorer_is_none_of_the_notebook(
    shared: NotebookPage, explorer: Locator
) -> None:
    heat = laws.open_tab(explorer, "lens").locator(".nnl-heat").first
    heat.focus()
    active = shared.page.evaluate(ACTIVE)
    heat.press("ArrowUp")
    heat.press("c")

    explorer.locator(".nnl-code pre").wait_for()
    assert shared.page.evaluate(ACTIVE) == active
    expect(heat).to_be_focused()


def test_arrow_keys_move_a_slider_and_no_cell(shared: NotebookPage) -> None:
    output = shared.cell(
        '%%trace "The capital of France is" --live --as moved\n'
        'lm.layers[3].output[:] *= nl.slider("scale", 0, 2, value=1)\n'
        "after = lm.logits[:, -1]"
    )
    slider = output.locator("input[type=range]")
    slider.focus()
    active = shared.page.evaluate(ACTIVE)
    for _ in range(3):
        slider.press("ArrowUp")

    assert float(slider.input_value()) > 1
    assert shared.page.evaluate(ACTIVE) == active
    expect(slider).to_be_focused()


def test_a_live_view_and_an_explorer_look_as_each_should(
    shared: NotebookPage, explorer: Locator
) -> None:
    live = shared.page.locator(".nnl-live").first

    for view in (live, explorer):
        assert view.evaluate("node => getComputedStyle(node).borderTopWidth") == "1px"


def test_code_comes_back_of_a_view(shared: NotebookPage, explorer: Locator) -> None:
    laws.test_copy_as_code_gives_the_same_numbers(shared, explorer)


def test_the_explorer_of_a_run_opens_below_the_notebook(shared: NotebookPage) -> None:
    shared.cell('%%trace "The capital of France is"\nh = lm.layers[2].output')
    run = shared.page.locator(".nnl-Run").first
    run.get_by_role("button", name="Open the explorer").click()
    opened = shared.page.locator(".nnl-Explorer .jp-OutputArea-output:visible").first

    expect(opened).to_be_visible()
    expect(opened).not_to_contain_text("Error")
