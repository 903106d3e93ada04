"""Every standard name and every module path reads what a hand-written hook sees there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.fixtures import IDS
from tests.support.hooks import (
    eager_patterns,
    forward,
    inputs_seen,
    outputs_seen,
    tensor_of,
)
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_exactly, assert_same


def test_residual_stream_and_parts_are_what_hooks_see(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """`embed`, `layers[i]`, `attn`, `mlp`, `norm`: outputs of the modules behind the names."""
    with lm.trace(IDS):
        embed = lm.embed.output.save()
        blocks = [lm.layers[i].output.save() for i in range(LAYERS)]
        attns = [lm.layers[i].attn.output.save() for i in range(LAYERS)]
        mlps = [lm.layers[i].mlp.output.save() for i in range(LAYERS)]
        norm = lm.norm.output.save()

    places = [family.embed, family.norm]
    for template in (family.block, family.attn, family.mlp):
        places += [family.at(template, i) for i in range(LAYERS)]
    seen = outputs_seen(family.module, IDS, *places)
    assert_exactly(embed, seen[family.embed])
    assert_exactly(norm, seen[family.norm])
    for i in range(LAYERS):
        assert_exactly(blocks[i], tensor_of(seen[family.at(family.block, i)]))
        assert_exactly(attns[i], tensor_of(seen[family.at(family.attn, i)]))
        assert_exactly(mlps[i], seen[family.at(family.mlp, i)])


def test_inputs_are_what_pre_hooks_see(lm: nl.LanguageModel, family: SmallModel) -> None:
    """`.input` is the first tensor a module is given, positional or by name."""
    with lm.trace(IDS):
        embed = lm.embed.input.save()
        block = lm.layers[1].input.save()
        attn = lm.layers[1].attn.input.save()
        mlp = lm.layers[1].mlp.input.save()
        norm = lm.norm.input.save()

    paths = {
        "embed": family.embed,
        "block": family.at(family.block, 1),
        "attn": family.at(family.attn, 1),
        "mlp": family.at(family.mlp, 1),
        "norm": family.norm,
    }
    seen = inputs_seen(family.module, IDS, *paths.values())
    for name, value in (
        ("embed", embed), ("block", block), ("attn", attn), ("mlp", mlp), ("norm", norm)
    ):  # fmt: skip
        assert_exactly(value, seen[paths[name]])
    assert embed.tolist() == IDS


def test_logits_are_the_models_logits_at_every_position(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        logits = lm.logits.save()
        same = lm.output.logits.save()

    assert_exactly(logits, forward(family.module, IDS))
    assert_exactly(same, logits)


def test_z_and_neurons_are_inputs_of_the_output_projections(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """`z` is split into heads `[batch, pos, head, d_head]`; `neurons` is after the activation."""
    with lm.trace(IDS):
        zs = [lm.layers[i].attn.z.save() for i in range(LAYERS)]
        neurons = [lm.layers[i].mlp.neurons.save() for i in range(LAYERS)]

    for i in range(LAYERS):
        out, down = family.at(family.attn_out, i), family.at(family.mlp_down, i)
        seen = inputs_seen(family.module, IDS, out, down)
        assert_exactly(zs[i], seen[out].view(1, 6, 4, 8))
        assert_exactly(neurons[i], seen[down])


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as the paper has it, halves exchanged; x is [batch, pos, head, d_head]."""
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos[:, :, None] + rotated * sin[:, :, None]


def _llama_qkv(model: Any, layer: int) -> list[torch.Tensor]:
    home = f"model.layers.{layer}.self_attn"
    seen = outputs_seen(model, IDS, *(f"{home}.{part}_proj" for part in "qkv"), "model.rotary_emb")
    cos, sin = seen["model.rotary_emb"]
    q, k, v = (seen[f"{home}.{part}_proj"].unflatten(-1, (-1, 8)) for part in "qkv")
    return [_turned(q, cos, sin), _turned(k, cos, sin), v]


def _gpt2_qkv(model: Any, layer: int) -> list[torch.Tensor]:
    fused = f"transformer.h.{layer}.attn.c_attn"
    parts = outputs_seen(model, IDS, fused)[fused].split(32, dim=-1)
    return [part.unflatten(-1, (4, 8)) for part in parts]


def test_q_k_v_are_after_rotary_one_row_a_head(lm: nl.LanguageModel, family: SmallModel) -> None:
    """`q` has the query heads, `k` and `v` the key-value heads."""
    with lm.trace(IDS):
        read = [
            [getattr(lm.layers[i].attn, port).save() for port in ("q", "k", "v")]
            for i in range(LAYERS)
        ]

    by_hand = _llama_qkv if family.block.startswith("model") else _gpt2_qkv
    for i in range(LAYERS):
        for value, expected, heads in zip(
            read[i], by_hand(family.module, i), (4, family.kv_heads, family.kv_heads), strict=True
        ):
            assert value.shape == (1, 6, heads, 8)
            assert_same(value, expected)


def test_pattern_is_the_softmax_that_eager_attention_returns(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        patterns = [lm.layers[i].attn.pattern.save() for i in range(LAYERS)]

    for value, expected in zip(patterns, eager_patterns(family.module, IDS), strict=True):
        assert_same(value, expected)
        assert_same(value.sum(-1), torch.ones(1, 4, 6))
        assert value.triu(1).abs().max() == 0


def test_reading_inside_attention_does_not_disturb_the_model(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """q, k and v are overheard without changing a bit; the pattern within rounding."""
    plain = forward(family.module, IDS)
    with lm.trace(IDS):
        q = lm.layers[0].attn.q.save()
        beside_q = lm.logits.save()
    with lm.trace(IDS):
        pattern = lm.layers[1].attn.pattern.save()
        beside_pattern = lm.logits.save()

    assert q.abs().max() > 0
    assert pattern.abs().max() > 0
    assert_exactly(beside_q, plain)
    assert_same(beside_pattern, plain, atol=1e-5)


def test_module_paths_read_what_their_modules_return(llama: SmallModel, gpt2: SmallModel) -> None:
    """The model's own names work beside the standard ones, tuples as tuples."""
    one, two = nl.LanguageModel(llama.module), nl.LanguageModel(gpt2.module)
    with one.trace(IDS):
        q = one.model.layers[0].self_attn.q_proj.output.save()
        gate = one.model.layers[2].mlp.act_fn.output.save()
        pair = one.model.layers[1].self_attn.output
        attn = pair[0].save()
        cos = one.model.rotary_emb.output[0].save()
    with two.trace(IDS):
        fused = two.transformer.h[0].attn.c_attn.output.save()
        positions = two.transformer.wpe.output.save()

    seen = outputs_seen(
        llama.module,
        IDS,
        "model.layers.0.self_attn.q_proj",
        "model.layers.2.mlp.act_fn",
        "model.layers.1.self_attn",
        "model.rotary_emb",
    )
    assert_exactly(q, seen["model.layers.0.self_attn.q_proj"])
    assert_exactly(gate, seen["model.layers.2.mlp.act_fn"])
    assert_exactly(attn, seen["model.layers.1.self_attn"][0])
    assert_exactly(cos, seen["model.rotary_emb"][0])
    gpt2_seen = outputs_seen(gpt2.module, IDS, "transformer.h.0.attn.c_attn", "transformer.wpe")
    assert_exactly(fused, gpt2_seen["transformer.h.0.attn.c_attn"])
    assert_exactly(positions, gpt2_seen["transformer.wpe"])


def test_a_standard_name_and_its_module_path_are_one_place(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """An edit under one name is seen under the other, and reaches the model once."""
    path = family.at(family.block, 1)
    with lm.trace(IDS) as tracer:
        lm.layers[1].output[:, 0] = 0.0
        seen = lm.get(path).output.save()

    assert seen[:, 0].abs().max() == 0
    assert seen[:, 1:].abs().min() > 0
    assert len(tracer.graph.reads()) == 1
    assert len(tracer.graph.writes()) == 1


def test_reads_may_come_in_any_order(lm: nl.LanguageModel) -> None:
    """Late places first, then early ones, then late ones again: the plan sorts them."""
    with lm.trace(IDS):
        last = lm.logits.save()
        early = lm.layers[0].output.save()
        late = lm.layers[2].mlp.output.save()
        again = lm.layers[0].output.save()
    with lm.trace(IDS):
        early_first = lm.layers[0].output.save()
        late_then = lm.layers[2].mlp.output.save()
        last_then = lm.logits.save()

    for one, other in ((early, early_first), (late, late_then), (last, last_then), (again, early)):
        assert_exactly(one, other)


@pytest.mark.parametrize("index", [0, 2, -1, -3])
def test_layers_are_indexed_like_a_list(lm: nl.LanguageModel, index: int) -> None:
    with lm.trace(IDS):
        one = lm.layers[index].output.save()
        other = lm.layers[index % LAYERS].output.save()
    assert len(lm.layers) == LAYERS
    assert_exactly(one, other)


def test_parameters_are_read_by_name(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        head = lm.lm_head.weight.save()
        gain = lm.norm.weight.save()
        row = lm.lm_head.weight[7].save()
        scores = (lm.norm.output @ lm.lm_head.weight.T).save()
        logits = lm.logits.save()

    assert_exactly(head, family.module.lm_head.weight.detach())
    assert_exactly(row, head[7])
    assert_exactly(gain, family.module.get_submodule(family.norm).weight.detach())
    assert_same(scores, logits, atol=1e-5)


def test_a_saved_parameter_is_a_copy(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Writing into what came back never reaches the model."""
    before = family.module.lm_head.weight.detach().clone()
    with lm.trace(IDS):
        head = lm.lm_head.weight.save()
        row = lm.lm_head.weight[0].save()
    head.zero_()
    row.zero_()
    assert_exactly(family.module.lm_head.weight.detach(), before)


def test_modules_can_be_called_out_of_order(lm: nl.LanguageModel, family: SmallModel) -> None:
    """The logit lens: final norm and unembedding on an early residual stream."""
    with lm.trace(IDS):
        early = lm.layers[0].output
        lens = lm.lm_head(lm.norm(early)).save()
        one_row = lm.lm_head(lm.norm(early[:, -1])).save()
        unchanged = lm.logits.save()

    module = family.module
    block = family.at(family.block, 0)
    resid = tensor_of(outputs_seen(module, IDS, block)[block])
    with torch.no_grad():
        expected = module.lm_head(module.get_submodule(family.norm)(resid))
    assert_same(lens, expected)
    assert_same(one_row, expected[:, -1], atol=1e-5)
    assert_exactly(unchanged, forward(module, IDS))


def test_calling_a_module_is_not_taken_for_the_models_own_call(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """The module's place in the pass is read and edited when the model itself comes by."""
    with lm.trace(IDS):
        lens = lm.norm(lm.layers[0].output).save()
        own = lm.norm.output.save()
        given = lm.norm.input.save()
        lm.norm.output[:, 0] = 0.0
        logits = lm.logits.save()

    module, block = family.module, family.at(family.block, 0)
    seen = outputs_seen(module, IDS, family.norm, block)
    assert_exactly(own, seen[family.norm])
    assert_exactly(given, inputs_seen(module, IDS, family.norm)[family.norm])
    norm = module.get_submodule(family.norm)
    assert_same(lens, norm(tensor_of(seen[block])).detach())
    plain = forward(module, IDS)
    assert_same(logits[:, 1:], plain[:, 1:])
    bias = module.lm_head.bias
    assert_same(logits[:, 0], torch.zeros(1, 61) if bias is None else bias.detach()[None])


def test_shapes_are_known_while_recording(lm: nl.LanguageModel) -> None:
    """`.shape`, `len`, `.dtype` and `size()` are concrete, and are those of the values."""
    with lm.trace([IDS[0], IDS[0][::-1]]):
        places = {
            "embed": lm.embed.output, "resid": lm.layers[0].output, "q": lm.layers[0].attn.q,
            "k": lm.layers[0].attn.k, "z": lm.layers[0].attn.z, "logits": lm.logits,
            "pattern": lm.layers[0].attn.pattern, "neurons": lm.layers[0].mlp.neurons,
            "ids": lm.embed.input,
        }  # fmt: skip
        known = {name: (tuple(value.shape), value.dtype) for name, value in places.items()}
        lengths = len(places["resid"]), places["resid"].size(1), places["resid"].ndim
        values = {name: value.save() for name, value in places.items()}

    assert lengths == (2, 6, 3)
    for name, value in values.items():
        assert known[name] == (tuple(value.shape), value.dtype)
