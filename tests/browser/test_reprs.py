"""What is shown of our objects, in a real page: search, click, hover; reopened without a kernel."""

from __future__ import annotations

import json
import re

from tests.support.jupyter_lab import NotebookPage
from tests.support.seen import unnamed, unreachable

TRACE = """with lm.trace("The <script>alert(1)</script> costs $5 or $6") as tracer:
    h = lm.layers[2].output
    h[:, -1] += 4
    resid = h.save()
    probs = lm.logits[:, -1].softmax(-1).save()
"""
VISIBLE = "each => getComputedStyle(each).outlineStyle !== 'none'"


def test_a_module_is_found_by_typing_and_its_path_copied_by_a_click(notebook: NotebookPage) -> None:
    shown = notebook.cell("lm")
    name = shown.locator("[data-copy='lm.layers[0].attn.pattern']")
    assert not name.is_visible()
    shown.locator("input").press_sequentially("layers[3].attn.pat")
    name.wait_for()
    assert not shown.locator("[data-copy='lm.layers[0].attn.z']").is_visible()

    name.click()

    assert notebook.page.evaluate("navigator.clipboard.readText()") == "lm.layers[0].attn.pattern"
    shown.locator("input").fill("")
    name.wait_for(state="hidden")


def test_a_path_is_copied_by_keyboard_too(notebook: NotebookPage) -> None:
    shown = notebook.cell("lm")
    shown.locator("input").fill("layers[3].attn.pat")
    name = shown.locator("[data-copy='lm.layers[0].attn.pattern']")
    name.wait_for()
    role = name.evaluate("each => [each.tagName, each.type, each.textContent]")
    shown.locator("input").focus()
    for _ in range(40):
        notebook.page.keyboard.press("Tab")
        if name.evaluate("each => each === document.activeElement"):
            break
    seen = name.evaluate("each => getComputedStyle(each).outlineStyle")
    cells = notebook.count
    for key in ("Enter", " "):
        notebook.page.evaluate("navigator.clipboard.writeText('nothing')")
        notebook.page.keyboard.press(key)
        read = "navigator.clipboard.readText()"
        assert notebook.page.evaluate(read) == "lm.layers[0].attn.pattern", key

    assert role == ["BUTTON", "button", ".pattern"]
    assert seen != "none"
    assert notebook.count == cells
    assert name.evaluate("each => each === document.activeElement"), "no cell is edited"
    assert unnamed(notebook.page, "[data-nnl=model]") == []
    assert unreachable(shown) == []


def test_a_branch_is_opened_by_keyboard(notebook: NotebookPage) -> None:
    shown = notebook.cell("lm")
    branch = shown.locator("details").first
    before = branch.evaluate("each => each.open")
    branch.locator("summary").first.focus()
    for key in ("Enter", " "):
        notebook.page.keyboard.press(key)
        assert branch.evaluate("each => each.open") is not before
        before = not before


def test_pointing_at_a_node_marks_its_line_and_nothing_else(notebook: NotebookPage) -> None:
    notebook.cell(TRACE)
    shown = notebook.cell("tracer.graph")
    shown.locator("img").wait_for()
    box = shown.locator("span[data-line][title*='softmax']").last
    box.hover()
    marked = shown.locator("tr[data-line]").evaluate_all(
        f"rows => rows.filter({VISIBLE}).map(row => row.innerText)"
    )

    assert len(marked) == 1
    assert "probs = lm.logits[:, -1].softmax(-1).save()" in marked[0]
    assert "line 5" in (box.get_attribute("title") or "")
    shown.locator("tr[data-line]", has_text="h[:, -1] += 4").hover()
    boxes = shown.locator("span[data-line]").evaluate_all(f"all => all.filter({VISIBLE}).length")
    assert boxes == notebook.python("sum(node.where.line == 3 for node in tracer.graph)")


def test_an_error_is_a_card_and_two_lines(notebook: NotebookPage) -> None:
    index = notebook.add('with lm.trace("a"):\n    h = lm.layers[2].mpl.output')
    shown = notebook.run(index)

    assert [out["output_type"] for out in notebook.outputs(index)] == ["display_data", "error"]
    assert "h = lm.layers[2].mpl.output" in shown.locator("mark").inner_text()
    assert "address-not-found" in shown.locator("[data-nnl=error]").inner_text()
    card, error = notebook.outputs(index)
    assert len(error["traceback"]) == 2
    assert "layers.2 has no module or value 'mpl'" in error["traceback"][0]
    assert "h = lm.layers[2].mpl.output" in error["traceback"][1]
    plain = "".join(card["data"]["text/plain"])
    assert plain.count("nnsight_lab/") <= 1
    assert "Did you mean 'mlp'?" in plain
    again = notebook.run(notebook.add("%tb")).inner_text()
    assert "Traceback (most recent call last)" in again
    notebook.cell("%unload_ext nnsight_lab")
    index = notebook.add("lm.layers[2].mpl")
    notebook.run(index)
    assert [out["output_type"] for out in notebook.outputs(index)] == ["error"]


def test_tokens_are_no_formulas_and_no_elements(notebook: NotebookPage) -> None:
    notebook.cell(TRACE)
    shown = notebook.cell("tracer.run")
    text = shown.locator("[data-nnl=run]").inner_text()

    assert "'The <script>alert(1)</script> costs $5 or $6'" in text
    assert shown.locator("mjx-container, .MathJax").count() == 0


def test_a_saved_notebook_is_readable_without_a_kernel_and_without_trust(
    notebook: NotebookPage,
) -> None:
    notebook.cell(TRACE)
    for value in ("lm", "tracer.graph", "tracer.run", "resid"):
        notebook.cell(value)
    saved = notebook.save()
    html = ["".join(out["data"].get("text/html", "")) for cell in saved["cells"]
            for out in cell["outputs"] if "data" in out]  # fmt: skip
    assert sum(map(len, html)) < 100_000
    # Another notebook with the same outputs: nobody here ran it, so Lab does not trust it.
    other = notebook.path.with_name("not-trusted.ipynb")
    saved["cells"][0]["source"] = "1 / 0"
    other.write_text(json.dumps(saved))
    page = notebook.page.context.new_page()
    page.goto(notebook.page.url.replace(notebook.path.name, other.name))
    page.wait_for_selector(".jp-OutputArea [alt^='<Graph']")
    (model, graph, run, tensor) = page.locator(".jp-RenderedHTML").all()

    assert not page.locator("[onclick], [oninput], [onmouseover]").count()
    for image in page.locator(".jp-RenderedHTML img").all():
        assert image.evaluate("each => each.naturalWidth") > 0
    model.locator("summary").first.click()
    assert "embed" in model.inner_text()
    assert "probs = lm.logits[:, -1].softmax(-1).save()" in graph.inner_text()
    assert "resid" in run.inner_text()
    assert "mean" in tensor.inner_text()
    assert not re.search(
        r"alert\(1\)", page.evaluate("() => [...document.scripts].map(s => s.text).join()")
    )
