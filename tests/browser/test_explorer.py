"""The explorer in a real browser: what is seen is what hooks give, and code comes back of a click."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Locator

from tests.browser.conftest import READY, Open
from tests.support.jupyter_lab import NotebookPage, wait_until

PROMPT = "The capital of France is Paris. The capital of Italy is"
BY_HAND = f"""
import torch
module = nl.LanguageModel("tiny").executor.module
hand_ids = torch.tensor(lm.tokenize({PROMPT!r}).rows)
stream = []
hooks = [module.model.layers[0].register_forward_pre_hook(
    lambda _, args, kwargs: stream.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)]
hooks += [block.register_forward_hook(
    lambda _, args, out: stream.append(out[0] if isinstance(out, tuple) else out)) for block in module.model.layers]
with torch.no_grad():
    hand_logits = module(hand_ids).logits
for hook in hooks:
    hook.remove()
with torch.no_grad():
    hand = torch.stack([*(module.lm_head(module.model.norm(h))[0] for h in stream), hand_logits[0]]).softmax(-1)
"""


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer of the prompt, on the page of the file."""
    output = shared.cell(f"explorer = nl.explore(lm, {PROMPT!r})\nexplorer")
    found = output.locator(".nnl-explorer")
    found.wait_for()
    shared.cell(BY_HAND)
    return found


def open_tab(explorer: Locator, name: str) -> Locator:
    explorer.locator(f"[data-view={name}]").click()
    panel = explorer.locator(".nnl-panel:visible")
    panel.wait_for()
    return panel


def tip_of(explorer: Locator) -> str:
    tip = explorer.locator(".nnl-tip")
    tip.wait_for(state="visible")
    return tip.inner_text()


def test_tokens_and_their_surprisal(shared: NotebookPage, explorer: Locator) -> None:
    panel = open_tab(explorer, "tokens")
    chips = panel.locator(".nnl-token")
    tokens = shared.python("[lm.token_string(id) for id in hand_ids[0].tolist()]")
    assert chips.all_inner_texts() == [token.replace(" ", "·") for token in tokens]

    tip = explorer.locator(".nnl-tip")

    def told() -> bool:
        chips.nth(4).hover()  # the page may have scrolled away below the pointer
        chips.nth(5).hover()
        return "position 5" in tip.inner_text() and "surprisal" in tip.inner_text()

    wait_until(told, 10, "the surprisal")
    seen = float(re.findall(r"surprisal ([\d.e-]+)", tip_of(explorer))[0])
    by_hand = shared.python("float(-hand[-1, 4, hand_ids[0, 5]].log())")
    assert seen == pytest.approx(by_hand, abs=1e-3)
    chips.nth(5).click()
    wait_until(lambda: shared.python("explorer.selection['token']") == 5, 10, "the selection")


@pytest.mark.parametrize(("layer", "position"), [(0, 3), (4, 12), (7, 5)])
def test_the_lens_in_the_page_is_what_hooks_give(
    shared: NotebookPage, explorer: Locator, layer: int, position: int
) -> None:
    panel = open_tab(explorer, "lens")
    heat = panel.locator(".nnl-heat").first
    wait_until(lambda: bool(heat.locator("canvas").get_attribute("style")), 10, "the heatmap")
    # By keyboard to the cell: the first key begins in the corner at the bottom left.
    heat.focus()
    for key, times in (
        ("ArrowDown", 10),
        ("ArrowLeft", 15),
        ("ArrowUp", layer),
        ("ArrowRight", position),
    ):
        for _ in range(times):
            heat.press(key)

    rows = [line.split(maxsplit=1) for line in tip_of(explorer).splitlines()[1:6]]
    best = shared.python(
        f"[(float(v), lm.token_string(int(i))) for v, i in zip(*hand[{layer}, {position}].topk(5))]"
    )
    for (shown, word), (chance, token) in zip(rows, best, strict=True):
        if "e" not in shown:
            assert float(shown) == pytest.approx(chance, abs=6e-4)
        assert word == token.replace(" ", "·")
    said = panel.locator("[aria-live]").first.text_content() or ""
    assert f"position {position}" in said


def test_a_click_follows_a_token_through_the_layers(
    shared: NotebookPage, explorer: Locator
) -> None:
    panel = open_tab(explorer, "lens")
    field = panel.get_by_label("Token to follow")
    field.fill(" Rome")
    field.press("Enter")
    panel.locator(".nnl-lines circle").first.wait_for()
    panel.locator(".nnl-heat").first.focus()
    titles = panel.locator(".nnl-chart").first.locator("circle title").all_text_contents()
    rome = shared.python('lm.tokenizer.encode(" Rome", add_special_tokens=False)[0]')
    token = shared.python("explorer.selection['token']")
    by_hand = shared.python(f"hand[:, {token}, {rome}].tolist()")

    shown = [float(title.rsplit(": ", 1)[1]) for title in titles]
    assert shown == pytest.approx(by_hand, abs=1e-4)


def test_copy_as_code_gives_the_same_numbers(shared: NotebookPage, explorer: Locator) -> None:
    open_tab(explorer, "lens")
    explorer.get_by_role("button", name="Copy as code").click()
    code = explorer.locator(".nnl-code pre")
    code.wait_for()
    text = code.inner_text()
    assert text.startswith("%%trace lm ")
    shared.cell(text)

    assert (
        shared.python(
            "float((run['lens_probabilities'][:, :, 0] - hand.max(-1).values).abs().max())"
        )
        < 1e-5
    )
    assert shared.page.evaluate("() => navigator.clipboard.readText()") == text


def test_a_figure_comes_as_code(shared: NotebookPage, explorer: Locator) -> None:
    open_tab(explorer, "tokens")
    explorer.get_by_role("button", name="Figure").click()
    explorer.get_by_role("button", name="Plotly figure, as code").click()
    code = explorer.locator(".nnl-code pre")
    code.wait_for()
    shared.cell(f"figure = {code.inner_text()}")

    assert shared.python("len(figure.data[0].y)") == shared.python("hand_ids.shape[1]")


def test_a_pinned_view_stands_beside_another_run(shared: NotebookPage, explorer: Locator) -> None:
    heat = open_tab(explorer, "lens").locator(".nnl-heat").first
    wait_until(lambda: bool(heat.locator("canvas").get_attribute("style")), 30, "what to pin")
    explorer.get_by_role("button", name="Pin").click()
    shared.cell(f"%%trace lm {PROMPT!r} --as edited -q\nlm.layers[3].output[:, -1] = 0")
    other = shared.cell("edited.explore()").locator(".nnl-explorer")
    other.wait_for()
    panel = open_tab(other, "lens")
    other.get_by_label("Compare with").select_option(index=1)
    maps = panel.locator(".nnl-heat")
    wait_until(lambda: maps.count() == 2, 10, "two maps")
    assert "pinned" in panel.locator(".nnl-pinned").inner_text()

    def best_at_the_end(index: int) -> str:
        heat = maps.nth(index)
        heat.focus()
        for key in ("ArrowUp",) * 10 + ("ArrowRight",) * 15:
            heat.press(key)
        return tip_of(other).splitlines()[1]

    pinned, edited = best_at_the_end(0), best_at_the_end(1)
    assert pinned.endswith("·Rome")
    assert pinned != edited


def test_hovering_a_busy_kernel_is_quick_and_asks_nothing(
    shared: NotebookPage, explorer: Locator
) -> None:
    panel = open_tab(explorer, "lens")
    heat = panel.locator(".nnl-heat").first
    busy = shared.add("import time\ntime.sleep(4)")
    shared.start(busy)
    wait_until(lambda: shared.busy(busy), 5, "the cell")
    heat.scroll_into_view_if_needed()
    time.sleep(0.5)
    box = heat.bounding_box()
    assert box is not None
    sent = len(shared.heard.sent)
    took = []
    for step in range(8):
        begun = time.monotonic()
        shared.page.mouse.move(box["x"] + 120 + 40 * step, box["y"] + 15 + 20 * (step % 3))
        tip_of(explorer)
        took.append(time.monotonic() - begun)

    assert sorted(took)[4] < 0.1
    assert len(shared.heard.sent) == sent
    assert shared.busy(busy)
    shared.wait(busy)


def test_a_busy_kernel_answers_what_is_asked(shared: NotebookPage, explorer: Locator) -> None:
    panel = open_tab(explorer, "lens")
    busy = shared.add("import time\ntime.sleep(6)")
    shared.start(busy)
    wait_until(lambda: shared.busy(busy), 5, "the cell")
    field = panel.get_by_label("Token to follow")
    field.fill(" Paris")
    field.press("Enter")
    panel.locator(".nnl-chip", has_text="Paris").wait_for(timeout=4000)

    assert shared.busy(busy)
    shared.wait(busy)


def test_tokens_typed_in_a_row_are_all_followed(shared: NotebookPage, explorer: Locator) -> None:
    """Each while an answer to what was typed before it is on its way."""
    panel = open_tab(explorer, "lens")
    words = (" Rome", " Paris", " Berlin", " Madrid", " London", " Lisbon")
    panel.get_by_label("Token to follow").evaluate(TYPED, list(words))

    for word in words:
        panel.locator(".nnl-chip", has_text=word.strip()).wait_for(timeout=5000)


TYPED = """async (field, words) => {
  for (const [index, word] of words.entries()) {
    field.value = word;
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    await new Promise((done) => setTimeout(done, 25 * (index + 1)));
  }
}"""


HARD = 'a {x} $y <script>alert("no")</script> 🙂 "quoted" ends '


def test_a_hard_prompt_is_shown_as_it_is(shared: NotebookPage) -> None:
    shared.cell(f"hard = nl.explore(lm, {HARD!r})")
    found = shared.cell("hard").locator(".nnl-explorer")
    chips = found.locator(".nnl-token")
    chips.first.wait_for()
    dialogs: list[str] = []
    shared.page.on("dialog", lambda dialog: dialogs.append(dialog.message))

    assert chips.count() == shared.python(f"len(lm.tokenize({HARD!r}).rows[0])")
    shown = "".join(chips.all_inner_texts())
    assert "<script>" in shown.replace("·", "")
    assert shown.endswith("·") or "·" in chips.last.inner_text()
    assert dialogs == []


def test_the_keyboard_reaches_every_tab(explorer: Locator) -> None:
    open_tab(explorer, "tokens")
    first = explorer.locator("[data-view=tokens]")
    first.focus()
    first.press("ArrowRight")

    assert explorer.locator("[data-view=lens]").get_attribute("aria-selected") == "true"
    assert explorer.locator("[data-view=lens]").evaluate("it => it === document.activeElement")
    assert explorer.locator("[role=tabpanel]:visible").get_attribute("aria-label") == "Lens"


def test_ten_explorers_are_light(open_notebook: Open) -> None:
    page = open_notebook(READY)
    page.run(0)
    before = sum(size for _, size in page.heard.frames)
    cells = [page.cell(f"nl.explore(lm, {PROMPT!r})") for _ in range(10)]
    for cell in cells:
        cell.locator(".nnl-token").first.wait_for()
    assert sum(size for _, size in page.heard.frames) - before < 2_000_000

    wait_until(
        lambda: all("Likeliest next" in str(page.outputs(at)) for at in range(1, 11)),
        10,
        "the numbers that are read without a kernel",
    )
    page.save()
    wait_until(lambda: "explore" in page.path.read_text(), 10, "the saved notebook")
    saved = page.path.read_text()
    assert len(saved) < 1_000_000
    assert "·capital" in saved


def test_the_first_paint_is_quick(shared: NotebookPage) -> None:
    index = shared.add(f"nl.explore(lm, {PROMPT!r})")
    begun = time.monotonic()
    shared.start(index)
    shared.output(index).locator(".nnl-token").first.wait_for()

    assert time.monotonic() - begun < 1.5


def test_copied_code_becomes_a_cell_below(shared: NotebookPage, explorer: Locator) -> None:
    open_tab(explorer, "tokens")
    before = shared.count
    explorer.get_by_role("button", name="Copy as code").click()
    wait_until(lambda: shared.count == before + 1, 10, "the new cell")

    code = explorer.locator(".nnl-code pre").inner_text()
    assert shared.source(2) == code  # the explorer is in cell 1
    shared.run(2)
    by_hand = "-hand[-1, :-1].gather(-1, hand_ids[0, 1:, None])[:, 0].log()"
    assert shared.python(f"float((surprisal - {by_hand}).abs().max())") < 1e-4
