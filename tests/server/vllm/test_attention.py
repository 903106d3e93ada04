"""The pattern made anew from what goes into vLLM's kernel is the one Hugging Face computes.

The prompt is longer than a step and than every window, so it comes in pieces; then it is gone on
with, token by token. The oracle is the family's own eager attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch

from nnsight_lab.errors import EngineFailed, NotSupported
from tests.support.vllm_models import D_HEAD, HEADS, LAYERS, TESTED_NAMES, VOCAB, vllm_model

pytest.importorskip("vllm")

from nnsight_lab_server.vllm.attention import (
    AttentionMath,
    KeyStore,
    around,
    attention_layers,
)
from tests.support.vllm_llm import RunningModel, vllm_running

PROMPT = [(7 * place * place + 3 * place) % (VOCAB - 1) + 1 for place in range(40)]
NEW = 5
LOOSER = {"bloom": 5e-4}
"""vLLM computes BLOOM's GELU another way, so what goes into its later layers is a little off."""
Patterns = list[torch.Tensor]
Edit = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def patterns_by_hand(hf: Any, tokens: list[int]) -> Patterns:
    """Each layer's pattern `[heads, pos, pos]`, as Hugging Face computes it."""
    ids = torch.tensor([tokens])
    if hf.config.model_type == "falcon":
        return _through_torch(hf, ids)
    was = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        return [each[0] for each in hf(ids, output_attentions=True).attentions]
    finally:
        hf.set_attn_implementation(was)


def _through_torch(hf: Any, ids: torch.Tensor) -> Patterns:
    """Falcon's own eager attention adds ALiBi twice, so its fused call is looked into."""
    seen: Patterns = []
    original = torch.nn.functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> Any:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            scores = scores + attn_mask
        seen.append(scores.masked_fill(hidden, -1e30).softmax(-1)[0])
        return original(query, key, value, attn_mask=attn_mask, **options)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attend):
        hf(ids)
    return seen


@dataclass
class Heard:
    """What went through the attention of vLLM, request by request: here there is only one."""

    store: KeyStore = field(default_factory=KeyStore)
    patterns: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    off: list[float] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def hear(self, path: str, layer: Any, edit: Edit | None = None) -> Callable[[], None]:
        math = AttentionMath.of(layer)

        def call(forward: Any, q: Any, k: Any, v: Any) -> torch.Tensor:
            start = self.seen.get(path, 0)
            self.seen[path] = end = start + q.shape[0]
            self.store.add("one", path, start, k, v)
            keys, values = self.store.upto("one", path, end)
            pattern = math.pattern(q, keys, torch.arange(start, end))
            self.patterns.setdefault(path, []).append(pattern)
            output: torch.Tensor = forward(q, k, v)
            z = math.mixed(pattern, values)
            self.off.append(float((z.flatten(1) - output).abs().max()))
            return output if edit is None else math.mixed(edit(pattern), values).flatten(1)

        return around(layer, call)

    def whole(self, path: str) -> torch.Tensor:
        pieces = self.patterns[path]
        length = self.seen[path]
        wide = [torch.nn.functional.pad(each, (0, length - each.shape[-1])) for each in pieces]
        return torch.cat(wide, dim=1)


@pytest.fixture(scope="module", params=TESTED_NAMES)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[RunningModel, list[Patterns]]]:
    """The model in vLLM, and the patterns of its own continuation of the prompt by hand."""
    hf, _ = vllm_model(request.param)
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(NEW):
            tokens.append(int(hf(torch.tensor([tokens])).logits[0, -1].argmax()))
    # The last token is chosen, and not computed on.
    by_hand = patterns_by_hand(hf, tokens[:-1])
    with vllm_running(request.param) as running:
        yield running, [by_hand]


def test_the_pattern_is_the_one_of_hugging_face_for_chunks_and_for_each_new_token(
    running: tuple[RunningModel, list[Patterns]],
) -> None:
    model, (by_hand,) = running
    close = LOOSER.get(model.hf.config.model_type, 1e-5)
    heard = Heard()
    layers = attention_layers(model.model)
    undo = [heard.hear(path, layer) for path, layer in layers.items()]
    model.generate(PROMPT, NEW)
    for each in undo:
        each()
    assert len(layers) == LAYERS
    for path, expected in zip(layers, by_hand, strict=True):
        assert [piece.shape[1] for piece in heard.patterns[path]] == [16, 16, 8] + [1] * (NEW - 1)
        found = heard.whole(path)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=close, rtol=0)
    assert max(heard.off) < 1e-5, "an unedited pattern gives the rows vLLM's own kernel gives"


def test_outside_a_run_the_layer_is_as_it_was(
    running: tuple[RunningModel, list[Patterns]],
) -> None:
    layers = attention_layers(running[0].model)
    for layer in layers.values():
        around(layer, lambda forward, q, k, v: forward(q, k, v))()
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("running", ["llama"], indirect=True)
@torch.no_grad()
def test_an_edited_pattern_has_the_effect_it_has_on_hugging_face(
    running: tuple[RunningModel, list[Patterns]],
) -> None:
    def blind(pattern: torch.Tensor) -> torch.Tensor:
        """Head 1 looks at the first token only."""
        edited = pattern.clone()
        edited[1] = 0
        edited[1, :, 0] = 1
        return edited

    hf, _ = vllm_model("llama")
    ids = torch.tensor([PROMPT])
    values: list[torch.Tensor] = []

    def look(_: Any, __: Any, output: torch.Tensor) -> None:
        values.append(output)

    def z_by_hand(_: Any, args: Any) -> Any:
        z = args[0].clone()
        z[..., D_HEAD : 2 * D_HEAD] = values[0][:, :1, :D_HEAD]
        return (z,)

    attn = hf.model.layers[1].self_attn
    with attn.v_proj.register_forward_hook(look), attn.o_proj.register_forward_pre_hook(z_by_hand):
        expected = hf(ids, output_hidden_states=True).hidden_states[2]
    clean = hf(ids, output_hidden_states=True).hidden_states[2]
    seen: list[torch.Tensor] = []
    heard = Heard()
    model = running[0]
    path, layer = list(attention_layers(model.model).items())[1]
    undo = heard.hear(path, layer, blind)
    block = model.model.model.layers[1]
    hook = block.register_forward_hook(lambda _, __, output: seen.append(output[0] + output[1]))
    model.generate(PROMPT, 1)
    hook.remove()
    undo()
    assert (expected - clean).abs().max() > 0.1
    torch.testing.assert_close(torch.cat(seen), expected[0], atol=1e-5, rtol=0)


def test_positions_that_come_again_replace_what_was_kept() -> None:
    store = KeyStore()
    draw = torch.Generator().manual_seed(1)

    def some(rows: int) -> torch.Tensor:
        return torch.randn(rows, 2, D_HEAD, generator=draw)

    first, second, third = some(40), some(10), some(35)
    store.add("a", "layer", 0, first, -first)
    store.add("b", "layer", 0, third, -third)
    store.add("a", "layer", 0, second, -second)
    with pytest.raises(EngineFailed, match="Only 10 of the 11 keys"):
        store.upto("a", "layer", 11)
    store.add("a", "layer", 10, third, -third)
    keys, values = store.upto("a", "layer", 45)
    assert torch.equal(keys, torch.cat([second, third]))
    assert torch.equal(values, -keys)
    assert torch.equal(store.upto("b", "layer", 35)[0], third)


def test_keys_that_were_never_seen_are_not_made_up() -> None:
    store = KeyStore()
    rows = torch.zeros(4, 2, D_HEAD)
    with pytest.raises(EngineFailed, match="positions 0 to 15 were never computed"):
        store.add("a", "layer", 16, rows, rows)


def test_a_request_that_has_ended_holds_no_memory() -> None:
    store = KeyStore()
    rows = torch.zeros(4, 2, D_HEAD)
    store.add("a", "layer", 0, rows, rows)
    assert store.nbytes > 0
    store.forget("a")
    store.forget("a")
    assert store.nbytes == 0


class MLAAttention(torch.nn.Module):
    """By its name and fields what vLLM's latent attention is; nothing of it is computed here."""

    kv_lora_rank = 16
    layer_name = "model.layers.0.self_attn.attn"


def test_what_is_not_written_out_is_refused_with_the_reason() -> None:
    with pytest.raises(NotSupported, match=r"model\.layers\.0\.self_attn\.attn .* latent"):
        AttentionMath.of(MLAAttention())


def test_a_sink_takes_its_share_and_is_not_shown() -> None:
    draw = torch.Generator().manual_seed(2)
    q, k = (torch.randn(6, heads, D_HEAD, generator=draw) for heads in (HEADS, 2))
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0])
    math = AttentionMath(HEADS, 2, D_HEAD, D_HEAD, D_HEAD**-0.5, sinks=sinks)
    keys = k.repeat_interleave(2, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, keys) * D_HEAD**-0.5
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    weights = scores.exp() * seen
    expected = weights / (weights.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    torch.testing.assert_close(math.pattern(q, k, torch.arange(6)), expected, atol=1e-6, rtol=0)
