"""A model that nobody loads on Hugging Face, served after a small twin of it was compared.

The engine is given a folder. That its weights are never loaded there is held by a guard on the one
function that could; only the test has the module, to put hooks on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

import transformers

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.options import VllmOptions
from tests.server.lab_server import TOKEN, Serving, serving
from tests.support.vllm_models import D_MODEL, vllm_model

OPTIONS = VllmOptions(context=128, batch_tokens=64, kv_cache_gib=1 / 32, compare="twin")
IDS = [711, 17, 3, 998, 29, 44, 11, 510, 2, 305, 61]
NEAR = 1e-4
STEPS = 5


@dataclass
class Served:
    """A server of one model, what its engine said as it began, and the module on Hugging Face."""

    lab: Serving
    name: str
    said: list[str]
    hf: Any
    kept: Path

    @property
    def engine(self) -> Any:
        return next(iter(self.lab.catalogue)).engine

    @property
    def lm(self) -> Any:
        return nl.connect(self.lab.url, token=TOKEN).model(self.name)


@cache
def folder_of(name: str) -> Path:
    """With a tokenizer, which a model that is served has to have."""
    _, folder = vllm_model(name)
    nl.LanguageModel("tiny").tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def no_weights() -> Iterator[None]:
    """`transformers` loads no model while this lasts."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded on Hugging Face")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
        yield


def loaded(name: str, kept: Path, say: Callable[[str], None]) -> VllmEngine:
    engine = load_vllm(
        name, str(folder_of(name)), Settings(), options=OPTIONS, say=say, certificates=kept,
        one_process=True,
    )  # fmt: skip
    assert isinstance(engine, VllmEngine)
    return engine


@pytest.fixture(scope="module", params=["llama-big", "gemma2-big"])
def big(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    name, kept = request.param, tmp_path_factory.mktemp("certificates")
    said: list[str] = []
    folder_of(name)
    with no_weights(), serving((name, lambda: loaded(name, kept, said.append))) as lab:
        yield Served(lab, name, said, vllm_model(name)[0], kept)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    assert one.shape == other.shape
    return bool((one - other).abs().max() <= NEAR * other.abs().max().clamp(1))


def first(output: Any) -> torch.Tensor:
    tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


@torch.no_grad()
def by_hand(hf: Any, ids: list[int], paths: list[str], shift: Any = None) -> dict[str, Any]:
    """Outputs of modules, and the logits. shift: what is added to the end of layer 4's output."""
    found: dict[str, Any] = {}
    handles = []

    def add(_: Any, __: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[:, -1] += shift
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    if shift is not None:
        handles.append(hf.get_submodule("model.layers.4").register_forward_hook(add))
    for path in paths:

        def keep(_: Any, __: Any, output: Any, path: str = path) -> None:
            found[path] = first(output).clone()

        handles.append(hf.get_submodule(path).register_forward_hook(keep))
    try:
        found["logits"] = hf(torch.tensor([ids]), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return found


def towards() -> torch.Tensor:
    return 3 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(3))


def test_the_certificate_is_marked_as_that_of_a_small_twin(big: Served) -> None:
    shown = str(nl.connect(big.lab.url, token=TOKEN).models())
    assert "of a small twin verified" in shown
    assert big.engine.certificate.twin
    assert any("too big to hold twice" in line for line in big.said)
    assert any("a small twin: ready" in line for line in big.said)


def test_its_card_is_that_of_the_model_and_not_of_the_twin(big: Served) -> None:
    card = big.lm.card
    assert (card.layers, card.vocab) == (6, 1000)
    assert card.parameters == sum(each.numel() for each in big.hf.parameters())
    assert card.tree.by_path["lm_head"].weights[0][1].dims[0].factor == 1000
    assert card.tokenizer


def test_every_layer_is_read_as_on_hugging_face(big: Served) -> None:
    paths = [f"model.layers.{n}{part}" for n in range(6) for part in ("", ".self_attn", ".mlp")]
    wanted = by_hand(big.hf, IDS, [*paths, "model.norm"])
    lm = big.lm
    with lm.trace(IDS):
        streams = [lm.layers[n].output.save() for n in range(6)]
        attention = [lm.layers[n].attn.output.save() for n in range(6)]
        mlps = [lm.layers[n].mlp.output.save() for n in range(6)]
        norm = lm.norm.output.save()
        logits = lm.logits.save()
    for n in range(6):
        assert near(streams[n], wanted[f"model.layers.{n}"]), n
        assert near(attention[n], wanted[f"model.layers.{n}.self_attn"]), n
        assert near(mlps[n], wanted[f"model.layers.{n}.mlp"]), n
    assert near(norm, wanted["model.norm"])
    assert near(logits, wanted["logits"])


def test_an_edit_of_a_layer_the_twin_has_not_does_what_it_does_there(big: Served) -> None:
    wanted = by_hand(big.hf, IDS, ["model.layers.5"], towards())
    plain = by_hand(big.hf, IDS, [])["logits"]
    lm = big.lm
    with lm.trace(IDS):
        lm.layers[4].output[:, -1] += towards()
        last = lm.layers[5].output.save()
        logits = lm.logits.save()
    assert near(last, wanted["model.layers.5"])
    assert near(logits, wanted["logits"])
    assert (logits - plain).abs().max() > 0.05


def test_patterns_are_those_of_eager_attention_and_take_edits(big: Served) -> None:
    was = big.hf.config._attn_implementation
    big.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = big.hf(torch.tensor([IDS]), output_attentions=True)
        here, lm = nl.LanguageModel(big.hf), big.lm
        with lm.trace(IDS):
            seen = [lm.layers[n].attn.pattern.save() for n in range(6)]
        found = []
        for model in (lm, here):
            with model.trace(IDS):
                model.layers[3].attn.pattern[:, 1] = 0.0
                found.append(model.logits.save())
    finally:
        big.hf.set_attn_implementation(was)
    assert all(map(near, seen, output.attentions))
    assert near(*found)
    assert (found[0] - output.logits).abs().max() > 1e-3


@torch.no_grad()
def steered_by_hand(hf: Any) -> tuple[list[int], list[torch.Tensor]]:
    """The likeliest tokens, with a cache, each new position moved as it is computed."""
    ids, given, streams, cache = list(IDS), list(IDS), [], None

    def add(_: Any, __: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[:, -1] += towards()
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def keep(_: Any, __: Any, output: Any) -> None:
        streams.append(first(output)[:, -1].clone())

    layers = hf.model.layers
    handles = [layers[4].register_forward_hook(add), layers[5].register_forward_hook(keep)]
    try:
        for _ in range(STEPS):
            output = hf(torch.tensor([given]), past_key_values=cache, use_cache=True)
            cache, given = output.past_key_values, [int(output.logits[0, -1].argmax())]
            ids += given
    finally:
        for handle in handles:
            handle.remove()
    return ids, streams


def test_a_generation_is_steered_as_by_hand(big: Served) -> None:
    ids, streams = steered_by_hand(big.hf)
    lm = big.lm
    options: dict[str, Any] = {"max_new_tokens": STEPS, "eos_token_id": []}
    with lm.generate(IDS, **options) as tracer:
        rows = []
        for _ in tracer.iter[:]:
            lm.layers[4].output[:, -1] += towards()
            rows.append(lm.layers[5].output[:, -1].save())
        result = tracer.result.save()
    assert result[0].tolist() == ids
    assert len(rows) == STEPS
    assert all(map(near, rows, streams))


def test_the_lens_of_a_layer_goes_through_its_own_norm_and_head(big: Served) -> None:
    lm = big.lm
    with lm.trace(IDS):
        lens = lm.lm_head(lm.norm(lm.layers[3].output)).save()
    stream = by_hand(big.hf, IDS, ["model.layers.3"])["model.layers.3"]
    with torch.no_grad():
        assert near(lens, big.hf.lm_head(big.hf.model.norm(stream)))


def test_what_the_twin_refused_is_refused_of_every_layer(big: Served) -> None:
    lm = big.lm
    with pytest.raises(NotSupported, match="act_fn"), lm.trace(IDS):
        _ = lm.model.layers[4].mlp.act_fn.output.save()


def test_after_a_restart_it_is_served_as_before(big: Served) -> None:
    def read() -> Any:
        lm = big.lm
        with lm.trace(IDS):
            lm.layers[4].output[:, -1] += towards()
            lens = lm.lm_head(lm.norm(lm.layers[3].output)).save()
            logits = lm.logits.save()
        return lens, logits

    before = read()
    big.engine.restart()
    assert all(map(torch.equal, before, read()))


def test_the_certificate_is_kept_and_no_twin_is_made_again(big: Served) -> None:
    big.engine.close()
    said: list[str] = []
    again = loaded(big.name, big.kept, said.append)
    try:
        assert again.certificate == big.engine.certificate
        assert again.card() == big.engine.card()
        assert not any("a small twin: " in line for line in said)
    finally:
        again.close()
