"""Steering in the explorer: two texts of one generation, beside hooks on the plain model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer import Sheet, Subject
from nnsight_lab.jupyter.explorer.steering import SteeringView
from tests.jupyter.conftest import Notebook

PROMPT = "The capital of France is"
LAYER = 3
WANTED = {
    "toward": ["The language of France is", "The language of Italy is"],
    "away": ["The capital of France is", "The capital of Italy is"],
    "layer": LAYER,
    "strength": 1.5,
    "count": 6,
}


def told(view: SteeringView, **wanted: Any) -> list[Sheet]:
    sheets: list[Sheet] = []
    view.ask(WANTED | wanted, sheets.append)
    return sheets


def direction_by_hand(lm: nl.LanguageModel) -> torch.Tensor:
    """The mean difference at the last position, by a hook."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    seen: list[torch.Tensor] = []
    handle = module.model.layers[LAYER].register_forward_hook(
        lambda _, args, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])
    )
    with torch.no_grad():
        for prompt in (*WANTED["toward"], *WANTED["away"]):  # type: ignore[misc]
            module(torch.tensor(lm.tokenize(prompt).rows))
    handle.remove()
    return torch.stack(seen[:2]).mean(0) - torch.stack(seen[2:]).mean(0)


def written_by_hand(
    lm: nl.LanguageModel, strength: float, count: int
) -> tuple[list[int], list[float]]:
    """Greedy tokens with the push at every position, and the stream along the unit vector."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    vector = direction_by_hand(lm)
    ids, along = list(lm.tokenize(PROMPT).rows[0]), []

    def push(_: Any, args: Any, out: Any) -> Any:
        stream = (out[0] if isinstance(out, tuple) else out) + strength * vector
        along.append(float(stream[0, -1] @ vector / vector.norm()))
        return (stream, *out[1:]) if isinstance(out, tuple) else stream

    handle = module.model.layers[LAYER].register_forward_hook(push)
    start = len(ids)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(module(torch.tensor([ids])).logits[0, -1].argmax()))
    handle.remove()
    return ids[start:], along


def test_both_texts_are_what_hooks_write(tiny: nl.LanguageModel) -> None:
    last = told(SteeringView(Subject(tiny, PROMPT)))[-1]
    along = torch.from_numpy(last.arrays["along"])
    for side, strength in enumerate((0.0, 1.5)):
        ids, by_hand = written_by_hand(tiny, strength, 6)
        words = last.plain["words"][side]
        by_end = [tiny.token_string(id) for id in ids]
        assert words == by_end or (words == by_end[: len(words)] and words[-1] == "<|end|>")
        torch.testing.assert_close(
            along[side][: len(words)], torch.tensor(by_hand)[: len(words)], atol=1e-3, rtol=1e-4
        )
    assert last.plain["words"][0] != last.plain["words"][1]


def test_each_token_is_told_as_it_comes(tiny: nl.LanguageModel) -> None:
    *parts, last = told(SteeringView(Subject(tiny, PROMPT)))

    assert [len(part.plain["words"][0]) for part in parts] == list(range(1, len(parts) + 1))
    assert all(part.part for part in parts)
    assert not last.part
    for part in parts:
        count = part.arrays["along"].shape[1]
        assert (part.arrays["along"] == last.arrays["along"][:, :count]).all()


def test_a_moved_strength_records_nothing(tiny: nl.LanguageModel) -> None:
    view = SteeringView(Subject(tiny, PROMPT))
    told(view)
    graphs = dict(view._graphs)
    none = told(view, strength=0.0)[-1]

    assert view._graphs == graphs
    assert none.plain["words"][0] == none.plain["words"][1]


def test_code_gives_the_same_text(notebook: Notebook, tiny: nl.LanguageModel) -> None:
    view = SteeringView(Subject(tiny, PROMPT))
    last = told(view)[-1]
    for cell in view.code(WANTED).split("\n# %%\n"):
        notebook.ran(cell)
    start = len(tiny.tokenize(PROMPT).rows[0])
    for side in (0, 1):
        words = last.plain["words"][side]
        ids = notebook.names["steering_ids"][side, start:].tolist()
        assert [tiny.token_string(id) for id in ids][: len(words)] == words
    along = torch.stack(notebook.names["steering_along"], 1)
    assert torch.equal(along, torch.from_numpy(last.arrays["along"]))


def test_a_vector_of_the_notebook_is_a_direction(
    notebook: Notebook, tiny: nl.LanguageModel
) -> None:
    vector = direction_by_hand(tiny)
    notebook.names["mine"] = vector
    view = SteeringView(Subject(tiny, PROMPT))
    last = told(view, variable="mine")[-1]

    assert "mine" in last.plain["choices"]
    assert last.plain["words"] == told(view)[-1].plain["words"]
    with pytest.raises(BadInput, match="other is no vector"):
        told(view, variable="other")


def test_without_a_direction_it_says_what_to_give(tiny: nl.LanguageModel) -> None:
    view = SteeringView(Subject(tiny, PROMPT))
    assert "Give prompts" in told(view, toward=[])[-1].plain["said"]
    with pytest.raises(BadInput, match="no direction yet"):
        view.code({})


def test_a_run_with_edits_is_not_steered(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[0].output[:] = 0
    assert "nl.explore(lm, prompt)" in SteeringView(Subject(tracer.run)).missing
