"""The features tab without a browser: beside the autoencoder on what hooks see, here and on a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound, BadInput
from nnsight_lab.jupyter.explorer import Autoencoder, Sheet, Subject
from nnsight_lab.jupyter.explorer.features import FeaturesView
from nnsight_lab.jupyter.explorer.patching import PatchingView
from nnsight_lab.recipes.prompt import word
from tests.jupyter.conftest import Notebook
from tests.server.conftest import lab
from tests.server.lab_server import TOKEN, Serving
from tests.support.hooks import outputs_seen, tensor_of

__all__ = ["lab"]

PROMPT = "The capital of France is Paris. The capital of Italy is"
OTHER = "The capital of Spain is Madrid. The capital of Japan is"
FEATURES = 96


class Sae(torch.nn.Module):
    """A sparse autoencoder as people write them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = torch.nn.Linear(128, FEATURES)
        self.back = torch.nn.Linear(FEATURES, 128)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.into(x) - 0.1)

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.back(acts)
        return found


def weights() -> dict[str, torch.Tensor]:
    """One as four tensors."""
    made = torch.Generator().manual_seed(1)
    return {
        "W_enc": torch.randn(128, FEATURES, generator=made) / 10,
        "b_enc": torch.randn(FEATURES, generator=made) / 10,
        "W_dec": torch.randn(FEATURES, 128, generator=made) / 10,
        "b_dec": torch.randn(128, generator=made) / 10,
    }


def by_hand(sae: Any, resid: torch.Tensor) -> torch.Tensor:
    """The activations, written out."""
    if isinstance(sae, dict):
        found = torch.relu((resid - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])
    else:
        found = torch.relu(resid @ sae.into.weight.T + sae.into.bias - 0.1)
    return found.detach()


def stream(lm: nl.LanguageModel, layer: int) -> torch.Tensor:
    """`[pos, d_model]` of the plain model, by a hook."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    path = f"model.layers.{layer}"
    ids = [list(lm.tokenize(PROMPT).rows[0])]
    found: torch.Tensor = tensor_of(outputs_seen(module, ids, path)[path])[0]
    return found


def asked(view: Any, **wanted: Any) -> Sheet:
    """What a view tells last."""
    told: list[Sheet] = []
    view.ask(wanted, told.append)
    return told[-1]


def view_of(lm: nl.LanguageModel, sae: Any, prompt: Any = PROMPT, row: int = 0) -> FeaturesView:
    """The tab of layer 3."""
    return FeaturesView(Subject(lm, prompt, row=row, sae=Autoencoder(sae, 3)))


@pytest.fixture(params=["here", "server"])
def either(request: pytest.FixtureRequest, tiny: nl.LanguageModel) -> Iterator[nl.LanguageModel]:
    """The bundled model, in this process and on a server."""
    if request.param == "here":
        yield tiny
        return
    running: Serving = request.getfixturevalue("lab")
    with nl.connect(running.url, TOKEN) as connected:
        yield connected.model("tiny")


@pytest.mark.parametrize("sae", [Sae(), weights()], ids=["module", "weights"])
def test_features_are_those_of_the_autoencoder(
    either: nl.LanguageModel, tiny: nl.LanguageModel, sae: Any
) -> None:
    sheet = asked(view_of(either, sae), token=5, top=8)
    acts = by_hand(sae, stream(tiny, 3))
    values, ids = acts[5].topk(8)

    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["values"]), values, atol=1e-5, rtol=1e-5
    )
    assert sheet.plain["features"] == ids.tolist()
    assert sheet.plain["feature"] == ids[0]
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["strip"]), acts[:, ids[0]], atol=1e-5, rtol=1e-5
    )
    assert 0 < sheet.plain["active"] == int((acts[5] > 0).sum()) < FEATURES


@pytest.mark.parametrize("sae", [Sae(), weights()], ids=["module", "weights"])
def test_what_a_feature_says(either: nl.LanguageModel, tiny: nl.LanguageModel, sae: Any) -> None:
    sheet = asked(view_of(either, sae), feature=7, top=5)
    module: Any = tiny.executor.module  # type: ignore[attr-defined]
    direction = sae["W_dec"][7] if isinstance(sae, dict) else sae.back.weight[:, 7]
    with torch.no_grad():
        logits, ids = module.lm_head(module.model.norm(direction)).topk(5)

    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["logits"]), logits, atol=1e-4, rtol=1e-4
    )
    assert sheet.plain["words"] == [word(tiny, id) for id in ids.tolist()]


@pytest.mark.parametrize("sae", [Sae(), weights()], ids=["module", "weights"])
def test_the_code_gives_the_same_bits(notebook: Notebook, tiny: nl.LanguageModel, sae: Any) -> None:
    wanted = {"token": 4, "feature": 11, "top": 6}
    sheet = asked(view_of(tiny, sae), **wanted)
    notebook.names["sae"] = sae
    code = view_of(tiny, sae).code(wanted)
    notebook.ran(code)
    names, arrays = notebook.names, sheet.arrays

    assert code.startswith("%%trace lm ")
    for name in ("values", "strip", "logits"):
        assert torch.equal(names[f"feature_{name}"], torch.from_numpy(arrays[name])), name
    assert names["feature_ids"].tolist() == sheet.plain["features"]
    assert [word(tiny, id) for id in names["feature_words"].tolist()] == sheet.plain["words"]


def test_features_of_an_edited_run_and_their_code(
    notebook: Notebook, tiny: nl.LanguageModel
) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nlm.layers[2].output[:, 4:] = 0')
    notebook.names["sae"] = sae = Sae()
    view = FeaturesView(Subject(notebook.names["run"], sae=Autoencoder(sae, 3)))
    sheet = asked(view, token=5)
    notebook.ran(view.code({"token": 5}))

    assert torch.equal(notebook.names["feature_values"], torch.from_numpy(sheet.arrays["values"]))
    plain = asked(view_of(tiny, sae), token=5)
    assert abs(plain.arrays["values"] - sheet.arrays["values"]).max() > 0.05


def test_a_row_of_a_padded_batch(tiny: nl.LanguageModel) -> None:
    longer = PROMPT + " Rome and the capital of Spain is"
    alone = asked(view_of(tiny, Sae()), feature=3).arrays["strip"]
    found = asked(view_of(tiny, Sae(), [longer, PROMPT], row=1), feature=3).arrays["strip"]

    assert len(found) == len(alone)
    torch.testing.assert_close(
        torch.from_numpy(found), torch.from_numpy(alone), atol=1e-4, rtol=1e-4
    )


def test_one_without_a_decoder_says_nothing(notebook: Notebook, tiny: nl.LanguageModel) -> None:
    sae = {name: value for name, value in weights().items() if name != "W_dec"}
    view = view_of(tiny, sae)
    sheet = asked(view, feature=1)
    notebook.names["sae"] = sae
    notebook.ran(view.code({"feature": 1}))

    assert "logits" not in sheet.arrays
    assert torch.equal(notebook.names["feature_strip"], torch.from_numpy(sheet.arrays["strip"]))


def test_explore_takes_an_autoencoder(notebook: Notebook, tiny: nl.LanguageModel) -> None:
    notebook.names["mine"] = sae = Sae()
    explorer = nl.explore(tiny, PROMPT, sae=sae, layer=-3)
    assert explorer.views["features"].missing == ""
    assert "mine.encode" in explorer.code("features")
    assert explorer.subject.explored == f'nl.explore(lm, "{PROMPT}", sae=mine, layer=3)'
    figure = explorer.figure("features", feature=2)
    strip = asked(explorer.views["features"], feature=2).arrays["strip"]
    assert list(figure.data[0].y) == pytest.approx(strip.tolist())

    assert "sparse autoencoder" in nl.explore(tiny, PROMPT).views["features"].missing


def test_what_is_no_autoencoder(tiny: nl.LanguageModel) -> None:
    with pytest.raises(BadInput, match="is no sparse autoencoder"):
        nl.explore(tiny, PROMPT, sae=torch.nn.Linear(2, 2), layer=3)
    with pytest.raises(BadInput, match="none is said"):
        nl.explore(tiny, PROMPT, sae=Sae())
    with pytest.raises(AddressNotFound):
        nl.explore(tiny, PROMPT, sae=Sae(), layer=12)
    with pytest.raises(BadInput, match="no feature 96"):
        asked(view_of(tiny, Sae()), feature=96)
    with pytest.raises(BadInput, match="no position 40"):
        asked(view_of(tiny, Sae()), token=40)


@pytest.mark.parametrize("put", [[4, 12], [1, 12]], ids=["forwards", "backwards"])
def test_patching_is_the_same_on_a_server(
    lab: Serving, tiny: nl.LanguageModel, put: list[int]
) -> None:
    wanted = {"source": OTHER, "from": [3, 12], "to": put}
    with nl.connect(lab.url, TOKEN) as connected:
        there = asked(PatchingView(Subject(connected.model("tiny"), PROMPT)), **wanted)
    here = asked(PatchingView(Subject(tiny, PROMPT)), **wanted)

    assert here.arrays["change"].max() > 0.05
    assert there.plain == here.plain
    for name, array in here.arrays.items():
        torch.testing.assert_close(
            torch.from_numpy(there.arrays[name]), torch.from_numpy(array), atol=1e-5, rtol=1e-4
        )


def test_a_map_is_the_same_on_a_server(lab: Serving, tiny: nl.LanguageModel) -> None:
    wanted = {"source": OTHER, "map": True}
    with nl.connect(lab.url, TOKEN) as connected:
        there = asked(PatchingView(Subject(connected.model("tiny"), PROMPT)), **wanted)
    here = asked(PatchingView(Subject(tiny, PROMPT)), **wanted)

    torch.testing.assert_close(
        torch.from_numpy(there.arrays["map"]),
        torch.from_numpy(here.arrays["map"]),
        atol=1e-4,
        rtol=1e-4,
    )
