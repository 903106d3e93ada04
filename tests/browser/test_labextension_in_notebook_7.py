"""The same extension in Notebook 7: the panel and the button are there, a status bar is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.support.jupyter_lab import JupyterServer, NotebookPage

pytest.importorskip("notebook", reason="pip install notebook")

READY = """import nnsight_lab as nl
%load_ext nnsight_lab
lm = nl.LanguageModel("tiny")
"""

SHORTCUTS = "(reading 'schema')"
"""What Notebook 7 complains of by itself, while it loads its shortcuts, without any extension."""


@pytest.fixture
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """A notebook in Notebook 7, with the extension loaded."""
    server = JupyterServer.start(tmp_path_factory.mktemp("notebook"), app="notebook")
    notebook = NotebookPage.open(browser, server, "seven", [READY])
    notebook.run(0)
    yield notebook
    notebook.close()
    server.stop()
    assert notebook.heard.outside == []
    assert [said for said in notebook.heard.errors if SHORTCUTS not in said] == []


@pytest.mark.slow
def test_notebook_7_has_the_panel_the_button_and_the_badge(page: NotebookPage) -> None:
    run = "name => window.jupyterapp.commands.execute(name)"
    page.page.evaluate(run, "nnsight-lab:show-sidebar")
    expect(page.page.locator(".nnl-Sidebar")).to_be_visible()
    expect(page.page.locator(".nnl-Model[data-model='lm']")).to_have_count(1)

    index = page.add("h = lm.layers[2].output")
    page.page.evaluate(
        "i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i }", index
    )
    page.page.evaluate(run, "nnsight-lab:toggle-trace")
    assert page.source(index) == '%%trace ""\nh = lm.layers[2].output'

    page.cell('%%trace "The capital of France is"\nh = lm.layers[2].output')
    cells = page.page.locator(".jp-Notebook-cell")
    expect(cells.last.locator(".nnl-Badge")).to_contain_text("run ")
    expect(page.page.locator(".nnl-Run")).to_have_attribute("data-state", "done")
    expect(page.page.locator(".nnl-Status")).to_have_count(0)

    page.page.locator(".nnl-Run").get_by_role("button", name="Open the explorer").click()
    expect(page.page.locator(".nnl-Explorer .jp-OutputArea-output:visible").first).to_be_visible()
