"""Notebooks on a lab's server: a run is ended where it runs; two users see each their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from nnsight_lab.contract import Done, Emit, Failed, ModelCard, RunEvent, RunRequest, Token
from nnsight_lab.errors import Cancelled
from nnsight_lab.ir import ModuleSource
from nnsight_lab_server.engines.base import Engine
from tests.browser.conftest import READY
from tests.browser.test_labextension import CANCEL
from tests.server.lab_server import TOKEN, Serving, serving, tiny_engine
from tests.support.jupyter_lab import JupyterServer, NotebookPage, wait_until

LONG = '%%trace far "{}" --live -g 100 --as far_run\nfor step in tracer.iter[:]:\n    x = far.logits[:, -1]'
INTERRUPT = """async () => {
    const cell = window.jupyterapp.shell.currentWidget.content.activeCell;
    const begun = performance.now();
    window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt();
    while (cell.model.executionState === "running") await new Promise(requestAnimationFrame);
    return performance.now() - begun;
}"""


class SlowEngine:
    """The real engine, a tenth of a second for each token; it notes how runs ended, and when.

    go_on: until it is set, a run stays where it is.
    """

    concurrency = 1

    def __init__(self) -> None:
        self.engine: Engine = tiny_engine()
        self.ended: list[tuple[float, RunEvent]] = []
        self.tokens = 0
        self.slow = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def card(self) -> ModelCard:
        return self.engine.card()

    def source_of(self, path: str) -> ModuleSource:
        return self.engine.source_of(path)

    def run(self, request: RunRequest, emit: Emit) -> None:
        def note(event: RunEvent) -> None:
            if isinstance(event, Token) and self.slow.is_set():
                self.tokens += 1
                time.sleep(0.1)
                assert self.go_on.wait(60)
            if isinstance(event, Done | Failed):
                self.ended.append((time.monotonic(), event))
            emit(event)

        self.engine.run(request, note)

    def cancel(self, run_id: str) -> None:
        self.engine.cancel(run_id)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def engine() -> SlowEngine:
    """What the server runs on."""
    made = SlowEngine()
    made.slow.set()
    return made


@pytest.fixture(scope="module")
def lab(engine: SlowEngine) -> Iterator[Serving]:
    """A real server: its socket, its protocol, its queue."""
    with serving(("tiny", lambda: engine)) as running:
        yield running


def connected(
    browser: Browser, jupyter: JupyterServer, lab: Serving, name: str
) -> Iterator[NotebookPage]:
    page = NotebookPage.open(browser, jupyter, name, [READY])
    page.run(0)
    page.page.evaluate("() => window.jupyterapp.commands.execute('nnsight-lab:show-sidebar')")
    page.cell(f"lab = nl.connect({lab.url!r}, token={TOKEN!r})\nfar = lab.model('tiny')")
    expect(page.page.locator(".nnl-Server")).to_have_attribute("data-state", "open")
    yield page
    page.close()
    page.check()


@pytest.fixture(scope="module")
def ann(browser: Browser, jupyter: JupyterServer, lab: Serving) -> Iterator[NotebookPage]:
    """The notebook of one user: a browser and a kernel of its own."""
    yield from connected(browser, jupyter, lab, "of-one-user")


@pytest.fixture(scope="module")
def ben(browser: Browser, jupyter: JupyterServer, lab: Serving) -> Iterator[NotebookPage]:
    """The notebook of another."""
    yield from connected(browser, jupyter, lab, "of-another-user")


def started(page: NotebookPage, prompt: str) -> int:
    """A run of ten seconds, under way."""
    index = page.add(LONG.format(prompt))
    page.start(index)
    view = page.output(index).locator(".nnl-live[data-channel=live][data-state=running]")
    view.locator(".nnl-live-token").nth(2).wait_for(timeout=30_000)
    assert page.busy(index)
    return index


def queue_of(page: NotebookPage) -> Locator:
    """What the sidebar says of all runs on the served model."""
    return page.page.locator(".nnl-queue [data-model=tiny] .nnl-traffic")


def check_cancelled(page: NotebookPage, engine: SlowEngine, index: int, asked: float) -> None:
    """The notebook says so, and so does the server, soon after it was asked to."""
    wait_until(lambda: bool(engine.ended), 5, "the end on the server")
    (at, event) = engine.ended[-1]
    assert isinstance(event, Failed)
    assert isinstance(event.error, Cancelled)
    assert at - asked < 1
    assert engine.tokens < 100
    expect(page.page.locator(".nnl-Run").first).to_have_attribute("data-state", "cancelled")
    (error,) = (out for out in page.outputs(index) if out["output_type"] == "error")
    assert error["ename"] in {"Cancelled", "KeyboardInterrupt"}


def test_cancel_in_the_sidebar_ends_it_on_the_server(ann: NotebookPage, engine: SlowEngine) -> None:
    engine.tokens, engine.ended = 0, []
    index = started(ann, "Once upon a time")
    asked = time.monotonic()
    took = ann.page.evaluate(CANCEL)
    ann.wait(index)

    assert took < 1000
    check_cancelled(ann, engine, index, asked)


def test_interrupt_ends_it_on_the_server(ann: NotebookPage, engine: SlowEngine) -> None:
    # Jupyter's own part is another process and a request: seconds, on a machine that is loaded.
    idle = ann.add("import time\ntime.sleep(20)")
    ann.start(idle)
    wait_until(lambda: ann.busy(idle), 20, "a cell to interrupt")
    time.sleep(0.5)
    plain = ann.page.evaluate(INTERRUPT)
    ann.wait(idle)
    engine.tokens, engine.ended = 0, []
    index = started(ann, "Once upon a time")
    asked = time.monotonic()
    took = ann.page.evaluate(INTERRUPT)
    ann.wait(index)

    assert took - plain < 1000, f"{took:.0f} ms, of a cell that sleeps {plain:.0f} ms"
    check_cancelled(ann, engine, index, asked + plain / 1e3)


def test_two_users_see_each_their_own(
    ann: NotebookPage, ben: NotebookPage, engine: SlowEngine
) -> None:
    before = ann.page.locator(".nnl-Run").count()
    first = ann.add(LONG.format("The capital of France is").replace("100", "60"))
    second = ben.add(LONG.format("Once upon a time").replace("100", "10"))
    engine.tokens = 0
    engine.go_on.clear()
    ann.start(first)
    ann.page.locator(".nnl-Run[data-state=running]").wait_for()
    wait_until(lambda: engine.tokens > 0, 20, "the first run")
    ben.start(second)
    ben.page.locator(".nnl-Run[data-state=queued]").wait_for()

    expect(ben.page.locator(".nnl-Server")).to_contain_text("1 of yours under way · behind 1")
    expect(ann.page.locator(".nnl-Server")).not_to_contain_text("behind")
    for page in (ann, ben):  # the queue itself is everybody's
        expect(queue_of(page)).to_have_text("1 running, 1 waiting", timeout=20_000)
    engine.go_on.set()
    ann.wait(first)
    ben.wait(second)
    for page in (ann, ben):
        expect(queue_of(page)).to_have_text("idle", timeout=20_000)
    for page, count, prompt in (
        (ann, before + 1, "The capital of France is"),
        (ben, 1, "Once upon a time"),
    ):
        expect(page.page.locator(".nnl-Run")).to_have_count(count)
        expect(page.page.locator(".nnl-Run").first).to_have_attribute("data-state", "done")
        expect(page.page.locator(".nnl-Run").first.locator(".nnl-prompt")).to_have_text(prompt)
        by_hand = (
            f"with lm.trace({prompt!r}):\n    here = lm.logits[:, -1].save()\n"
            f"with far.trace({prompt!r}):\n    there = far.logits[:, -1].save()"
        )
        page.cell(by_hand)
        assert page.python("float((here - there).abs().max())") < 1e-4
    shown = [
        "".join(page.output(index).locator(".nnl-live-token").all_inner_texts())
        for page, index in ((ann, first), (ben, second))
    ]
    assert shown[0] != shown[1]
