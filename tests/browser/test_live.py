"""Live views in a real browser: what Python tells them while a cell runs, and what they ask."""

from __future__ import annotations

import statistics

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import READY
from tests.support.jupyter_lab import JupyterServer, NotebookPage

_PROBE = '''
import threading, time
from nnsight_lab.jupyter.channel import Channel, module_of
CODE = module_of() + """
export default { async render({ model, el }) {
  const log = document.createElement("div"), word = document.createElement("span");
  log.className = "probe-log"; word.className = "probe-state";
  const button = document.createElement("button"); button.className = "probe-ask";
  el.append(button, log, word);
  const channel = await connect(model, el, {
    told: (kind, content, buffers) => {
      log.textContent += (content.n + (buffers.length ? buffers[0].getUint8(0) : 0)) + " ";
    },
    reset: () => { log.textContent = ""; },
    state: (said) => { word.textContent = said; },
  });
  button.onclick = () => channel.say("ask", { n: 1 });
  return () => channel.close();
} };
"""
heard, busy = [], False
def hear(kind, content, buffers):
    heard.append((kind, content["n"], busy))
channel = Channel(CODE, "", hear)
'''
_BUSY = """
channel.show("<b>what is saved</b>", "what is saved")
busy = True
for n in range(24):
    channel.publish("count", {"n": n}, [bytes([1])])
    time.sleep(0.2)
busy = False
"""
_RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
_STATE = ".probe-state >> text=live"
_ALL = " ".join(str(n + 1) for n in range(24))


def test_a_view_of_a_busy_cell_is_told_and_heard_while_it_runs(notebook: NotebookPage) -> None:
    notebook.cell(_PROBE)
    index = notebook.add(_BUSY)
    notebook.start(index)
    notebook.page.locator(_STATE).wait_for()
    for _ in range(3):
        notebook.page.locator(".probe-ask").click()
    assert notebook.busy(index)
    notebook.wait(index)

    assert notebook.python("heard") == [("ask", 1, True)] * 3
    notebook.page.locator(f".probe-log >> text={_ALL}").wait_for()


def test_a_view_that_mounts_later_is_told_all_of_it(notebook: NotebookPage) -> None:
    notebook.cell(_PROBE)
    notebook.cell(_BUSY)
    notebook.cell("display(channel.view)").locator(f".probe-log >> text={_ALL}").wait_for()


def test_what_stands_in_for_a_view_is_seen_only_without_it(notebook: NotebookPage) -> None:
    notebook.cell(_PROBE)
    notebook.cell('channel.show("<b>what is saved</b>", "what is saved")')
    notebook.page.locator(_STATE).wait_for()
    fallback = notebook.page.locator("text=what is saved").last
    fallback.wait_for(state="hidden")
    notebook.cell('channel.fall_back("<b>what is saved last</b>", "what is saved last")')
    assert not notebook.page.locator("b >> text=what is saved last").is_visible()

    notebook.save()
    notebook.page.evaluate(_RESTART)
    notebook.page.reload()
    notebook.ready()
    notebook.page.locator("b >> text=what is saved last").wait_for()
    error = notebook.page.locator("text=Error displaying widget")
    error.wait_for(state="attached")
    assert not error.is_visible()
    # JupyterLab says that it has no such widget any more, which is so.
    assert all("widget model not found" in said for said in notebook.heard.errors)
    notebook.heard.errors.clear()


_SLIDER = """
torch.manual_seed(0)
direction = torch.randn(128)
with lm.trace("The capital of France is") as tracer:
    strength = nl.slider("strength", 0, 8)
    lm.layers[2].output[:, -1] += strength * direction
    logits = lm.logits[:, -1].save()
moving = tracer.run.live()
"""
_MOVE = """([value]) => {
    const input = document.querySelector('.nnl-live input');
    input.value = value;
    input.dispatchEvent(new Event('input'));
    return document.querySelector('.nnl-live').dataset.moves;
}"""
_PAINTED = "move => document.querySelector('.nnl-live').dataset.painted === move"
_LAG = "() => Number(document.querySelector('.nnl-live').dataset.lag)"
_FORWARD = """
import statistics, time
def forward():
    began = time.perf_counter()
    with torch.no_grad():
        lm.module(torch.tensor(tracer.run.inputs.rows), use_cache=False)
    return time.perf_counter() - began
forward()
passes = [forward() for _ in range(30)]
"""
_BY_HAND = """
def by_hand(at):
    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] += at * direction
    handle = lm.module.model.layers[2].register_forward_hook(hook)
    with torch.no_grad():
        found = lm.module(torch.tensor(tracer.run.inputs.rows), use_cache=False).logits[:, -1]
    handle.remove()
    return found[0].softmax(-1).topk(8)
"""


def test_a_slider_repaints_what_hooks_give(notebook: NotebookPage) -> None:
    output = notebook.cell(_SLIDER)
    notebook.cell(_BY_HAND)
    page = notebook.page
    page.locator(".nnl-live[data-channel=live]").wait_for()
    before = output.locator(".nnl-live-bars").inner_text()
    move = page.evaluate(_MOVE, [6])
    page.wait_for_function(_PAINTED, arg=move)

    numbers = output.locator(".nnl-live-number").all_inner_texts()
    expected = notebook.python("by_hand(torch.tensor(6.0)).values.tolist()")
    assert [float(text) for text in numbers] == pytest.approx(expected, rel=2e-3)
    assert output.locator(".nnl-live-bars").inner_text() != before
    slider = output.locator("input[type=range]")
    assert slider.get_attribute("aria-label") == "strength, 0 to 8"
    slider.press("ArrowRight")
    page.wait_for_function(_PAINTED, arg=str(int(move) + 1))
    assert notebook.python("moving.run.sliders['strength'].value") == pytest.approx(6.04)


def test_the_picture_follows_the_hand(notebook: NotebookPage) -> None:
    notebook.cell(_SLIDER)
    notebook.cell(
        "from nnsight_lab.models.under_way import runs_under_way, watching\n"
        "from contextlib import ExitStack\n"
        "most, stack = [0], ExitStack()\n"
        "def count(run, event):\n"
        "    most[0] = max(most[0], len(runs_under_way()))\n"
        "_ = stack.enter_context(watching(count))"
    )
    page = notebook.page
    page.locator(".nnl-live[data-channel=live]").wait_for()
    lags = []
    for number in range(30):
        move = page.evaluate(_MOVE, [number / 5])
        page.wait_for_function(_PAINTED, arg=move, polling=10)
        lags.append(page.evaluate(_LAG))
    for number in range(60):  # faster than it can run
        move = page.evaluate(_MOVE, [8 - number / 10])
    page.wait_for_function(_PAINTED, arg=move)
    assert notebook.python("moving.run.sliders['strength'].value") == pytest.approx(2.1, abs=0.05)
    assert notebook.python("most") == [1]

    notebook.cell(_FORWARD)
    forward = 1e3 * notebook.python("statistics.median(passes)")
    median = statistics.median(lags)
    assert median <= 1.5 * forward + 60, f"{median:.0f} ms, a pass takes {forward:.0f} ms"


# So that the page, however busy the machine is, sees the cell run.
_SLOWLY = """import time

@nl.local_fn
def slowly(value):
    time.sleep(0.05)
    return value
"""


def test_tokens_and_curves_grow_while_the_cell_runs_and_cancel_is_heard(
    notebook: NotebookPage,
) -> None:
    notebook.cell(_SLOWLY)
    index = notebook.add(
        'with lm.generate("The", max_new_tokens=400, eos_token_id=[]) as tracer:\n'
        "    for step in tracer.iter[:]:\n"
        '        nl.live_plot(slowly(lm.layers[2].output[:, -1].norm()), "norm")\n'
    )
    notebook.start(index)
    page = notebook.page
    view = page.locator(".nnl-live[data-state=running][data-channel=live]")
    view.wait_for(timeout=60_000)
    lengths: set[str | None] = set()
    while len(lengths) < 3:
        lengths.add(view.get_attribute("data-tokens"))
        assert notebook.busy(index)
    page.locator(".nnl-live-cancel").click()
    page.locator(".nnl-live[data-state=failed]").wait_for(timeout=5_000)
    notebook.wait(index)
    (error,) = (out for out in notebook.outputs(index) if out["output_type"] == "error")
    assert error["ename"] == "Cancelled"
    points = page.locator(".nnl-live-chart").get_attribute("data-points")
    assert 3 <= int(points or 0) < 400


def test_a_hand_on_a_slider_fills_no_list_and_other_pages_follow_it(notebook: NotebookPage) -> None:
    page = notebook.page
    page.evaluate("() => window.jupyterapp.commands.execute('nnsight-lab:show-sidebar')")
    notebook.cell(_SLIDER)
    page.locator(".nnl-live[data-channel=live]").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.nnl-Run').length === 1")
    index = notebook.add("import time\ntime.sleep(3)\nwith lm.trace('mine'):\n    lm.logits.save()")
    notebook.start(index)
    for number in range(6):
        move = page.evaluate(_MOVE, [number])
        page.wait_for_function(_PAINTED, arg=move)
    assert notebook.busy(index)
    notebook.wait(index)
    page.wait_for_function("() => document.querySelectorAll('.nnl-Run').length === 2")
    prompts = page.locator(".nnl-Run .nnl-prompt").all_inner_texts()
    assert prompts == ["mine", "The capital of France is"]
    badge = page.locator(".jp-Notebook-cell").nth(index).locator(".nnl-Badge")
    badge.wait_for()
    assert badge.inner_text().startswith("run ")  # one run, not seven

    # Another view of the same sliders stands where the hand has left them.
    again = notebook.cell("display(moving.view.channel.view)").locator(
        ".nnl-live[data-channel=live]"
    )
    again.wait_for()
    assert again.locator("input[type=range]").input_value() == "5"
    assert again.locator("label output").inner_text() == "5"
    page.evaluate(_MOVE, [2])
    page.wait_for_function(
        "() => [...document.querySelectorAll('.nnl-live input')].every((it) => it.value === '2')"
    )


def test_a_view_whose_kernel_is_gone_says_so(browser: Browser, jupyter: JupyterServer) -> None:
    notebook = NotebookPage.open(browser, jupyter, "kernel-gone", [READY])
    notebook.run(0)
    page = notebook.page
    notebook.cell(_SLOWLY)
    index = notebook.add(
        '%%trace lm "The" --live -g 100\n'
        "for step in tracer.iter[:]:\n"
        "    seen = slowly(lm.logits[:, -1])"
    )
    notebook.start(index)
    page.locator(".nnl-live[data-state=running][data-channel=live]").wait_for()
    page.evaluate(_RESTART)
    page.locator(".nnl-live[data-channel=closed]").wait_for()
    assert page.locator(".nnl-live-state").inner_text() == "no kernel"
    assert not page.locator(".nnl-live-cancel").is_visible()
    notebook.ready()
    notebook.close()
    debugger = "Could not restore the debugger state"  # JupyterLab's own complaint of a restart
    assert [said for said in notebook.heard.errors if debugger not in said] == []
