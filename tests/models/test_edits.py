"""An edit does what the same edit in a hand-written hook does: there, later, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from tests.support.fixtures import IDS
from tests.support.hooks import forward, hooked, outputs_seen, tensor_of
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same

DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(3))


def _add(h: Any) -> None:
    h[:, -1] += 3 * DIRECTION


def _overwrite(h: Any) -> None:
    h[:, 2:4] = DIRECTION


def _scale(h: Any) -> None:
    h *= 0.5


def _zero_some(h: Any) -> None:
    h[:, [0, 3], ::2] = 0.0


EDITS = [_add, _overwrite, _scale, _zero_some]
TOUCHED = {"_add": [5], "_overwrite": [2, 3], "_scale": range(6), "_zero_some": [0, 3]}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("part", ["block", "attn", "mlp"])
def test_an_edit_of_an_output_equals_the_hooked_model(
    lm: nl.LanguageModel, family: SmallModel, part: str, edit: Callable[[Any], None]
) -> None:
    """Same numbers downstream; only the named positions change; earlier layers are untouched."""
    envoy = {"block": lm.layers[1], "attn": lm.layers[1].attn, "mlp": lm.layers[1].mlp}[part]
    path = family.at(getattr(family, part), 1)
    with lm.trace(IDS):
        place = envoy.output
        edit(place)
        edited = place.save()
        before = lm.layers[0].output.save()
        after = lm.layers[2].output.save()
        logits = lm.logits.save()

    blocks = tuple(family.at(family.block, i) for i in range(LAYERS))
    expected = hooked(family.module, IDS, after={path: edit}, see=(path, *blocks))
    plain = outputs_seen(family.module, IDS, path, *blocks)
    assert_same(edited, tensor_of(expected[path]))
    assert_same(after, tensor_of(expected[blocks[2]]))
    assert_same(logits, expected["logits"])

    assert_differs(logits, forward(family.module, IDS))
    assert_exactly(before, tensor_of(plain[blocks[0]]))
    untouched = [pos for pos in range(6) if pos not in TOUCHED[edit.__name__]]
    assert_exactly(edited[:, untouched], tensor_of(plain[path])[:, untouched])


def test_an_output_can_be_replaced(lm: nl.LanguageModel, family: SmallModel) -> None:
    """By a computed value, by a tensor, or by a number."""
    path = family.at(family.mlp, 1)
    real = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(5))
    for new, change in (
        (lambda h: h.flip(1), lambda h: h.flip(1)),
        (lambda h: real, lambda h: real),
        (lambda h: 0.25, lambda h: torch.full_like(h, 0.25)),
    ):
        with lm.trace(IDS):
            lm.layers[1].mlp.output = new(lm.layers[1].mlp.output)
            there = lm.layers[1].mlp.output.save()
            logits = lm.logits.save()
        expected = hooked(family.module, IDS, after={path: change}, see=(path,))
        assert_exactly(there, expected[path])
        assert_same(logits, expected["logits"])
        assert_differs(logits, forward(family.module, IDS))


def test_an_augmented_assignment_on_the_port_itself_counts_once(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """`module.output += v` reads, adds, and writes back one edit."""
    with lm.trace(IDS) as tracer:
        lm.layers[0].output += 2 * DIRECTION
        logits = lm.logits.save()

    path = family.at(family.block, 0)
    expected = hooked(family.module, IDS, after={path: lambda h: h + 2 * DIRECTION})
    assert_same(logits, expected["logits"])
    assert len(tracer.graph.writes()) == 1


def test_an_input_can_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    """What the module computes follows; the stream beside it does not."""
    for envoy, path in (
        (lm.layers[1].mlp, family.at(family.mlp, 1)),
        (lm.layers[1].attn, family.at(family.attn, 1)),
        (lm.layers[2], family.at(family.block, 2)),
    ):
        with lm.trace(IDS):
            envoy.input[:, 1:3] = 0.0
            given = envoy.input.save()
            logits = lm.logits.save()

        def change(h: torch.Tensor) -> torch.Tensor:
            h = h.clone()
            h[:, 1:3] = 0.0
            return h

        expected = hooked(family.module, IDS, before={path: change})
        assert given[:, 1:3].abs().max() == 0
        assert_same(logits, expected["logits"])
        assert_differs(logits, forward(family.module, IDS))


def test_z_of_one_head_can_be_ablated(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        lm.layers[1].attn.z[:, :, 2] = 0.0
        logits = lm.logits.save()

    def silence(flat: torch.Tensor) -> torch.Tensor:
        return torch.cat((flat[..., :16], 0 * flat[..., 16:24], flat[..., 24:]), dim=-1)

    expected = hooked(family.module, IDS, before={family.at(family.attn_out, 1): silence})
    assert_same(logits, expected["logits"])
    assert_differs(logits, forward(family.module, IDS))


def test_neurons_can_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    def ramp(h: Any) -> None:
        h[:, -1, 5:9] = torch.arange(4.0) * 3

    with lm.trace(IDS):
        ramp(lm.layers[0].mlp.neurons)
        neurons = lm.layers[0].mlp.neurons.save()
        logits = lm.logits.save()

    expected = hooked(family.module, IDS, before={family.at(family.mlp_down, 0): ramp})
    assert neurons[0, -1, 5:9].tolist() == [0, 3, 6, 9]
    assert_same(logits, expected["logits"])
    assert_differs(logits, forward(family.module, IDS))


def _attention_by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: torch.Tensor | None = None
) -> torch.Tensor:
    """z from q, k, v `[batch, pos, head, d_head]`, causal; or from a pattern given."""
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    if pattern is None:
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        pattern = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)


@pytest.mark.parametrize("port", ["q", "k", "v"])
def test_q_k_and_v_can_be_edited(lm: nl.LanguageModel, family: SmallModel, port: str) -> None:
    """z is then attention over the edited values, worked out here by its formula."""
    with lm.trace(IDS):
        attn = lm.layers[1].attn
        getattr(attn, port)[:, 1:, 0] *= -2.0
        q, k, v = attn.q.save(), attn.k.save(), attn.v.save()
        z = attn.z.save()
        logits = lm.logits.save()
    with lm.trace(IDS):
        attn = lm.layers[1].attn
        clean = {"q": attn.q.save(), "k": attn.k.save(), "v": attn.v.save()}

    changed = {"q": q, "k": k, "v": v}
    for name, value in clean.items():
        by_hand = value.clone()
        if name == port:
            by_hand[:, 1:, 0] *= -2.0
        assert_exactly(changed[name], by_hand)
    by_hand = _attention_by_hand(q, k, v)
    assert_same(z, by_hand, atol=1e-5)

    out = {family.at(family.attn_out, 1): lambda flat: by_hand.flatten(-2)}
    assert_same(logits, hooked(family.module, IDS, before=out)["logits"], atol=1e-5)
    assert_differs(logits, forward(family.module, IDS))


def test_the_pattern_can_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    """One head looks only at the first position; its z, and all after it, follow."""
    with lm.trace(IDS):
        attn = lm.layers[1].attn
        attn.pattern[:, 3] = 0.0
        attn.pattern[:, 3, :, 0] = 1.0
        pattern, v, z = attn.pattern.save(), attn.v.save(), attn.z.save()
        logits = lm.logits.save()
    with lm.trace(IDS):
        clean = lm.layers[1].attn.pattern.save()

    assert_exactly(pattern[:, :3], clean[:, :3])
    by_hand = _attention_by_hand(z, v, v, pattern)
    assert_same(z, by_hand, atol=1e-5)
    assert_same(z[:, :, 3], v.repeat_interleave(4 // v.shape[2], 2)[:, :1, 3].expand(-1, 6, -1))
    out = {family.at(family.attn_out, 1): lambda flat: by_hand.flatten(-2)}
    assert_same(logits, hooked(family.module, IDS, before=out)["logits"], atol=1e-5)
    assert_differs(logits, forward(family.module, IDS))


def test_logits_can_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        lm.logits[:, :, 7] = -100.0
        logits = lm.logits.save()
        whole = lm.logits.softmax(-1)[..., 7].save()

    expected = forward(family.module, IDS)
    expected[:, :, 7] = -100.0
    assert_exactly(logits, expected)
    assert whole.max() < 1e-20


def test_one_item_of_a_tuple_can_be_edited(llama: SmallModel) -> None:
    """In place, or by giving the whole tuple anew."""
    lm = nl.LanguageModel(llama.module)
    path = "model.layers.1.self_attn"
    with lm.trace(IDS):
        lm.model.layers[1].self_attn.output[0][:, -1] = 0.0
        in_place = lm.logits.save()
    with lm.trace(IDS):
        attn = lm.model.layers[1].self_attn
        first, *rest = attn.output
        attn.output = (torch.cat((first[:, :-1], 0 * first[:, -1:]), dim=1), *rest)
        anew = lm.logits.save()

    def change(h: torch.Tensor) -> None:
        h[:, -1] = 0.0

    expected = hooked(llama.module, IDS, after={path: change})
    assert_same(in_place, expected["logits"])
    assert_same(anew, expected["logits"])
    assert_differs(in_place, forward(llama.module, IDS))


def test_several_edits_of_one_place_reach_the_model_once(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """In program order, each seeing the one before; the graph holds one write."""

    def edits(h: Any) -> None:
        h[:, 0] = 1.0
        h[:, :2] *= 3.0
        h += DIRECTION
        h[0][1:, 4:8].clamp_(min=0.0)

    with lm.trace(IDS) as tracer:
        edits(lm.layers[1].output)
        there = lm.layers[1].output.save()
        logits = lm.logits.save()

    path = family.at(family.block, 1)
    expected = hooked(family.module, IDS, after={path: edits}, see=(path,))
    assert_same(there, tensor_of(expected[path]))
    assert_same(logits, expected["logits"])
    assert len(tracer.graph.writes()) == 1


def test_edits_of_several_places_compound(lm: nl.LanguageModel, family: SmallModel) -> None:
    """A value read after an edit upstream is the edited one, and may be written further down."""

    def double(h: torch.Tensor) -> torch.Tensor:
        return 2 * h

    with lm.trace(IDS):
        lm.layers[2].mlp.output = lm.layers[0].mlp.output + lm.layers[1].output
        lm.layers[0].mlp.output *= 2
        early, stream = lm.layers[0].mlp.output.save(), lm.layers[1].output.save()
        logits = lm.logits.save()

    first, last = family.at(family.mlp, 0), family.at(family.mlp, 2)
    block = family.at(family.block, 1)
    clean = outputs_seen(family.module, IDS, first)[first]
    seen = hooked(family.module, IDS, after={first: double}, see=(first, block))
    stream_by_hand = tensor_of(seen[block])
    new = clean + stream_by_hand  # the read of layer 0 stands before its edit in the program
    expected = hooked(family.module, IDS, after={first: double, last: lambda h: new})
    assert_same(early, seen[first])
    assert_same(stream, stream_by_hand)
    assert_same(logits, expected["logits"], atol=1e-5)


def test_an_edit_works_when_the_model_stops_early(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        lm.layers[0].output[:, 1] = 0.0
        edited = lm.layers[0].output.save()
        follows = lm.layers[1].attn.input.save()
    with lm.trace(IDS):
        clean = lm.layers[1].attn.input.save()

    assert edited[:, 1].abs().max() == 0
    assert_differs(follows[:, 1], clean[:, 1])
    assert_exactly(follows[:, 0], clean[:, 0])
