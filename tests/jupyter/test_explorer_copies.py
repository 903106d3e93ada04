"""What *Copy as code* and *Figure* give in every tab, run as the user would run it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer import VIEWS, Explorer
from nnsight_lab.jupyter.figures import LabFigure
from nnsight_lab.jupyter.shown import cost_line
from tests.jupyter.conftest import Notebook
from tests.support.copied import FIRST, SET, cells_of, sae_weights, said, shown_by_name
from tests.support.explored import told

TABS = [view.name for view in VIEWS]
SHORT = "The capital of"
LONG = "The capital of France is Paris. The capital of Italy is"
USERS = (
    "ids rows stream values probabilities entropy target targets logits log_probs same after queries "
    "keys patterns previous induction first pattern norms cosines rest left sizes points explained "
    "resid activations features strip both none one direction words lens moved patched change "
    "probability unit along layer vector session step"
).split()
"""Names that a notebook may well have."""


@pytest.fixture
def sae(notebook: Notebook) -> dict[str, torch.Tensor]:
    """An autoencoder that the notebook calls `sae`."""
    made = sae_weights()
    notebook.names["sae"] = made
    return made


def explorer_of(lm: nl.LanguageModel, sae: Any, prompt: Any = LONG, row: int = 0) -> Explorer:
    """An explorer with all its tabs."""
    return nl.explore(lm, prompt, row=row, sae=sae, layer=3)


def ran(notebook: Notebook, code: str) -> dict[str, Any]:
    """The notebook after the cells of copied code."""
    for cell in cells_of(code):
        notebook.ran(cell)
    return notebook.names


def check_same(names: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    """Every number that the tab shows is the cell's, to the last bit."""
    for name, shown in expected.items():
        found = names[name]
        found = torch.stack(found, 1) if isinstance(found, list) else found
        torch.testing.assert_close(
            found, shown.to(found.dtype), atol=0, rtol=0, equal_nan=True, msg=name
        )


@pytest.mark.parametrize("state", [FIRST, SET], ids=["first", "set"])
@pytest.mark.parametrize("tab", TABS)
def test_the_text_of_figure_is_python_that_gives_it(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, tab: str, state: dict[str, Any]
) -> None:
    explorer = explorer_of(tiny, sae)
    answer = said(explorer, "figure", tab, state[tab])
    if (tab, state) == ("steering", FIRST):
        assert answer["code_name"] == "bad-input"
        assert "no direction yet" in answer["error"]
        return
    assert "code" in answer, answer
    notebook.ran("figure = None\n" + re.sub("(?m)^nl[.]", "figure = nl.", answer["code"]))

    assert isinstance(notebook.names["figure"], LabFigure)
    explorer._wanted.clear()
    again = explorer.figure(tab, **state[tab])
    assert notebook.names["figure"].to_plotly_json()["data"] == again.to_plotly_json()["data"]


def test_the_text_of_a_runs_figure(notebook: Notebook) -> None:
    notebook.ran(f"%%trace lm {{{[SHORT, LONG]!r}}}\nlm.layers[1].output[:, -1] *= 2")
    explorer = notebook.names["run"].explore(row=1)
    code = said(explorer, "figure", "norms", {})["code"]
    notebook.ran(f"figure = {code}")

    assert code.startswith("run.explore(row=1).")
    assert len(notebook.names["figure"].data[0].x) == len(explorer.subject.ids)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("texts", [True, False], ids=["texts", "ids"])
@pytest.mark.parametrize("tab", TABS)
def test_a_row_of_a_batch_is_copied_as_it_is_shown(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, tab: str, texts: bool, row: int
) -> None:
    prompt: Any = [SHORT, LONG]
    if not texts:
        prompt = [list(ids) for ids in tiny.tokenize(prompt).rows]
    view = explorer_of(tiny, sae, prompt, row).views[tab]
    names = ran(notebook, view.code(SET[tab]))

    check_same(names, shown_by_name(view, SET[tab]))


@pytest.mark.parametrize("row", [0, 1])
def test_the_figure_of_a_row_shows_that_row(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, row: int
) -> None:
    notebook.names["nl"] = nl
    explorer = explorer_of(tiny, sae, [SHORT, 'She said "{fine}" \n'], row)
    notebook.ran(f"figure = {said(explorer, 'figure', 'tokens', FIRST['tokens'])['code']}")
    bars = notebook.names["figure"].data[0].y

    assert (
        torch.tensor(bars[1:]).tolist()
        == told(explorer.views["tokens"])[0].arrays["numbers"][1:].tolist()
    )


@pytest.mark.parametrize("row", [0, 1])
def test_a_saved_value_of_a_row(notebook: Notebook, row: int) -> None:
    notebook.ran(f"%%trace lm {{{[SHORT, LONG]!r}}}\nlengths = lm.layers[2].output.norm(dim=-1)")
    view = nl.explore(notebook.names["run"], row=row).views["tokens"]
    (sheet,) = told(view, by="lengths")
    notebook.ran(f"found = {view.code({'by': 'lengths'})}")

    assert torch.equal(notebook.names["found"], torch.from_numpy(sheet.arrays["numbers"]))
    assert len(notebook.names["found"]) == len(view.subject.ids)


@pytest.mark.parametrize("tab", TABS)
def test_a_copied_cell_leaves_the_users_variables_alone(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, tab: str
) -> None:
    mine = {name: f"my {name}" for name in USERS}
    notebook.names.update(mine)
    ran(notebook, explorer_of(tiny, sae).code(tab, **SET[tab]))

    assert {name: notebook.names[name] for name in mine} == mine


@pytest.mark.parametrize("tab", [tab for tab in TABS if tab != "steering"])
def test_a_copied_cell_brings_back_what_is_shown_and_not_the_vocabulary(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, tab: str
) -> None:
    explorer = explorer_of(tiny, sae)
    ran(notebook, explorer.code(tab, **SET[tab]))
    run = notebook.names["run"]
    size, unit = re.findall(r"\((\S+) (B|kB|MB)\)$", cost_line(run))[0]
    of_logits = len(explorer.subject.ids) * tiny.card.vocab * 4

    assert float(size) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] < min(12_000, of_logits / 4)
    assert set(run) <= {*shown_by_name(explorer.views[tab], SET[tab])} | {
        "feature_words", "source_ids", "patched_ids",
    }  # fmt: skip


@pytest.mark.parametrize("tab", [tab for tab in TABS if tab not in ("steering", "patching")])
def test_a_model_of_another_name(
    notebook: Notebook, tiny: nl.LanguageModel, sae: Any, tab: str
) -> None:
    notebook.names["film"] = notebook.names.pop("lm")
    view = explorer_of(tiny, sae).views[tab]
    names = ran(notebook, view.code(SET[tab]))

    assert view.subject.name == "film"
    check_same(names, shown_by_name(view, SET[tab]))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mine", "torch.arange(128.0)"),
        ("unit", "torch.arange(128.0)"),
        ("layer", "numpy.arange(128.0)"),
        ("steering_direction", "numpy.arange(128.0)"),
        ("along", "torch.arange(128.0, requires_grad=True)"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_steering_by_a_vector_of_the_notebook_is_copied(
    notebook: Notebook, tiny: nl.LanguageModel, name: str, given: str, temperature: float
) -> None:
    notebook.ran(f"import numpy, torch\n{name} = {given} / 100")
    wanted = {
        "layer": 3, "strength": 2, "count": 5, "variable": name, "temperature": temperature,
        "seed": 4,
    }  # fmt: skip
    view = nl.explore(tiny, LONG).views["steering"]
    before = notebook.names[name]
    last = told(view, **wanted)[-1]
    names = ran(notebook, view.code(wanted))

    check_same(names, {"steering_along": torch.from_numpy(last.arrays["along"])})
    for side, words in enumerate(last.plain["words"]):
        ids = names["steering_ids"][side, len(view.subject.ids) :].tolist()
        assert [tiny.token_string(id) for id in ids][: len(words)] == words
    assert names[name] is before or name == "steering_direction"
    plain = told(view, **{**wanted, "strength": 0})[-1]
    assert plain.plain["words"][0] == plain.plain["words"][1]
    assert (
        plain.arrays["along"][1] != last.arrays["along"][1][: plain.arrays["along"].shape[1]]
    ).any()


def test_without_a_direction_there_is_no_figure(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, LONG)
    for give in (explorer.figure, explorer.code):
        with pytest.raises(BadInput, match="no direction yet"):
            give("steering")
