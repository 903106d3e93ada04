"""The explorer at its edges: one token, jobs that overlap, words that are no token, a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, ShapeMismatch
from nnsight_lab.jupyter.explorer import VIEWS, Autoencoder, Explorer, Subject
from nnsight_lab.jupyter.explorer.features import FeaturesView
from nnsight_lab.jupyter.explorer.lens import LensView
from nnsight_lab.jupyter.explorer.patching import PatchingView
from nnsight_lab.jupyter.explorer.steering import SteeringView
from nnsight_lab.jupyter.explorer.tokens import TokensView
from nnsight_lab.recipes.features import sae_features
from tests.jupyter.conftest import Notebook
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.copied import SET, cells_of, sae_weights, shown_by_name
from tests.support.explored import plain, stream_seen, told

PROMPT = "The capital of France is Paris. The capital of Italy is"
SOURCE = "The capital of Spain is Madrid. The capital of Japan is"
OTHER = "The capital of Japan is Tokyo. The capital of Spain is"
ONE = [[669]]
"""A prompt of one token."""


# One token


@pytest.mark.parametrize("tab", [view.name for view in VIEWS])
def test_every_tab_of_one_token_and_its_copied_cell(
    notebook: Notebook, tiny: nl.LanguageModel, tab: str
) -> None:
    notebook.names["sae"] = sae = sae_weights()
    explorer = nl.explore(tiny, ONE, sae=sae, layer=3)
    wanted = SET[tab] | {"token": 0} | ({"to": [2, 0]} if tab == "patching" else {})
    expected = shown_by_name(explorer.views[tab], wanted)
    for cell in cells_of(explorer.code(tab, **wanted)):
        notebook.ran(cell)

    for name, shown in expected.items():
        found = notebook.names[name]
        found = torch.stack(found, 1) if isinstance(found, list) else found
        torch.testing.assert_close(
            found, shown.to(found.dtype), atol=0, rtol=0, equal_nan=True, msg=name
        )
    assert explorer.figure(tab, **wanted).data


def test_the_numbers_of_one_token_are_those_of_hooks(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, ONE, sae=sae_weights(), layer=3)
    stream = stream_seen(tiny, ONE[0], plain(tiny).model.layers)
    with torch.no_grad():
        logits = plain(tiny)(torch.tensor(ONE)).logits[0]
        rows = torch.stack([*plain(tiny).lm_head(plain(tiny).model.norm(stream)), logits])
    near: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}

    def seen(tab: str, name: str, **wanted: Any) -> torch.Tensor:
        arrays: dict[str, Any] = {}
        for sheet in told(explorer.views[tab], **wanted):
            arrays |= sheet.arrays
        return torch.from_numpy(arrays[name])

    assert seen("tokens", "numbers").isnan().tolist() == [True]
    torch.testing.assert_close(
        seen("lens", "probabilities", top=3), rows.softmax(-1).topk(3).values, **near
    )
    assert torch.equal(seen("attention", "pattern", layer=2, head=1), torch.ones(1, 1))
    torch.testing.assert_close(seen("norms", "norms"), stream.norm(dim=-1), **near)
    sae = sae_weights()
    codes = torch.relu((stream[4] - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])[0]
    torch.testing.assert_close(
        seen("features", "values", top=96), codes.sort(descending=True).values, **near
    )
    torch.testing.assert_close(
        seen("patching", "target_chances", top=2), rows.softmax(-1).topk(2).values, **near
    )
    words = told(explorer.views["steering"], **SET["steering"])[-1].plain["words"]
    assert words[0][0] == tiny.token_string(int(logits[-1].argmax()))


# Jobs


def test_a_superseded_map_does_not_hand_its_numbers_to_the_newer(
    tiny: nl.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job of the tab keeps its grids just after this one has found its own."""
    expected, other = (
        told(PatchingView(Subject(tiny, PROMPT)), source=source, map=True)[-1]
        for source in (SOURCE, OTHER)
    )
    view, runs = PatchingView(Subject(tiny, PROMPT)), PatchingView._run

    def overtaken(self: PatchingView, asked: Any) -> Any:
        found = runs(self, asked)
        if asked.text == SOURCE:
            told(view, source=OTHER)
        return found

    monkeypatch.setattr(PatchingView, "_run", overtaken)
    sheet = told(view, source=SOURCE, map=True)[-1]

    assert sheet.plain == expected.plain
    for name, array in expected.arrays.items():
        assert torch.equal(torch.from_numpy(sheet.arrays[name]), torch.from_numpy(array)), name
    assert (other.arrays["source_chances"] != expected.arrays["source_chances"]).any()


def test_code_that_runs_the_model_does_not_hold_up_what_is_said_next(
    tiny: nl.LanguageModel,
) -> None:
    """The code of a map runs the model where the grids are not known; Cancel stops that run."""
    explorer = Explorer(Subject(tiny, PROMPT))
    view, begun, threads = explorer.views["patching"], threading.Event(), set[int]()
    answers: list[Any] = []
    explorer._publish = (  # type: ignore[method-assign]
        lambda kind, content, buffers=(), *, keep: answers.append(content)
    )
    runs: Callable[..., Any] = view._run  # type: ignore[attr-defined]

    def slow(asked: Any) -> Any:
        threads.add(threading.get_ident())
        begun.set()
        for _ in range(2000):
            found = runs(asked)
        return found

    view._run = slow  # type: ignore[attr-defined]
    wanted = {"source": SOURCE, "map": True}
    explorer._hear("code", {"view": "patching", "request": 1, "wanted": wanted}, [])
    assert begun.wait(10)
    job = explorer._writing["patching"]._now
    assert job is not None
    explorer._hear("cancel", {"view": "patching"}, [])
    job.thread.join(20)

    assert not job.thread.is_alive()
    assert threading.get_ident() not in threads
    assert answers == []


def test_the_width_is_asked_for_once(
    tiny: nl.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, asked = SteeringView(Subject(tiny, PROMPT)), list[Any]()
    trace = nl.LanguageModel.trace

    def counted(*given: Any, **options: Any) -> Any:
        asked.append(given)
        return trace(*given, **options)

    monkeypatch.setattr(nl.LanguageModel, "trace", counted)
    for strength in (0.5, 1, 1.5):
        told(view, strength=strength)

    assert len(asked) == 1


# Words


@pytest.mark.parametrize("metric", ["difference", "probability"])
def test_a_copied_map_says_its_tokens_in_words(tiny: nl.LanguageModel, metric: str) -> None:
    view = PatchingView(Subject(tiny, PROMPT))
    code = view.code(
        {"source": SOURCE, "map": True, "metric": metric, "answer": " Tokyo", "other": " Rome"}
    )

    assert ("(' Tokyo', ' Rome')" in code) == (metric == "difference")
    assert "Tokyo" in code
    assert "·" not in code


def test_what_is_no_single_token_is_said_and_the_rest_is_shown(tiny: nl.LanguageModel) -> None:
    view = LensView(Subject(tiny, PROMPT))
    sheets: list[Any] = []
    with pytest.raises(BadInput, match="'two words' is not one token") as refused:
        view.ask({"targets": [" Rome", "two words", 7]}, sheets.append)
    (sheet,) = sheets

    assert [sheet.plain["ids"][at] for at in sheet.plain["targets"]][1] == 7
    assert len(sheet.plain["targets"]) == 2
    assert refused.value.hint
    for give in (view.code, view.figure):
        with pytest.raises(BadInput, match="is not one token"):
            give({"targets": ["two words"]})


# A server


def test_tokens_lens_and_steering_of_a_served_model_are_the_same() -> None:
    here = nl.LanguageModel("tiny")
    wanted: list[tuple[Any, dict[str, Any]]] = [
        (TokensView, {}), (LensView, SET["lens"]), (SteeringView, SET["steering"]),
    ]  # fmt: skip
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny")
        for kind, asked in wanted:
            ours, theirs = (told(kind(Subject(model, PROMPT)), **asked) for model in (here, there))
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                assert other.plain == one.plain
                assert (other.part, other.topic) == (one.part, one.topic)
                for name, array in one.arrays.items():
                    torch.testing.assert_close(
                        torch.from_numpy(other.arrays[name]), torch.from_numpy(array),
                        atol=1e-5, rtol=1e-4, equal_nan=True,
                    )  # fmt: skip


# Autoencoders of other kinds of numbers


class Halved(torch.nn.Module):
    """A sparse autoencoder as people write them, in half precision."""

    def __init__(self, dtype: torch.dtype, features: int = 96) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = torch.nn.Linear(128, 96, dtype=dtype)
        self.back = torch.nn.Linear(features, 128, dtype=dtype)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.into(x))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(codes)
        return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "module"])
def test_an_autoencoder_in_another_precision(
    notebook: Notebook, tiny: nl.LanguageModel, dtype: torch.dtype, weights: bool
) -> None:
    sae: Any = sae_weights(dtype) if weights else Halved(dtype)
    notebook.names["sae"] = sae
    view = FeaturesView(Subject(tiny, PROMPT, sae=Autoencoder(sae, 3)))
    wanted = {"token": 5, "feature": 11, "top": 8}
    expected = shown_by_name(view, wanted)
    stream = stream_seen(tiny, list(view.subject.ids), plain(tiny).model.layers)[4].to(dtype)
    with torch.no_grad():
        codes = (
            torch.relu((stream - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])
            if weights else sae.encode(stream)
        ).float()  # fmt: skip
    notebook.ran(view.code(wanted))

    near = 1e-4 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(expected["feature_strip"], codes[:, 11], atol=near, rtol=near)
    assert (codes[5] > 0).any()
    for name, shown in expected.items():
        found = notebook.names[name]
        torch.testing.assert_close(found, shown.to(found.dtype), atol=0, rtol=0, msg=name)
    result = sae_features(tiny, sae, 3, PROMPT)
    assert result.unexplained is not None
    assert result.unexplained.dtype == torch.float32


def test_what_cannot_decode_is_said_as_such(tiny: nl.LanguageModel) -> None:
    sae = Halved(torch.float32, features=50)
    view = FeaturesView(Subject(tiny, PROMPT, sae=Autoencoder(sae, 3)))
    with pytest.raises(ShapeMismatch, match=r"cannot decode features \[2, 96\]"):
        told(view, feature=3)
    with pytest.raises(ShapeMismatch, match="cannot decode"):
        sae_features(tiny, sae, 3, PROMPT)
