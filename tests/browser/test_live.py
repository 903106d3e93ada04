"""Live views in a real browser: what Python tells them while a cell runs, and what they ask."""

from __future__ import annotations

from tests.support.jupyter_lab import NotebookPage

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
