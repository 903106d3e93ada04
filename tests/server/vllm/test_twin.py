"""A model too big to hold twice is certified by a small one of its class and shape."""

from __future__ import annotations

import torch
from transformers import Gemma3TextConfig, LlamaConfig

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.served import served_card, served_forms
from nnsight_lab_server.vllm.twin import stretched, twin_config, twin_model
from tests.support.vllm_engines import compared


def test_a_twin_has_few_layers_of_every_kind_and_the_same_widths() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    big = Gemma3TextConfig(num_hidden_layers=24, layer_types=kinds * 4, sliding_window=4096)
    small = twin_config(big)
    assert small.num_hidden_layers == 7
    assert small.layer_types == [*kinds, "sliding_attention"]
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
