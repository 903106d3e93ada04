"""A notebook that is opened again: what can be read where no kernel knows its widgets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import READY
from tests.support.alone import opened_alone
from tests.support.jupyter_lab import JupyterServer, NotebookPage, wait_until
from tests.support.seen import faint_texts

SLIDER = """with lm.trace("The capital") as tracer:
    push = nl.slider("push", 0, 8)
    lm.layers[2].output[:, -1] += push
    chances = lm.logits[0, -1].softmax(-1).save()
moving = tracer.run.live()"""
CELLS = (
    'nl.explore(lm, "The capital of France is")',
    '%%trace lm "Once upon a time" --live -g 6 --as written\nx = lm.logits',
    SLIDER,
)
BY_HAND = """import torch
ids = torch.tensor(lm.tokenize("The capital of France is").rows)
with torch.no_grad():
    spread = lm.module(ids).logits[0].log_softmax(-1)
values, best = spread[-1].exp().topk(5)
surprisal = -spread[:-1].gather(-1, ids[0, 1:, None])[:, 0]
words = [lm.token_string(int(id)).replace(" ", "·").replace("\\n", "↵") for id in best]
by_hand = (surprisal.tolist(), values.tolist(), words)"""
READ = ("·capital", " boy", "chances")
"""What must be readable of each cell: a token of the prompt, one that was sampled, a name."""

RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"


@pytest.fixture(scope="module")
def written(browser: Browser, jupyter: JupyterServer) -> Iterator[NotebookPage]:
    """A saved notebook with an explorer, a live strip and a slider."""
    page = NotebookPage.open(browser, jupyter, "written", [READY])
    page.run(0)
    for cell in CELLS:
        page.cell(cell)
    page.page.locator(".nnl-explorer .nnl-token").first.wait_for()
    page.page.locator(".nnl-live[data-state=done]").wait_for()
    wait_until(lambda: "Likeliest next" in json.dumps(page.outputs(1)), 10, "the numbers")
    page.save()
    wait_until(lambda: "nl.explore" in page.path.read_text(), 10, "the saved notebook")
    yield page
    page.close()
    page.check()


def test_the_numbers_in_the_file_are_those_of_hooks(written: NotebookPage) -> None:
    written.cell(BY_HAND)
    surprisal, values, words = written.python("by_hand")
    (html,) = ("".join(out["data"]["text/html"])
               for out in json.loads(written.path.read_text())["cells"][1]["outputs"]
               if "text/html" in out["data"])  # fmt: skip
    after = html.partition("Likeliest next: ")[2].partition("<")[0]

    assert [float(found) for found in re.findall(r"<small>(.*?)</small>", html)] == pytest.approx(
        surprisal, abs=6e-4
    )
    assert [each.split(" ")[0] for each in after.split(", ")] == words
    assert [float(each.split(" ")[1]) for each in after.split(", ")] == pytest.approx(
        values, abs=6e-5
    )


def check_readable(page: Page) -> None:
    """Each cell says what it showed, and none that something went wrong."""
    page.locator("text=Run the cell again to explore").wait_for()
    outputs = page.locator(".jp-Notebook:visible .jp-OutputArea")
    page.wait_for_timeout(3000)  # widgets are given up after a while
    texts = [text for text in outputs.all_inner_texts() if text.strip()]
    number = page.locator(".jp-Notebook:visible small").first  # hidden where the widget is
    assert re.fullmatch(r"\d+\.\d{3}", number.inner_text())
    assert faint_texts(number.locator("xpath=../..")) == []
    for wanted, text in zip(READ, texts, strict=True):
        assert wanted in text
    for said in ("Error", "Loading widget", "Traceback", "not found"):
        assert said not in "\n".join(texts)


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not-trusted"])
def test_without_a_kernel_the_numbers_are_read(written: NotebookPage, trusted: bool) -> None:
    page = opened_alone(written, trusted=trusted)
    check_readable(page)
    page.close()


def test_after_a_restart_the_numbers_are_read(written: NotebookPage) -> None:
    written.page.evaluate(RESTART)
    written.page.reload()
    written.ready()
    check_readable(written.page)
    # JupyterLab says to the console that the new kernel has no such widget, which is so.
    assert all("widget model not found" in said for said in written.heard.errors)
    written.heard.errors.clear()
