"""`%%trace --live` in a real browser: tokens come one by one, and other views stay usable."""

from __future__ import annotations

from typing import Any

from tests.support.jupyter_lab import NotebookPage, wait_until

SLOWLY = """import time

@nl.local_fn
def slowly(value):
    time.sleep(0.4)
    return value
"""
LIVE = """%%trace lm "Once upon a time" --live -g 20 --as written
for step in tracer.iter[:]:
    seen = slowly(lm.logits[:, -1].max())
    nl.live_plot(seen, "largest logit")
"""
WATCH = """() => {
    const seen = window.seenTexts = [];
    const cell = window.jupyterapp.shell.currentWidget.content.activeCell;
    const look = () => {
        const strip = cell.node.querySelector(".nnl-live-tokens");
        const tokens = [...(strip?.querySelectorAll(".nnl-live-token") ?? [])].map((it) => it.textContent);
        if (tokens.length && tokens.length !== seen.at(-1)?.length) seen.push(tokens);
        if (cell.model.executionState === "running" || cell.model.executionCount === null) requestAnimationFrame(look);
    };
    look();
}"""
"""From now until the cell has ended: the tokens of its strip, each time there are more."""

HOVER = """async ([heat, steps]) => {
    const tip = heat.closest(".nnl-explorer").querySelector(".nnl-tip");
    const box = heat.getBoundingClientRect();
    const took = [], texts = new Set();
    for (let step = 0; step < steps; step++) {
        const before = tip.textContent, at = { clientX: box.x + 120 + 40 * step, clientY: box.y + 15 + 20 * (step % 3) };
        const begun = performance.now();
        heat.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, ...at }));
        while (tip.hidden || tip.textContent === before) {
            if (performance.now() - begun > 3000) throw new Error("no hover box");
            await new Promise(requestAnimationFrame);
        }
        await new Promise(requestAnimationFrame);
        took.push(performance.now() - begun);
        texts.add(tip.textContent);
    }
    return [took, texts.size];
}"""
LAYERS = """async ([heat, steps]) => {
    const canvas = heat.querySelector("canvas");
    const took = [];
    heat.focus();
    for (let step = 0; step < steps; step++) {
        const before = canvas.toDataURL(), begun = performance.now();
        const key = step % 2 ? "ArrowDown" : "ArrowUp";
        heat.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        await new Promise(requestAnimationFrame);
        if (canvas.toDataURL() === before) throw new Error("nothing was painted");
        took.push(performance.now() - begun);
    }
    return took;
}"""
"""Arrow keys go from layer to layer: how long until the map is painted anew."""


def test_tokens_come_one_by_one_and_views_follow_the_hand(shared: NotebookPage) -> None:
    explored = shared.cell('nl.explore(lm, "The capital of France is")')
    explored.locator("[data-view=lens]").click()
    heat = explored.locator(".nnl-heat").first
    wait_until(lambda: bool(heat.locator("canvas").get_attribute("style")), 20, "the heatmap")
    shared.cell(SLOWLY)
    index = shared.add(LIVE)
    shared.start(index)
    shared.page.evaluate(WATCH)
    output = shared.output(index)
    live = output.locator(".nnl-live[data-channel=live][data-state=running]")
    live.wait_for(timeout=60_000)

    sent = len(shared.heard.sent)
    handle: Any = heat.element_handle()
    hovers, different = shared.page.evaluate(HOVER, [handle, 6])
    repaints = shared.page.evaluate(LAYERS, [handle, 6])
    busy, said = shared.busy(index), len(shared.heard.sent) - sent
    shared.wait(index)

    assert busy
    assert said == 0  # of hovers and of layers the kernel hears nothing
    assert different > 1
    assert sorted(hovers)[3] < 200
    assert sorted(repaints)[3] < 200
    output.locator(".nnl-live[data-state=done]").wait_for()
    assert live.count() == 0
    check_tokens(shared, output.locator(".nnl-live-token").all_inner_texts())


def check_tokens(shared: NotebookPage, shown: list[str]) -> None:
    """The strip grew in order, and ends as the run says."""
    texts: list[list[str]] = shared.page.evaluate("() => window.seenTexts")
    assert len({len(text) for text in texts if len(text) < 20}) >= 3
    assert all(text == shown[: len(text)] for text in texts)
    ids = shared.python("[row[0] for row in written.tokens]")
    words = shared.python(f"[lm.token_string(id) for id in {ids}]")
    assert len(shown) == 20
    assert shown == words
