"""`%%trace --live`: tokens and values in the page while the model runs, and sliders afterwards."""

from __future__ import annotations

import time

from tests.support.jupyter_lab import NotebookPage, wait_until

LIVE = """%%trace "The capital of France is" -g 20 --live --as told
for _ in tracer.iter[:]:
    norm = lm.layers[3].output[:, -1].norm()
    pause(norm).save()
"""
PAUSE = """import time
def slowly(value):
    time.sleep(0.2)
    return value
pause = nl.local_fn(slowly)
"""


def test_tokens_come_while_the_cell_runs(notebook: NotebookPage) -> None:
    notebook.cell(PAUSE)
    index = notebook.add(LIVE)
    notebook.start(index)
    tokens = notebook.output(index).locator("[data-token], .nnl-token, .nnl-live-token")
    lengths: list[int] = []
    texts: list[str] = []
    while notebook.busy(index):
        lengths.append(tokens.count())
        time.sleep(0.1)
    notebook.wait(index)
    wait_until(lambda: tokens.count() == notebook.python("len(told.tokens)"), 10, "every token")
    texts = tokens.all_inner_texts()

    assert len(set(lengths) - {0}) >= 3
    assert lengths == sorted(lengths)
    words = notebook.python("[lm.token_string(ids[0]) for ids in told.tokens]")
    assert texts == words


def test_a_live_view_keeps_its_looks_beside_an_explorer(notebook: NotebookPage) -> None:
    """One page has one style sheet of each kind of widget: theirs are two kinds."""
    views = [
        notebook.cell(source).locator(name)
        for source, name in (
            ('%%trace "a b" -g 2 --live\nx = lm.logits', ".nnl-live"),
            ('nl.explore(lm, "a b")', ".nnl-explorer"),
            ('%%trace "a b" -g 2 --live\nx = lm.logits', ".nnl-live"),
        )
    ]
    views[-1].locator(".nnl-live-token").nth(1).wait_for()

    for view in views:
        assert view.evaluate("node => getComputedStyle(node).borderTopWidth") == "1px"


def test_sliders_of_a_live_cell_move_it(notebook: NotebookPage) -> None:
    index = notebook.add(
        '%%trace "The capital of France is" --live --as moved\n'
        'lm.layers[3].output[:] *= nl.slider("scale", 0, 2, value=1)\n'
        "top = lm.logits[0, -1].softmax(-1).max()"
    )
    output = notebook.run(index)
    slider = output.get_by_label("scale").first
    slider.wait_for()

    assert notebook.python("list(moved.sliders)") == ["scale"]
