"""A model too big to hold twice is certified by a small one of its class and shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.big import Big
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.comparing import chosen
from nnsight_lab_server.vllm.layers import LayerKind, alike, layers_needed
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.routes import Route
from nnsight_lab_server.vllm.served import served_card, served_forms
from nnsight_lab_server.vllm.twin import stretched, stretched_calls, twin_config, twin_model
from nnsight_lab_server.vllm.twin_tree import Vocab, stretched_tree
from tests.support.vllm_engines import compared
from tests.support.vllm_models import vllm_model


def test_a_twin_has_few_layers_of_every_kind_and_the_same_widths() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    big = Gemma3TextConfig(num_hidden_layers=24, layer_types=kinds * 4, sliding_window=4096)
    small = twin_config(big)
    assert small.num_hidden_layers == 7
    assert small.layer_types == [*kinds, "full_attention"]  # the last is like the last
    assert small.sliding_window == 8
    assert (small.hidden_size, small.head_dim) == (big.hidden_size, big.head_dim)
    assert big.num_hidden_layers == 24  # it is left as it was
    assert big.sliding_window == 4096


def test_a_twin_has_a_value_that_matters_everywhere() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_attention_heads=2, num_hidden_layers=12,
        num_key_value_heads=1, attention_bias=True, vocab_size=32_000,
    )  # fmt: skip
    module = twin_model(config)
    assert len(module.model.layers) == 3
    assert all(bool(weight.any()) for weight in module.parameters())
    again = twin_model(config)
    assert torch.equal(again.lm_head.weight, module.lm_head.weight)
    with torch.no_grad():
        logits = module(torch.tensor([[1, 2, 3]])).logits
    assert 0.1 < logits.std() < 10


def test_a_twin_says_of_a_deeper_model_what_comparing_that_one_says() -> None:
    small, deep = compared("llama"), compared("llama-deep")
    tree = deep.executor.card().tree
    certificate = deep.certificate
    found = stretched(small.certificate, small.executor.card().tree, tree, certificate.points)
    assert found.twin
    assert found.forms == certificate.forms
    assert set(found.refused) == set(certificate.refused)
    assert set(found.read_only) == set(certificate.read_only)
    assert found.by_address[Address("layers.4", "output")].writable
    card = served_card(deep.executor.card(), found)
    assert served_forms(card, found)


def test_a_layer_unlike_any_of_the_twin_is_refused() -> None:
    dense, experts = compared("llama"), compared("qwen2_moe")
    tree = experts.executor.card().tree
    found = stretched(
        dense.certificate, dense.executor.card().tree, tree, experts.certificate.points
    )
    refused = found.refused[Address("layers.1", "output")]
    assert "no layer like this one" in refused


@pytest.mark.parametrize("name", ["llama-big", "gemma2-big", "gpt2-big", "qwen2_moe-big"])
def test_the_card_of_a_model_without_weights_is_the_one_that_is_measured(name: str) -> None:
    hf, _ = vllm_model(name)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(hf.config, dtype=torch.float32)
    big = Big(module, None, name)
    card, measured = big.card(), LocalExecutor(hf, name=name).card()
    assert big.twin.card().layers < card.layers
    assert big.twin.card().vocab < card.vocab
    assert sorted(card.tree.same_as) == sorted(measured.tree.same_as)
    assert sorted(card.tree.standard) == sorted(measured.tree.standard)
    assert card.decode is not None
    assert measured.decode is not None
    assert card.decode.sites == measured.decode.sites
    assert replace(card, tree=measured.tree, decode=measured.decode) == measured
    assert card.tree.sites == measured.tree.sites
    assert card.tree.modules == measured.tree.modules


def test_so_many_layers_that_each_kind_is_between_the_first_and_the_last() -> None:
    dense, experts = (LayerKind(frozenset({(name, name, ())})) for name in ("dense", "experts"))
    assert layers_needed([dense] * 80) == 3
    assert layers_needed([dense] * 2) == 2
    assert layers_needed([*[dense] * 3, *[experts] * 58]) == 5
    assert layers_needed([dense, *[experts] * 20, dense]) == 22  # the last cannot be moved
    kinds = [*[dense] * 3, *[experts] * 58]
    like = alike(dict(enumerate(kinds[:5])), dict(enumerate(kinds)))
    assert (like[0], like[1], like[2], like[3], like[59], like[60]) == (0, 1, 1, 3, 3, 4)


def test_calls_go_to_the_layer_that_was_named() -> None:
    known = Callables(
        {
            "h.1.q": Route("h.1.qkv", ((0, 4),)),
            "norm": Route("norm"),
        },
        {"h.1.act": "vLLM has none like it"},
    )
    found = stretched_calls(known, ["h.7.q", "h.7.act", "norm", "h.9.q"], {7: 1, 9: None})
    assert found.routes == {"h.7.q": Route("h.7.qkv", ((0, 4),)), "norm": Route("norm")}
    assert found.reasons["h.7.act"] == "vLLM has none like it"
    assert "no layer like this one" in found.reasons["h.9.q"]


def test_a_tree_of_another_class_is_refused() -> None:
    dense, experts = (LocalExecutor(vllm_model(name)[0]) for name in ("llama", "qwen2_moe"))
    modules = experts.card().tree.modules
    with pytest.raises(NotSupported, match="only one of them has"):
        stretched_tree(dense.card().tree, modules, {0: 0, 1: 1, 2: 2}, Vocab(97, 97))
    with pytest.raises(NotSupported, match="like layer 2") as caught:
        stretched_tree(dense.card().tree, modules, {0: 0, 1: 1, 2: None}, Vocab(97, 97))
    assert "whole" in caught.value.hint


@pytest.mark.parametrize(
    ("parameters", "bytes_each", "free_gb", "on_gpu", "wanted"),
    [
        (1e9, 2, 16, False, "whole"),
        (7e9, 2, 32, False, "twin"),  # twice 14 GB, and room to compute
        (7e9, 2, 40, False, "whole"),
        (7e9, 2, 20, True, "whole"),  # vLLM's own is on the GPU
        (7e9, 2, 16, True, "twin"),
        (70e9, 2, 2000, True, "twin"),  # it would fit, and take an hour
    ],
)
def test_the_whole_model_is_compared_unless_it_is_too_big(
    parameters: float, bytes_each: int, free_gb: float, on_gpu: bool, wanted: str
) -> None:
    size, free = int(parameters), int(free_gb * 1e9)
    given = (size, size * bytes_each)
    assert chosen(VllmOptions(), *given, free_bytes=free, on_gpu=on_gpu) == wanted
    for said in ("whole", "twin"):
        options = VllmOptions(compare=said)
        assert chosen(options, *given, free_bytes=free, on_gpu=on_gpu) == said


def test_a_file_says_with_what_it_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "vllm.toml"
    file.write_text('compare = "twin"\n')
    assert VllmOptions.from_file(file).compare == "twin"
    file.write_text('compare = "half"\n')
    with pytest.raises(NotSupported, match="'half'") as caught:
        VllmOptions.from_file(file)
    assert "whole, twin" in caught.value.hint
