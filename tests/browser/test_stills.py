"""Seven explorers, each left at another tab: what is read of them where no kernel is.

And how it comes into the notebook: into its own cell, whatever another one does meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator

from tests.browser.conftest import READY
from tests.support.alone import opened_alone
from tests.support.html_tree import Element, parsed
from tests.support.jupyter_lab import JupyterServer, NotebookPage, wait_until
from tests.support.seen import faint_texts

PROMPT = "The capital of France is Paris. The capital of Italy is"
SOURCE = "The capital of Spain is Madrid. The capital of Japan is"
SAE = """class Sae(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.back = torch.nn.Linear(128, 96), torch.nn.Linear(96, 128)
    def encode(self, x):
        return torch.relu(self.into(x))
    def decode(self, acts):
        return self.back(acts)
sae = Sae()"""
BY_HAND = f"""
module = nl.LanguageModel("tiny").executor.module
hand_ids, stream = torch.tensor(lm.tokenize({PROMPT!r}).rows), []
hooks = [module.model.layers[0].register_forward_pre_hook(
    lambda _, args, kwargs: stream.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)]
hooks += [block.register_forward_hook(
    lambda _, args, out: stream.append(out[0] if isinstance(out, tuple) else out)) for block in module.model.layers]
with torch.no_grad():
    logits = module(hand_ids).logits
    for hook in hooks:
        hook.remove()
    lens = torch.stack([*(module.lm_head(module.model.norm(h))[0] for h in stream), logits[0]]).softmax(-1)
norms = torch.stack([h[0].norm(dim=-1) for h in stream])
"""

TABS = {
    "tokens": "Likeliest next",
    "lens": "Followed, after position",
    "attention": "Attention, layer",
    "patching": "What the source's residual stream changes",
    "steering": "Steered by",
    "norms": "Norm of the residual stream",
    "features": "Features of layer 3",
}
"""A tab, and what is read of it when it has come to its end."""


def look(panel: Locator, tab: str) -> None:
    """As a reader would, until there is something to be seen in the tab."""
    if tab == "lens":
        field = panel.get_by_label("Token to follow")
        field.fill(" Rome")
        field.press("Enter")
    elif tab == "patching":
        field = panel.get_by_label("Source prompt")
        field.fill(SOURCE)
        field.press("Enter")
        panel.get_by_text("Drag a cell of the source").wait_for()
        panel.get_by_role("button", name="Map", exact=False).first.click()
    elif tab == "steering":
        for name, text in (("toward", "I love this"), ("away from", "I hate this")):
            area = panel.get_by_label(f"Prompts to steer {name}")
            area.fill(text)
            area.press("Tab")


@pytest.fixture(scope="module")
def looked(browser: Browser, jupyter: JupyterServer) -> Iterator[NotebookPage]:
    """A saved notebook of seven explorers, cells 2 to 8."""
    page = NotebookPage.open(browser, jupyter, "looked", [READY])
    page.run(0)
    page.cell(SAE)
    for cell, (tab, words) in enumerate(TABS.items(), 2):
        output = page.cell(f"nl.explore(lm, {PROMPT!r}, sae=sae, layer=3)")
        explorer = output.locator(".nnl-explorer")
        explorer.locator(".nnl-token").first.wait_for()
        if tab != "tokens":
            explorer.locator(f"[data-view={tab}]").click()
            look(explorer.locator(".nnl-panel:visible"), tab)
        wait_until(lambda: words in json.dumps(page.outputs(cell)), 30, f"the still of {tab}")  # noqa: B023
    page.save()
    wait_until(lambda: "Features of layer" in page.path.read_text(), 10, "the saved notebook")
    yield page
    page.close()
    page.check()


def still(page: NotebookPage, tab: str) -> Element:
    """What the file holds of it."""
    cell = json.loads(page.path.read_text())["cells"][2 + list(TABS).index(tab)]
    (html,) = (
        "".join(out["data"]["text/html"])
        for out in cell["outputs"]
        if "text/html" in out.get("data", {})
    )
    return parsed(html)


def numbers(table: Element, name: str) -> list[list[float]]:
    """The first layer first."""
    rows = table.every("tr")[1:][::-1]
    return [[float(cell.text) for cell in row.every(name)] for row in rows]


def test_the_numbers_in_the_file_are_those_of_hooks(looked: NotebookPage) -> None:
    looked.cell(BY_HAND)
    lens = still(looked, "lens").every("table")[0]
    chances, best = (
        looked.python(f"lens.max(-1).{each}.tolist()") for each in ("values", "indices")
    )
    words = [[looked.python(f"lm.token_string({id})") for id in best[-1]]]
    norms = numbers(still(looked, "norms").every("table")[0], "td")

    assert numbers(lens, "small") == [pytest.approx(row, abs=6e-4) for row in chances]
    for cell, word in zip(lens.every("tr")[1].every("td"), words[0], strict=True):
        assert cell.text[:-5] == word.replace(" ", "·")
    assert norms == [pytest.approx(row, rel=6e-4) for row in looked.python("norms.tolist()")]


def test_seven_tabs_are_light(looked: NotebookPage) -> None:
    cells = json.loads(looked.path.read_text())["cells"][2:9]

    assert all(len(json.dumps(cell, ensure_ascii=False).encode()) < 50_000 for cell in cells)


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not-trusted"])
def test_every_tab_is_read_without_a_kernel(looked: NotebookPage, trusted: bool) -> None:
    page = opened_alone(looked, trusted=trusted)
    page.locator("text=Run the cell again to explore").nth(6).wait_for()
    page.wait_for_timeout(3000)  # widgets are given up after a while
    shown = page.locator(".jp-Notebook:visible .jp-RenderedHTML")
    for dark in (False, True):
        theme = f"JupyterLab {'Dark' if dark else 'Light'}"
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        page.wait_for_timeout(700)  # a theme's colours come after its name
        for place, words in enumerate(TABS.values()):
            one = shown.nth(place)
            assert words in one.inner_text()
            assert faint_texts(one) == []
    for place, tab in enumerate(TABS):
        drawn = (
            shown.nth(place)
            .locator("img")
            .evaluate_all(
                "all => all.map((it) => it.complete && it.naturalWidth > 50 && it.alt.length > 0)"
            )
        )
        assert drawn == [True] * {"lens": 1, "attention": 7, "norms": 1}.get(tab, 0)
    page.close()


def html_of(page: NotebookPage, cell: int) -> str:
    return json.dumps([out.get("data", {}).get("text/html") for out in page.outputs(cell)])


def test_it_comes_into_its_own_cell_while_another_runs(notebook: NotebookPage) -> None:
    page = notebook
    explorer = page.cell(f"nl.explore(lm, {PROMPT!r})").locator(".nnl-explorer")
    wait_until(lambda: "Likeliest next" in html_of(page, 1), 10, "the tokens")
    cell = page.add("import time\ntime.sleep(4)")
    page.start(cell)
    wait_until(lambda: page.busy(cell), 5, "the cell")
    explorer.locator("[data-view=lens]").click()
    wait_until(lambda: "Lens: the likeliest" in html_of(page, 1), 3.5, "the lens")
    assert page.busy(cell)
    page.wait(cell)
    assert page.outputs(cell) == []

    # Back at a tab that has its numbers: nothing is asked for, and yet it is the one in front.
    explorer.locator("[data-view=tokens]").click()
    wait_until(lambda: "Likeliest next" in html_of(page, 1), 10, "the tokens again")


CAPTURED = """%%capture kept
import time
explorer._hear("ask", {"view": "lens", "job": 1000, "wanted": {"top": 5}}, [])
time.sleep(2)
print("printed")"""
"""A browser could not ask: ipykernel loses what a widget says while a cell is captured."""


def test_a_cell_that_is_captured_keeps_only_its_own(notebook: NotebookPage) -> None:
    notebook.cell(f"explorer = nl.explore(lm, {PROMPT!r})\nexplorer")
    wait_until(lambda: "Likeliest next" in html_of(notebook, 1), 10, "the tokens")
    notebook.cell(CAPTURED)

    assert notebook.python("(kept.stdout, len(kept.outputs))") == ("printed\n", 0)
    wait_until(lambda: "Lens: the likeliest" in html_of(notebook, 1), 10, "the lens")
