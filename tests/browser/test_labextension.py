"""The sidebar, the button on the cell, the badges and the status item, in a real JupyterLab."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.support.jupyter_lab import JupyterServer, NotebookPage, wait_until

READY = """import nnsight_lab as nl
%load_ext nnsight_lab
lm = nl.LanguageModel("tiny")
"""

TOKEN = "a-token-of-the-tests"  # noqa: S105 - of a server that lives for one test
SLOW = """import time

@nl.local_fn
def slowly(value):
    time.sleep(0.1)
    return value

with lm.generate("Once upon a time", max_new_tokens=100, eos_token_id=[]) as tracer:
    for step in tracer.iter[:]:
        slowly(lm.logits[:, -1]).save()
"""

CANCEL = """async () => {
    const run = document.querySelector('.nnl-Run');
    const clicked = performance.now();
    run.querySelector('.nnl-cancel').click();
    while (run.dataset.state !== 'cancelled') await new Promise(requestAnimationFrame);
    return performance.now() - clicked;
}"""
"""Click, and how many milliseconds it takes until the run has ended."""

COUNTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .map(cell => cell.model.executionCount ?? null)"""

DEBUGGER = "Could not restore the debugger state"
"""JupyterLab's own complaint when a kernel is restarted."""


@pytest.fixture(scope="module")
def page(browser: Browser, jupyter: JupyterServer) -> Iterator[NotebookPage]:
    """A notebook for the file: the extension loaded, the sidebar open, the bundled model as `lm`."""
    notebook = NotebookPage.open(browser, jupyter, "labextension", [READY])
    notebook.run(0)
    command(notebook, "nnsight-lab:show-sidebar")
    expect(notebook.page.locator(".nnl-Model[data-model='lm']")).to_have_count(1)
    yield notebook
    notebook.close()
    assert notebook.heard.outside == []
    assert [said for said in notebook.heard.errors if DEBUGGER not in said] == []


def command(notebook: NotebookPage, name: str) -> None:
    notebook.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def runs(notebook: NotebookPage) -> Locator:
    return notebook.page.locator(".nnl-Run")


def badge(notebook: NotebookPage, index: int) -> Locator:
    return notebook.page.locator(".jp-Notebook-cell").nth(index).locator(".nnl-Badge")


def open_model(notebook: NotebookPage) -> None:
    """Open the modules of `lm`, none of them searched for."""
    model = notebook.page.locator(".nnl-Model[data-model='lm']")
    if model.get_attribute("open") is None:
        model.locator("summary").first.click()
    notebook.page.get_by_role("searchbox", name="Search modules").fill("")


def activate(notebook: NotebookPage, index: int) -> None:
    notebook.page.evaluate(
        "index => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = index }", index
    )


def test_panel_status_item_and_commands_are_there(page: NotebookPage) -> None:
    named = page.page.evaluate(
        "() => window.jupyterapp.commands.listCommands().filter(id => id.startsWith('nnsight-lab'))"
    )
    page.page.keyboard.press("Control+Shift+C")
    palette = page.page.locator(".jp-ModalCommandPalette")
    palette.locator("input").fill("nnsight_lab")

    assert len(named) == 8
    expect(page.page.locator(".nnl-Sidebar")).to_be_visible()
    expect(page.page.locator(".nnl-Status")).to_have_text("nnl: idle")
    expect(palette.locator(".lm-CommandPalette-item")).to_have_count(7)


@pytest.mark.parametrize("key", ["Enter", " "])
def test_the_status_item_is_a_button(page: NotebookPage, key: str) -> None:
    page.page.keyboard.press("Escape")  # the palette of the test before
    item = page.page.get_by_role("button", name="nnl: idle")
    expect(item).to_be_visible()
    page.page.evaluate("() => window.jupyterapp.shell.collapseRight()")
    expect(page.page.locator(".nnl-Sidebar")).to_be_hidden()
    item.focus()
    page.page.keyboard.press(key)

    expect(page.page.locator(".nnl-Sidebar")).to_be_visible()
    assert item.evaluate("each => each.tabIndex") == 0


def test_a_run_has_a_row_and_its_cell_a_badge(page: NotebookPage) -> None:
    page.cell('%%trace lm "The <b>capital</b> of {} $is " \nh = lm.layers[2].output')
    size = page.python("h.numel() * h.element_size()")
    index = page.count - 1
    run = runs(page).first

    expect(run).to_have_attribute("data-state", "done")
    expect(run.locator(".nnl-prompt")).to_have_text("The <b>capital</b> of {} $is")
    expect(badge(page, index)).to_contain_text("run ")
    expect(badge(page, index)).to_contain_text(f"{size / 1000:.1f} kB")
    expect(badge(page, 0)).to_have_count(0)


def test_a_badge_counts_the_runs_of_the_last_execution(page: NotebookPage) -> None:
    index = page.add("for _ in range(3):\n    with lm.trace('a'):\n        x = lm.logits.save()")
    page.run(index)
    expect(badge(page, index)).to_contain_text("3 runs")

    page.run(index)
    expect(badge(page, index)).to_contain_text("3 runs")


@pytest.mark.slow
def test_cancel_ends_a_long_run_while_its_cell_is_busy(page: NotebookPage) -> None:
    index = page.add(SLOW)
    page.start(index)
    run = runs(page).first
    expect(run).to_have_attribute("data-state", "running")
    expect(page.page.locator(".nnl-Status")).to_have_text(re.compile(r"nnl: [1-9]\d?/100"))
    assert page.busy(index)

    took = page.page.evaluate(CANCEL)
    page.wait(index)

    assert took < 1000
    (error,) = (out for out in page.outputs(index) if out["output_type"] == "error")
    assert error["ename"] == "Cancelled"
    expect(run).to_have_attribute("data-state", "cancelled")
    expect(page.page.locator(".nnl-Status")).to_have_text("nnl: idle")


def test_a_click_on_a_module_inserts_its_path(page: NotebookPage) -> None:
    index = page.add("with lm.trace('The capital'):\n    h = .save()")
    activate(page, index)
    page.page.evaluate(
        """index => window.jupyterapp.shell.currentWidget.content.widgets[index]
            .editor.setCursorPosition({line: 1, column: 8})""",
        index,
    )
    open_model(page)
    page.page.get_by_role("searchbox", name="Search modules").fill("layers 3 mlp down")
    row = page.page.locator(".nnl-leaf").filter(has_text="model.layers.3.mlp.down_proj")
    row.get_by_role("button", name="Insert lm.model.layers[3].mlp.down_proj.output").click()

    assert "h = lm.model.layers[3].mlp.down_proj.output.save()" in page.source(index)
    page.run(index)
    assert page.python("h.shape[-1]") == page.python(
        "lm.card.tree and lm.module.config.hidden_size"
    )


def test_the_tree_opens_down_to_what_can_be_read(page: NotebookPage) -> None:
    index = page.add("")
    activate(page, index)
    open_model(page)
    for path in ["layers", "layers.2", "layers.2.attn"]:
        line = page.page.locator(f"summary:has([data-path='{path}'])")
        line.click(position={"x": 3, "y": 8})
    page.page.get_by_role("button", name="Insert lm.layers[2].attn.pattern").click()

    assert page.source(index) == "lm.layers[2].attn.pattern"


def test_the_button_on_the_cell_makes_it_a_trace_cell_and_back(page: NotebookPage) -> None:
    page.cell('%%trace lm "The capital of France is" -q\nh = lm.layers[1].output')
    index = page.add("late = lm.layers[3].output")
    activate(page, index)
    cell = page.page.locator(".jp-Notebook-cell").nth(index)
    toggle = cell.locator("[data-command='nnsight-lab:toggle-trace']")

    toggle.click()
    assert page.source(index).splitlines()[0] == '%%trace lm "The capital of France is" -q'
    page.run(index)
    assert page.python("tuple(late.shape) == tuple(h.shape)")
    activate(page, index)
    toggle.click()
    assert page.source(index) == "late = lm.layers[3].output"


def test_a_run_is_run_again_by_its_cell(page: NotebookPage) -> None:
    page.cell("count = 0")
    page.cell("count += 1\nwith lm.trace('a'):\n    x = lm.logits.save()")
    runs(page).first.get_by_role("button", name="Run its cell again").click()
    wait_until(lambda: page.python("count") == 2, 20, "the cell to run again")


def test_a_run_whose_cell_is_gone_is_run_again_from_its_graph(page: NotebookPage) -> None:
    page.cell(
        "with lm.trace('The capital') as tracer:\n    x = lm.logits.save()\nfirst = tracer.run"
    )
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:delete-cell')")
    page.cell("run = None")
    runs(page).first.get_by_role("button", name="Run its cell again").click()
    wait_until(lambda: page.python("run is not None and run is not first"), 20, "another run")

    assert page.python("float((run['x'] - first['x']).abs().max())") == 0.0


def test_a_run_shows_its_cell(page: NotebookPage) -> None:
    page.cell("with lm.trace('a'):\n    x = lm.logits.save()")
    made = page.count - 1
    page.cell("1 + 1")
    runs(page).first.get_by_role("button", name="Show the cell it came from").click()
    page.page.wait_for_function(
        "index => window.jupyterapp.shell.currentWidget.content.activeCellIndex === index", arg=made
    )


def test_the_explorer_opens_in_a_tab(page: NotebookPage) -> None:
    page.cell('%%trace "The capital of France is"\nh = lm.layers[2].output')
    runs(page).first.get_by_role("button", name="Open the explorer in a tab").click()
    tab = page.page.locator(".nnl-Explorer")

    expect(tab.locator(".jp-OutputArea-output:visible").first).to_be_visible()
    expect(tab).not_to_contain_text("Error")
    page.page.evaluate("() => window.jupyterapp.commands.execute('application:close')")


def test_a_page_that_is_loaded_again_knows_the_runs(page: NotebookPage) -> None:
    index = page.add("with lm.trace('The capital'):\n    x = lm.logits.save()")
    page.run(index)
    expect(badge(page, index)).to_have_attribute("data-state", "done")
    before = runs(page).count()
    said = badge(page, index).inner_text()
    page.save()
    again(page)

    expect(runs(page)).to_have_count(before)
    expect(page.page.locator(".nnl-Model[data-model='lm']")).to_have_count(1)
    expect(badge(page, index)).to_have_text(said)


def test_badges_can_be_turned_off(page: NotebookPage) -> None:
    index = page.add("with lm.trace('a'):\n    x = lm.logits.save()")
    page.run(index)
    expect(badge(page, index)).to_be_visible()
    setting = "value => window.jupyterapp.serviceManager.settings.save('nnsight-lab:plugin', value)"
    page.page.evaluate(setting, '{"badges": false}')
    page.save()
    again(page)
    try:
        expect(badge(page, index)).to_be_attached()
        expect(badge(page, index)).to_be_hidden()
    finally:
        page.page.evaluate(setting, "{}")
        again(page)
    expect(badge(page, index)).to_be_visible()


def again(notebook: NotebookPage) -> None:
    """Load the page again; its kernel lives on."""
    notebook.page.reload()
    notebook.ready()
    command(notebook, "nnsight-lab:show-sidebar")


def test_a_new_kernel_begins_with_nothing(page: NotebookPage) -> None:
    assert runs(page).count() > 0
    page.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    expect(runs(page)).to_have_count(0)
    page.ready()
    page.run(0)

    expect(page.page.locator(".nnl-Model[data-model='lm']")).to_have_count(1)
    page.cell("with lm.trace('The capital'):\n    x = lm.logits.save()")
    expect(runs(page)).to_have_count(1)


@contextmanager
def served(port: int) -> Iterator[str]:
    """A lab's server on a port, for as long as the block lasts; its address."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "nnsight_lab.cli", "serve", "tiny", "--port", str(port)],
        env=os.environ | {"NNSIGHT_LAB_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(f"{url}/readyz"), 90, "the server")
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_a_lab_that_goes_and_comes_back_is_seen(page: NotebookPage) -> None:
    server = page.page.locator(".nnl-Server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with served(port) as url:
        page.cell(f"lab = nl.connect({url!r}, token={TOKEN!r})")
        expect(server).to_have_attribute("data-state", "open")
        expect(page.page.locator(".nnl-Model[data-model='tiny']")).to_have_count(1)
        page.cell("far = lab.model('tiny')\nwith far.trace('a'):\n    x = far.logits.save()")
        expect(runs(page).first).to_have_attribute("data-state", "done")
        expect(page.page.locator(".nnl-Model[data-model='far']")).to_have_count(1)
        expect(server.locator(".nnl-queue")).to_have_text("tinyidle")
    expect(server).to_have_attribute("data-state", "lost", timeout=5_000)
    expect(server).to_contain_text("disconnected")
    expect(server.locator(".nnl-queue")).to_be_hidden()  # what it was is no longer known
    counts = page.page.evaluate(COUNTS)
    with served(port):
        expect(server).to_have_attribute("data-state", "open", timeout=10_000)
        expect(page.page.locator(".nnl-Model[data-model='tiny']")).to_have_count(1)
        assert page.page.evaluate(COUNTS) == counts  # it needs no cell to be run again
        page.cell("with far.trace('a'):\n    again = far.logits.save()")
        assert page.python("float((again - x).abs().max())") < 1e-5
