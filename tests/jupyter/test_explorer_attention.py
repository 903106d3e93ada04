"""The Attention tab without a browser: pictures, scores and patterns beside plain hooks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound
from nnsight_lab.jupyter.explorer import Explorer, Subject
from nnsight_lab.jupyter.explorer.attention import SCORES, AttentionView
from tests.jupyter.conftest import Notebook
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.explored import head_scores, patterns_of, random_gpt2, told

PROMPT = "The capital of France is Paris. The capital of Italy is"
LONG = list(np.random.default_rng(3).integers(1, 211, 300))
"""More tokens than a pattern has that travels as it is."""


@pytest.fixture(scope="module")
def gpt2() -> nl.LanguageModel:
    """A random GPT-2 with three layers of four heads."""
    return nl.LanguageModel(random_gpt2(3, 4, 32, 320))


def layers_of(sheets: list[Any]) -> dict[int, dict[str, Any]]:
    """The pictures and scores by layer."""
    return {x.plain["layer"]: x.arrays for x in sheets if x.topic.startswith("layer")}


def head_of(sheets: list[Any]) -> Any:
    """The head in full."""
    (found,) = [sheet for sheet in sheets if sheet.topic == "head"]
    return found


@pytest.mark.parametrize("prompt", [PROMPT, "A A A B A", "one two three four", "Hi"])
def test_scores_are_what_hooks_and_arithmetic_give(tiny: nl.LanguageModel, prompt: str) -> None:
    view = AttentionView(Subject(tiny, prompt))
    found = layers_of(told(view))
    ids = view.subject.ids

    assert sorted(found) == list(range(tiny.card.layers))
    for layer, pattern in enumerate(patterns_of(tiny, ids)):
        torch.testing.assert_close(
            torch.from_numpy(found[layer]["scores"]), torch.tensor(head_scores(pattern, ids)),
            atol=1e-5, rtol=1e-4, equal_nan=True,
        )  # fmt: skip


def test_a_head_that_repeats_scores_as_one(tiny: nl.LanguageModel) -> None:
    """A pattern set by hand: every query looks at what followed its token the last time."""
    ids = [7, 8, 9, 7, 8, 9]
    made = torch.eye(6)
    made[3:] = 0
    for query, key in ((3, 1), (4, 2), (5, 3)):
        made[query, key] = 1
    with tiny.trace([ids]) as tracer:
        tiny.layers[2].attn.pattern[:, 1] = made
    scores = layers_of(told(AttentionView(Subject(tracer.run))))[2]["scores"][:, 1]

    assert dict(zip(SCORES, scores.tolist(), strict=True)) == {
        "entropy": 0.0, "previous": 0.0, "induction": 1.0, "first": 0.0,
    }  # fmt: skip


def test_the_head_in_full_is_the_models_own(tiny: nl.LanguageModel) -> None:
    view = AttentionView(Subject(tiny, PROMPT))
    sheet = head_of(told(view, layer=4, head=2, tiles=[]))
    expected = patterns_of(tiny, view.subject.ids)[4][2]

    assert {key: sheet.plain[key] for key in ("layer", "head", "start")} == {
        "layer": 4, "head": 2, "start": 0,
    }  # fmt: skip
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["pattern"]), expected, atol=1e-6, rtol=1e-5
    )


def test_only_what_is_wanted_is_told(tiny: nl.LanguageModel) -> None:
    view = AttentionView(Subject(tiny, PROMPT))

    assert [sheet.topic for sheet in told(view, tiles=[])] == ["head"]
    assert [sheet.topic for sheet in told(view, tiles=[1, 3], full=False)] == ["layer 1", "layer 3"]


def test_a_long_prompt_travels_in_steps(gpt2: nl.LanguageModel) -> None:
    view = AttentionView(Subject(gpt2, [LONG]))
    sheets = told(view, layer=1, head=3)
    patterns = patterns_of(gpt2, view.subject.ids)
    tiles, steps = layers_of(sheets)[1]["tiles"], head_of(sheets).arrays["pattern"]

    assert (tiles.dtype, steps.dtype) == (np.uint8, np.uint8)
    roots = patterns[1].sqrt()
    assert np.abs(steps / 255 - roots[3].numpy()).max() <= 0.5 / 255 + 1e-6
    side = tiles.shape[-1]
    block = math.ceil(len(LONG) / side)
    for row, column in ((0, 0), (side - 1, 0), (side // 2, side // 3)):
        square = roots[3, row * block :, column * block :][:block, :block]
        assert abs(tiles[3, row, column] / 255 - float(square.max())) <= 0.5 / 255 + 1e-6
    assert sum(a.nbytes for sheet in sheets for a in sheet.arrays.values()) < 150_000


def test_of_a_very_long_prompt_a_window_travels(
    gpt2: nl.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnsight_lab.jupyter.explorer.attention._WIDEST", 64)
    view = AttentionView(Subject(gpt2, [LONG]))
    sheet = head_of(told(view, layer=0, head=1, start=100, end=300, tiles=[]))
    expected = patterns_of(gpt2, view.subject.ids)[0][1, 100:164, 100:164].sqrt()

    assert sheet.plain["start"] == 100
    assert np.abs(sheet.arrays["pattern"] / 255 - expected.numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_row_of_a_padded_batch_is_its_own(tiny: nl.LanguageModel) -> None:
    alone = told(AttentionView(Subject(tiny, "The capital")), layer=1)
    padded = told(AttentionView(Subject(tiny, ["The capital", PROMPT], row=0)), layer=1)

    for one, other in zip(alone, padded, strict=True):
        for name, array in one.arrays.items():
            near = {"atol": 1, "rtol": 0} if array.dtype == np.uint8 else {"atol": 1e-5}
            np.testing.assert_allclose(
                other.arrays[name].astype(float), array.astype(float), **near
            )


def test_a_run_is_seen_with_its_edits(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[0].output[:, 3] = 0
    plain, edited = (
        layers_of(told(AttentionView(subject)))
        for subject in (Subject(tiny, PROMPT), Subject(tracer.run))
    )

    assert np.array_equal(plain[0]["scores"], edited[0]["scores"])
    assert np.abs(plain[1]["scores"] - edited[1]["scores"]).max() > 1e-2


def test_code_gives_the_same_numbers(notebook: Notebook, tiny: nl.LanguageModel) -> None:
    view = AttentionView(Subject(tiny, PROMPT))
    wanted = {"layer": 3, "head": 1, "start": 0, "end": 13}
    sheets = told(view, **wanted)
    notebook.ran(view.code(wanted))

    by_layer = layers_of(sheets)
    scores = np.stack([by_layer[layer]["scores"] for layer in sorted(by_layer)], axis=1)
    for name, expected in zip(SCORES, scores, strict=True):
        assert torch.equal(notebook.names[f"attention_{name}"], torch.from_numpy(expected))
    assert torch.equal(
        notebook.names["attention_pattern"], torch.from_numpy(head_of(sheets).arrays["pattern"])
    )
    assert "attention_patterns" not in notebook.names["run"]


def test_code_of_an_edited_run_keeps_its_edits(notebook: Notebook) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nlm.layers[0].output[:, 3] = 0')
    view = AttentionView(Subject(notebook.names["run"]))
    sheets = told(view, layer=2, head=1)
    notebook.ran(view.code({"layer": 2, "head": 1}))

    pattern = torch.from_numpy(head_of(sheets).arrays["pattern"])
    assert torch.equal(notebook.names["attention_pattern"], pattern)
    entropy = torch.from_numpy(layers_of(sheets)[1]["scores"][0])
    assert torch.equal(notebook.names["attention_entropy"][1], entropy)


def test_code_of_a_long_prompt_has_the_steps_that_are_shown(
    notebook: Notebook, gpt2: nl.LanguageModel
) -> None:
    view = AttentionView(Subject(gpt2, [LONG], name="other"))
    sheet = head_of(told(view, layer=2, head=0, tiles=[]))
    notebook.names["other"] = gpt2
    notebook.ran(view.code({"layer": 2, "head": 0}))

    shown = (torch.from_numpy(sheet.arrays["pattern"]) / 255).square()
    assert torch.equal(notebook.names["attention_shown"], shown)
    assert not torch.equal(notebook.names["attention_pattern"], shown)


def test_the_figure_has_the_head_and_the_window(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, PROMPT)
    figure = explorer.figure("attention", layer=2, head=3, start=4, end=9)
    expected = patterns_of(tiny, explorer.subject.ids)[2][3, 4:9, 4:9]

    torch.testing.assert_close(torch.tensor(figure.data[0].z), expected, atol=2e-5, rtol=0)
    assert figure.data[0].x[0].startswith("4 ")
    assert "Layer 2, head 3" in figure.layout.title.text


def test_no_such_layer(tiny: nl.LanguageModel) -> None:
    with pytest.raises(AddressNotFound, match="no layer 9"):
        nl.explore(tiny, PROMPT).figure("attention", layer=9)


def test_a_model_on_a_server_gives_the_same() -> None:
    here = nl.LanguageModel("tiny")
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny")
        one, other = (
            told(AttentionView(Subject(model, PROMPT)), layer=3, head=2) for model in (here, there)
        )

    assert [sheet.topic for sheet in other] == [sheet.topic for sheet in one]
    for ours, theirs in zip(one, other, strict=True):
        for name, array in ours.arrays.items():
            assert np.array_equal(theirs.arrays[name], array)


def test_an_explorer_keeps_each_layer_for_a_view_that_mounts_later(tiny: nl.LanguageModel) -> None:
    """Each topic is kept under its own name, so that the last of each is told again."""
    explorer = Explorer(Subject(tiny, PROMPT))
    kept: list[str | None] = []
    explorer._publish = (  # type: ignore[method-assign]
        lambda kind, content, buffers=(), *, keep: kept.append(keep) if kind == "data" else None
    )
    explorer._hear("ask", {"view": "attention", "job": 1, "wanted": {}}, [])
    now = explorer._work["attention"]._now
    assert now is not None
    now.thread.join(30)

    layers = [f"attention layer {layer}" for layer in range(tiny.card.layers)]
    assert sorted(filter(None, kept)) == sorted([*layers, "attention head"])
