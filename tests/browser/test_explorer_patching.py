"""Patching and features in a real browser: dragged with the mouse, pressed on the keyboard, filled live."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Locator

from tests.support.jupyter_lab import NotebookPage, wait_until

TARGET = "The capital of France is Paris. The capital of Italy is"
SOURCE = "The capital of Spain is Madrid. The capital of Japan is"
LONGER = "The capital of the country Spain is Madrid. The capital of Japan is"
SAE = """
class Sae(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.back = torch.nn.Linear(128, 96), torch.nn.Linear(96, 128)
    def encode(self, x):
        return torch.relu(self.into(x))
    def decode(self, acts):
        return self.back(acts)
sae = Sae()
runs = []
from nnsight_lab.models import under_way
watch = under_way.watching(lambda run, event: runs.append(run.id) if event is None else None)
watch.__enter__()
"""
BY_HAND = """
seen = []
module = nl.LanguageModel("tiny").executor.module
block = lambda layer: module.model.layers[layer]
first = lambda out: out[0] if isinstance(out, tuple) else out
def write(_, __, out):
    new = first(out).clone()
    new[0, {to}] = seen[0]
    return (new, *out[1:]) if isinstance(out, tuple) else new
with torch.no_grad():
    hook = block({layer}).register_forward_hook(lambda _, __, out: seen.append(first(out)[0, {at}].clone()))
    module(torch.tensor(lm.tokenize({source!r}).rows))
    hook.remove()
    hook = block({layer}).register_forward_hook(write)
    patched = module(torch.tensor(lm.tokenize({target!r}).rows)).logits[0].softmax(-1)
    hook.remove()
"""


@pytest.fixture(scope="module")
def explorer(shared: NotebookPage) -> Locator:
    """An explorer with an autoencoder, on the page of the file."""
    shared.cell(SAE)
    output = shared.cell(f"explorer = nl.explore(lm, {TARGET!r}, sae=sae, layer=3)\nexplorer")
    found = output.locator(".nnl-explorer")
    found.wait_for()
    return found


def patching(explorer: Locator, source: str = SOURCE) -> Locator:
    """The tab with a source prompt, and both its grids."""
    explorer.locator("[data-view=patching]").click()
    panel = explorer.locator(".nnl-panel:visible")
    text = panel.get_by_label("Source prompt")
    text.fill("")
    text.press("Enter")
    panel.get_by_text("Type a source prompt:").wait_for()
    text.fill(source)
    text.press("Enter")
    panel.get_by_text("Drag a cell of the source").wait_for()
    return panel


def go_to(heat: Locator, layer: int, position: int) -> None:
    """With the arrow keys; the first key begins in the corner at the bottom left, at `embed`."""
    heat.focus()
    for key, times in (("ArrowDown", 10), ("ArrowLeft", 20), ("ArrowUp", layer + 1)):
        for _ in range(times):
            heat.press(key)
    for _ in range(position):
        heat.press("ArrowRight")


_TIPS = (
    "() => [...document.querySelectorAll('.nnl-tip:not([hidden])')].map(it => it.innerText).join()"
)


def middle(panel: Locator, number: int, layer: int, position: int) -> tuple[float, float]:
    """Where a cell of the source (0) or target (1) is on the page; found by hovering."""
    box = panel.locator(".nnl-heat").nth(number).bounding_box()
    assert box is not None
    page = panel.page

    def over(x: float, y: float) -> str:
        page.mouse.move(x, y)
        said: str = page.evaluate(_TIPS)
        return said

    heights = (box["y"] + 5 + step for step in range(0, int(box["height"]) - 10, 8))
    down = next(y for y in heights if f"layer {layer}," in over(box["x"] + 90, y))
    widths = (box["x"] + 70 + step for step in range(0, int(box["width"]) - 70, 14))
    across = next(x for x in widths if f"layer {layer}, position {position} " in over(x, down))
    return across + 4, down + 3


def drag(panel: Locator, taken: tuple[int, int], put: tuple[int, int]) -> None:
    """Drag a cell of the source onto one of the target, with the mouse."""
    panel.locator(".nnl-heat").nth(1).scroll_into_view_if_needed()
    begun, end = middle(panel, 0, *taken), middle(panel, 1, *put)
    mouse = panel.page.mouse
    mouse.move(*begun)
    mouse.down()
    mouse.move((begun[0] + end[0]) / 2, (begun[1] + end[1]) / 2)
    mouse.move(*end)
    mouse.up()
    panel.get_by_text(re.compile(f"^Result: source layer {taken[0]} ")).wait_for()


def result_at(explorer: Locator, panel: Locator, layer: int, position: int) -> list[str]:
    """The hover of a cell of the result; layer 6 is the model's output."""
    go_to(panel.locator(".nnl-heat").nth(2), layer, position)
    return explorer.locator(".nnl-tip").inner_text().splitlines()


def test_a_drag_is_one_run_and_what_hooks_give(shared: NotebookPage, explorer: Locator) -> None:
    panel = patching(explorer)
    before = shared.python("len(runs)")
    drag(panel, (2, 12), (2, 12))
    assert shared.python("len(runs)") == before + 1

    shared.cell(BY_HAND.format(source=SOURCE, target=TARGET, layer=2, at=12, to=12))
    best = shared.python(
        "[(float(v), lm.token_string(int(i))) for v, i in zip(*patched[12].topk(3))]"
    )
    lines = result_at(explorer, panel, 6, 12)
    for line, (chance, token) in zip(lines[1:4], best, strict=True):
        shown, word = line.split(maxsplit=1)
        if "e" not in shown:
            assert float(shown) == pytest.approx(chance, abs=6e-4)
        assert word == token.replace(" ", "·")
    assert "was ·Rome" in lines[4]
    assert result_at(explorer, panel, 6, 11)[4].endswith(" 0.000 of the probability moved")
    assert result_at(explorer, panel, 1, 12)[4].endswith(" 0.000 of the probability moved")


def test_its_code_gives_the_same_bits(shared: NotebookPage, explorer: Locator) -> None:
    panel = patching(explorer)
    drag(panel, (1, 4), (3, 4))
    explorer.get_by_role("button", name="Copy as code").click()
    code = explorer.locator(".nnl-code pre")
    code.wait_for()
    wait_until(lambda: "[0, 4] = source_moved" in code.inner_text(), 10, "the code")
    shared.cell(code.inner_text())
    assert code.inner_text().startswith("%%trace lm ")

    wanted = f"{{'source': {SOURCE!r}, 'from': [1, 4], 'to': [3, 4]}}"
    shared.cell(f"sheets = []\nexplorer.views['patching'].ask({wanted}, sheets.append)")
    same = (
        "(torch.from_numpy(sheets[-1].arrays['change']) - run['patched_change']).abs().max().item()"
    )
    assert shared.python(same) == 0.0
    shown = result_at(explorer, panel, 5, 8)[4]
    moved = shared.python("float(run['patched_change'][6, 8])")
    assert f"{moved:.3f} of" in shown or "e-" in shown


def test_the_keyboard_patches_prompts_of_two_lengths(
    shared: NotebookPage, explorer: Locator
) -> None:
    panel = patching(explorer, LONGER)
    before = shared.python("len(runs)")
    go_to(panel.locator(".nnl-heat").nth(0), 2, 6)
    tip = explorer.locator(".nnl-tip")
    assert "·Spain" in tip.inner_text()
    panel.locator(".nnl-heat").nth(0).press("Enter")
    heat = panel.locator(".nnl-heat").nth(1)
    go_to(heat, 2, 4)
    assert "no token here" in tip.inner_text()
    heat.press("ArrowRight")
    heat.press("ArrowRight")
    assert "position 4 after ·France" in tip.inner_text()
    heat.press("p")
    panel.get_by_text(
        re.compile("^Result: source layer 2 ·Spain in target layer 2 ·France")
    ).wait_for()

    assert shared.python("len(runs)") == before + 1


LONG = "The capital of France is Paris. " * 14
"""Long enough that a map of it takes a while."""


def test_a_map_fills_live_and_stops_while_a_cell_is_busy(shared: NotebookPage) -> None:
    output = shared.cell(f"slow = nl.explore(lm, {LONG!r})\nslow")
    slow = output.locator(".nnl-explorer")
    slow.wait_for()
    panel = patching(slow, LONG.replace("France", "Spain"))
    panel.get_by_label("answer token", exact=True).fill(" Paris")
    panel.get_by_label("other token").fill(" Madrid")
    busy = shared.add("import time\ntime.sleep(15)")
    shared.start(busy)
    wait_until(lambda: shared.busy(busy), 5, "the cell")
    panel.get_by_role("button", name="Map", exact=True).click()
    said = panel.get_by_text(re.compile(r"[1-5] of 6 layers"))
    said.wait_for()
    begun = time.monotonic()
    slow.get_by_role("button", name="Cancel").click()
    slow.get_by_text("cancelled", exact=True).wait_for(timeout=4000)
    took = time.monotonic() - begun

    assert took < 1
    assert shared.busy(busy)
    assert said.count() == 1
    shared.wait(busy)
    assert shared.python("len(nl.models.under_way.runs_under_way())") == 0


def test_a_map_ends_with_what_hooks_give(shared: NotebookPage, explorer: Locator) -> None:
    panel = patching(explorer)
    panel.get_by_label("answer token", exact=True).fill(" Tokyo")
    panel.get_by_label("other token").fill(" Rome")
    panel.get_by_role("button", name="Map", exact=True).click()
    panel.get_by_text("6 of 6 layers").wait_for()
    shared.cell(BY_HAND.format(source=SOURCE, target=TARGET, layer=3, at=12, to=12))
    tokens = [
        shared.python(f"lm.tokenizer.encode({word!r}, add_special_tokens=False)[0]")
        for word in (" Tokyo", " Rome")
    ]
    by_hand = shared.python(f"float((patched[12, {tokens[0]}] / patched[12, {tokens[1]}]).log())")

    shown = result_at(explorer, panel, 2, 12)
    assert shown[0].startswith("layer 3, position 12")
    assert float(shown[1].split()[0]) == pytest.approx(by_hand, abs=2e-3)
    # A cell of the map, picked, is patched by itself.
    panel.locator(".nnl-heat").nth(2).press("Enter")
    panel.get_by_text(re.compile("^Result: source layer 3 ·is in target layer 3 ·is")).wait_for()


def test_a_pinned_patch_stands_beside_another(shared: NotebookPage, explorer: Locator) -> None:
    panel = patching(explorer)
    drag(panel, (3, 12), (3, 12))
    explorer.get_by_role("button", name="Pin").click()
    other = shared.cell(f"nl.explore(lm, {TARGET!r})").locator(".nnl-explorer")
    other.wait_for()
    assert other.locator("[data-view=features]").is_disabled()
    assert "sparse autoencoder" in (
        other.locator("[data-view=features]").get_attribute("title") or ""
    )
    other.locator("[data-view=patching]").click()
    panel = other.locator(".nnl-panel:visible")
    other.get_by_label("Compare with").select_option(index=1)

    panel.locator(".nnl-pinned").get_by_text("Result: source layer 3").wait_for()


def test_features_of_a_token(shared: NotebookPage, explorer: Locator) -> None:
    explorer.locator("[data-view=features]").click()
    panel = explorer.locator(".nnl-panel:visible")
    panel.locator(".nnl-token").nth(5).click()
    panel.get_by_text("Layer 3, position 5").wait_for()
    shared.cell(f"""
with lm.trace({TARGET!r}):
    resid = lm.layers[3].output[0].save()
acts = sae.encode(resid).detach()""")
    best = shared.python("[(int(i), float(v)) for v, i in zip(*acts[5].topk(10))]")
    rows = panel.get_by_role("option", name=re.compile("^feature"))
    seen = [row.split() for row in rows.all_inner_texts()]
    assert [int(row[0]) for row in seen] == [id for id, _ in best]
    assert [float(row[-1]) for row in seen] == pytest.approx([v for _, v in best], abs=1e-3)

    rows.first.focus()
    rows.first.press("ArrowDown")
    panel.get_by_text(f"What feature {best[1][0]} says").wait_for()
    panel.locator(".nnl-token").nth(9).hover()
    tip = explorer.locator(".nnl-tip").inner_text()
    at = shared.python(f"float(acts[9, {best[1][0]}])")
    assert float(tip.split()[-1]) == pytest.approx(at, abs=1e-3)
