"""The certificate: what it measures, what it catches, and how what it refuses is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Emit, Inputs, ModelCard, RunRequest, TokenRows
from nnsight_lab.errors import AddressNotFound, NotSupported
from nnsight_lab.ir import Address, Graph, ModuleSource, ModuleTree, Output, Read, Write
from nnsight_lab.wire import WireLimits, decode_card, encode_card
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.vllm.certificate import (
    Certificate,
    CertificateStore,
    certificate_from_plain,
    certificate_key,
    certificate_to_plain,
)
from nnsight_lab_server.vllm.served import served_card, served_forms
from tests.support.lines import assert_at
from tests.support.vllm_engines import compared

IDS = ((5, 17, 3, 58),)
ACTIVATION = Address("model.layers.1.mlp.act_fn", "output")
NORM = Address("model.layers.1.input_layernorm", "input")


@pytest.fixture(scope="module")
def llama() -> Certificate:
    return compared("llama").certificate


@pytest.fixture(scope="module")
def card(llama: Certificate) -> ModelCard:
    return served_card(compared("llama").executor.card(), llama)


class Recorded:
    """An executor that is only recorded against."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card

    def card(self) -> ModelCard:
        return self._card

    def tree_for(self, inputs: Inputs) -> ModuleTree:
        return self._card.tree

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        raise AssertionError("not asked for")

    def run(self, request: RunRequest, emit: Emit) -> None:
        raise AssertionError("never run")

    def cancel(self, run_id: str) -> None:
        raise AssertionError("never run")


@pytest.fixture(scope="module")
def lm(card: ModelCard) -> nl.LanguageModel:
    return nl.LanguageModel.from_executor(Recorded(card))


# What is measured


def test_a_verified_address_has_its_differences_and_an_edit_that_had_an_effect(
    llama: Certificate,
) -> None:
    entry = llama.by_address[Address("layers.1", "output")]
    assert entry.readable
    assert entry.writable
    assert entry.read is not None
    assert entry.write is not None
    assert entry.effect is not None
    assert entry.read <= 1e-5
    assert entry.write <= 1e-5
    assert entry.effect > 0.05
    assert llama.same_logits


def test_what_vllm_computes_nowhere_is_refused(llama: Certificate) -> None:
    assert ACTIVATION not in llama.forms
    assert "nowhere" in llama.refused[ACTIVATION]


def test_what_takes_another_edit_than_on_hugging_face_is_read_only(llama: Certificate) -> None:
    # vLLM's norm also hands on the stream it was given, so an edit of its input would stay in it.
    entry = llama.by_address[NORM]
    assert entry.readable
    assert not entry.writable
    assert entry.write is not None
    assert entry.write > 0.01
    assert f"{entry.write:.0e}" in llama.read_only[NORM]


def test_an_address_that_holds_a_tuple_with_one_tensor_is_found(llama: Certificate) -> None:
    entry = llama.by_address[Address("model.layers.1.self_attn", "output")]
    assert entry.writable


@pytest.mark.parametrize("family", ["cohere2", "bloom"])
def test_a_model_that_vllm_computes_otherwise_is_caught(family: str) -> None:
    found = compared(family).certificate
    assert not found.same_logits
    logits = found.by_address[Address("", "logits")]
    assert not logits.readable
    # Not one edit is taken: whatever it does, the logits are not those of Hugging Face.
    assert not any(entry.writable for entry in found.entries)
    assert re.search(r"differ.*\de[+-]\d\d", logits.reason)
    # What comes before the difference can still be read.
    assert found.by_address[
        Address("model.embed_tokens" if family == "cohere2" else "embed")
    ].readable


# Kept


def test_a_certificate_is_json(llama: Certificate) -> None:
    plain = json.loads(json.dumps(certificate_to_plain(llama), allow_nan=False))
    assert certificate_from_plain(plain) == llama


def test_a_certificate_is_kept_and_found_again(tmp_path: Path, llama: Certificate) -> None:
    store = CertificateStore(tmp_path / "certificates")
    assert store.get("key") is None
    store.put("key", llama)
    assert store.get("key") == llama
    (tmp_path / "certificates" / "key.json").write_text("{}")
    assert store.get("key") is None


def test_a_certificate_is_of_the_files_of_a_model_and_how_it_is_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    first = certificate_key(tmp_path, dtype="float32")
    assert certificate_key(tmp_path, dtype="float32") == first
    assert certificate_key(tmp_path, dtype="bfloat16") != first
    (tmp_path / "config.json").write_text('{"layers": 2}')
    second = certificate_key(tmp_path, dtype="float32")
    assert second != first
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert certificate_key(tmp_path, dtype="float32") != second
    assert certificate_key("org/model", "abc") != certificate_key("org/model", "abd")


# Served


def test_moments_follow_the_points_of_vllm(card: ModelCard, llama: Certificate) -> None:
    forms = served_forms(card, llama)
    order = {point: place for place, point in enumerate(llama.points)}
    for tree in (card.tree, card.decode):
        assert tree is not None
        reached = [order[forms[site.address].point] for site in tree.sites]
        moments = [site.moment for site in tree.sites]
        assert moments == sorted(moments)
        assert reached == sorted(reached)
        known = tree.by_address
        gate, up = (Address(f"model.layers.0.mlp.{name}_proj", "output") for name in ("gate", "up"))
        assert forms[gate].point == forms[up].point
        assert known[gate].moment < known[up].moment  # as on Hugging Face


def test_every_address_that_is_served_has_a_form_under_each_of_its_names(
    card: ModelCard, llama: Certificate
) -> None:
    forms = served_forms(card, llama)
    assert set(forms) >= set(card.tree.by_address)
    standard, own = Address("layers.1", "output"), Address("model.layers.1", "output")
    assert forms[own] == replace(forms[standard], address=own)
    assert ACTIVATION not in card.tree.by_address


def test_what_is_refused_travels_with_the_card(card: ModelCard) -> None:
    again = decode_card(encode_card(card), WireLimits())
    assert again == card
    assert again.tree.why_refused(ACTIVATION)
    assert again.tree.why_read_only(NORM)


def test_recording_a_refused_address_names_the_reason(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match=r"act_fn\.output is not served here.*nowhere") as caught:
        with lm.trace(IDS):
            lm.model.layers[1].mlp.act_fn.output.save()  # refused
    assert_at(caught.value, "refused")
    assert caught.value.hint


def test_recording_an_edit_of_what_can_only_be_read_names_the_difference(
    lm: nl.LanguageModel, llama: Certificate
) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        lm.model.layers[1].input_layernorm.input.save()
    assert tracer.graph
    with pytest.raises(NotSupported, match="can be read here but not edited") as caught:
        with lm.trace(IDS):
            lm.model.layers[1].input_layernorm.input[:, 0] = 0.0
    assert f"{llama.by_address[NORM].write:.0e}" in str(caught.value)


def test_an_address_the_model_never_had_is_still_not_found(lm: nl.LanguageModel) -> None:
    with pytest.raises(AddressNotFound):
        with lm.trace(IDS):
            lm.model.layers[1].mlp.nothing_of_the_kind.output.save()


def test_a_module_cannot_be_skipped_where_its_output_takes_no_edit(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match="not served here"):
        with lm.trace(IDS):
            lm.model.layers[1].mlp.act_fn.skip(torch.zeros(1, 4, 160))


def _admitted(graph: Graph, card: ModelCard) -> None:
    def source_of(path: str) -> ModuleSource:
        raise AssertionError("not asked for")

    admit(graph.to_bytes(), (TokenRows(IDS),), card, ServerLimits(), source_of)


def test_a_graph_that_names_a_refused_address_is_not_admitted(card: ModelCard) -> None:
    read = Read(id=0, address=ACTIVATION)
    with pytest.raises(NotSupported, match="nowhere") as caught:
        _admitted(Graph((read,), (Output("a", 0),)), card)
    assert caught.value.node == 0


def test_a_graph_that_edits_what_can_only_be_read_is_not_admitted(card: ModelCard) -> None:
    read = Read(id=0, address=NORM)
    _admitted(Graph((read,), (Output("a", 0),)), card)
    write = Write(id=1, address=NORM, value=0)
    with pytest.raises(NotSupported, match="not edited") as caught:
        _admitted(Graph((read, write), ()), card)
    assert caught.value.node == 1
