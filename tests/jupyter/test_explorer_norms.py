"""The Norms and directions tab without a browser, beside plain hooks and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.jupyter.explorer import Subject
from nnsight_lab.jupyter.explorer.norms import NormsView
from tests.jupyter.conftest import Notebook
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.explored import plain, random_gpt2, stream_seen, told

PROMPT = "The capital of France is Paris. The capital of Italy is"
CELL = {
    "norms": "stream_norms", "cosines": "stream_cosines",
    "points": "plane_points", "explained": "plane_explained",
}  # fmt: skip
"""What a copied cell calls what the tab is told."""
DIFFERENCE = {"direction": "difference", "of": " Paris", "minus": " Rome"}


def stream_of(lm: nl.LanguageModel, prompt: str = PROMPT) -> torch.Tensor:
    """`[layer, pos, d_model]` by hooks on the plain model."""
    return stream_seen(lm, list(lm.tokenize(prompt).rows[0]), plain(lm).model.layers)


def assert_near(found: Any, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_norms_are_those_of_the_stream_hooks_see(tiny: nl.LanguageModel) -> None:
    (sheet,) = told(NormsView(Subject(tiny, PROMPT)))

    assert sheet.plain["layers"] == ["embed", *map(str, range(tiny.card.layers))]
    assert_near(sheet.arrays["norms"], stream_of(tiny).norm(dim=-1))
    assert "cosines" not in sheet.arrays


def test_cosines_to_the_unembedding_of_a_token_and_of_two(tiny: nl.LanguageModel) -> None:
    view = NormsView(Subject(tiny, PROMPT))
    rows = plain(tiny).lm_head.weight.detach()
    paris, rome = (
        rows[tiny.tokenizer.encode(text, add_special_tokens=False)[0]]
        for text in (" Paris", " Rome")
    )
    for wanted, direction in (
        ({"direction": "token", "of": " Paris"}, paris),
        (DIFFERENCE, paris - rome),
    ):
        (sheet,) = told(view, **wanted)
        expected = torch.cosine_similarity(stream_of(tiny), direction[None, None], dim=-1)
        assert_near(sheet.arrays["cosines"], expected)
        assert "Paris" in sheet.plain["direction"]


def test_a_direction_may_be_a_variable_of_the_notebook(
    notebook: Notebook, tiny: nl.LanguageModel
) -> None:
    notebook.ran("import torch, numpy as np\nv = torch.arange(128.0)\nw = np.ones(128)\nx = 3")
    view = NormsView(Subject(tiny, PROMPT))
    (sheet,) = told(view, direction="variable", of="v")

    expected = torch.cosine_similarity(stream_of(tiny), torch.arange(128.0)[None, None], dim=-1)
    assert_near(sheet.arrays["cosines"], expected)
    assert sheet.plain["choices"] == ["v", "w"]
    assert "cosines" in told(view, direction="variable", of="w")[0].arrays
    with pytest.raises(BadInput, match="no 'u'") as refused:
        told(view, direction="variable", of="u")
    assert "v, w" in str(refused.value.hint)
    with pytest.raises(ShapeMismatch, match="x is int"):
        told(view, direction="variable", of="x")


@pytest.mark.parametrize("at", ["embed", "3"])
def test_the_plane_is_the_principal_components(tiny: nl.LanguageModel, at: str) -> None:
    (sheet,) = told(NormsView(Subject(tiny, PROMPT)), at=at, skip=2)
    row = 0 if at == "embed" else int(at) + 1
    rest = stream_of(tiny)[row, 2:].double().numpy()
    centred = rest - rest.mean(0)
    shares, axes = np.linalg.eigh(np.cov(centred.T))
    points = centred @ axes[:, [-1, -2]]
    points *= np.sign(points[np.abs(points).argmax(0), [0, 1]])

    scale = np.abs(points).max()
    np.testing.assert_allclose(sheet.arrays["points"] / scale, points / scale, atol=1e-3)
    np.testing.assert_allclose(
        sheet.arrays["explained"], shares[[-1, -2]] / shares.sum(), atol=1e-4
    )
    assert (sheet.plain["at"], sheet.plain["skip"]) == (at, 2)


def test_a_short_prompt_has_norms_and_no_plane(tiny: nl.LanguageModel) -> None:
    view = NormsView(Subject(tiny, [[1, 669]]))
    (sheet,) = told(view)

    assert "points" not in sheet.arrays
    assert sheet.arrays["norms"].shape == (7, 2)


def test_a_run_is_seen_with_its_edits(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[1].output[:, 3] *= 5
    before, after = (
        told(NormsView(subject))[0].arrays["norms"]
        for subject in (Subject(tiny, PROMPT), Subject(tracer.run))
    )

    np.testing.assert_allclose(after[:2], before[:2], rtol=1e-6)
    assert after[2, 3] == pytest.approx(5 * before[2, 3], rel=1e-4)


def test_a_row_of_a_padded_batch_is_its_own(tiny: nl.LanguageModel) -> None:
    wanted = {"at": "2", **DIFFERENCE}
    (alone,) = told(NormsView(Subject(tiny, "The capital of")), **wanted)
    (padded,) = told(NormsView(Subject(tiny, ["The capital of", PROMPT], row=0)), **wanted)

    for name, array in alone.arrays.items():
        np.testing.assert_allclose(padded.arrays[name], array, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["variable", "token", "difference"])
def test_code_gives_the_same_numbers(notebook: Notebook, tiny: nl.LanguageModel, kind: str) -> None:
    notebook.ran("import torch\nnorms = stream_norms = torch.arange(128.0)")  # as a result is
    of = {"of": "stream_norms"} if kind == "variable" else {"of": " Paris", "minus": " Rome"}
    wanted = {"direction": kind, **of, "at": "2", "skip": 1, "show": "cosines"}
    view = NormsView(Subject(tiny, PROMPT))
    (sheet,) = told(view, **wanted)
    notebook.ran(view.code(wanted))

    for name in ("norms", "cosines", "points", "explained"):
        assert torch.equal(notebook.names[CELL[name]], torch.from_numpy(sheet.arrays[name])), name
    assert torch.equal(notebook.names["norms"], torch.arange(128.0))


def test_code_of_an_edited_run_keeps_its_edits(notebook: Notebook) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nlm.layers[3].output[:, 5] *= 4')
    view = NormsView(Subject(notebook.names["run"]))
    (sheet,) = told(view, at="4", skip=1, **DIFFERENCE)
    notebook.ran(view.code({"at": "4", "skip": 1, **DIFFERENCE}))

    for name in ("norms", "cosines", "points", "explained"):
        assert torch.equal(notebook.names[CELL[name]], torch.from_numpy(sheet.arrays[name])), name
    assert sheet.arrays["norms"][4, 5] > 2 * sheet.arrays["norms"][3, 5]


def test_figures_show_the_same_numbers(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, PROMPT)
    wanted = {**DIFFERENCE, "at": "4", "skip": 1}
    (sheet,) = told(explorer.views["norms"], **wanted)
    norms, cosines, plane = (
        explorer.figure("norms", show=show, **wanted) for show in ("norms", "cosines", "plane")
    )

    np.testing.assert_allclose(np.array(norms.data[0].customdata), sheet.arrays["norms"])
    np.testing.assert_allclose(np.array(cosines.data[0].z), sheet.arrays["cosines"])
    np.testing.assert_allclose(np.array(plane.data[0].x), sheet.arrays["points"][:, 0])
    assert plane.data[0].hovertext[0].startswith("1 ")


def test_what_is_no_direction_is_refused_with_a_hint(tiny: nl.LanguageModel) -> None:
    view = NormsView(Subject(tiny, PROMPT))
    with pytest.raises(BadInput, match="is not one token") as refused:
        told(view, direction="token", of="Paris, France")
    assert '" Paris, France"' in str(refused.value.hint)
    with pytest.raises(BadInput, match="no layer '17'"):
        told(view, at="17")


def test_a_model_with_tied_unembedding(tiny: nl.LanguageModel) -> None:
    module = random_gpt2(2, 2, 32, 64)
    lm = nl.LanguageModel(module, tokenizer=tiny.tokenizer)
    ids = [5, 6, 7, 8, 9]
    view = NormsView(Subject(lm, [ids]))
    word = next(tiny.tokenizer.decode([id]) for id in range(20, 200) if one(tiny, id))
    (sheet,) = told(view, direction="token", of=word)
    (id,) = tiny.tokenizer.encode(word, add_special_tokens=False)

    row = module.lm_head.weight.detach()[id]
    stream = stream_seen(lm, ids, module.transformer.h)
    expected = torch.cosine_similarity(stream, row[None, None], dim=-1)
    assert_near(sheet.arrays["cosines"], expected)


def one(lm: nl.LanguageModel, id: int) -> bool:
    """Whether a token's text is that token."""
    text = lm.tokenizer.decode([id])
    return bool(lm.tokenizer.encode(text, add_special_tokens=False) == [id])


def test_a_model_on_a_server_gives_the_same() -> None:
    here = nl.LanguageModel("tiny")
    wanted = {**DIFFERENCE, "at": "3", "skip": 1}
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny")
        ((one,), (other,)) = (
            told(NormsView(Subject(model, PROMPT)), **wanted) for model in (here, there)
        )

    for name, array in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], array, rtol=1e-5, atol=1e-6)


def test_chosen_positions_are_kept_for_python(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, PROMPT)
    assert explorer.selected == []
    explorer._hear("choose", {"positions": [7, 3, 3, 99]}, [])
    assert explorer.selected == [3, 7]
