"""A run goes only as deep as it must, and lets go of what it no longer needs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch

import nnsight_lab as nl
from nnsight_lab.contract import RunEvent, Saved
from tests.support.fixtures import IDS
from tests.support.small_models import LAYERS, SmallModel


def _ran(lm: nl.LanguageModel, family: SmallModel, graph: nl.Graph) -> list[str]:
    """Which modules finished while the graph ran."""
    seen: list[str] = []
    places = [family.embed, family.norm, "lm_head"]
    for template in (family.block, family.attn, family.mlp):
        places += [family.at(template, i) for i in range(LAYERS)]
    handles = [
        family.module.get_submodule(path).register_forward_hook(
            lambda *_, path=path: seen.append(path)
        )
        for path in places
    ]
    try:
        lm.run(graph, IDS)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_nothing_above_the_last_needed_place_runs(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].mlp.output.save()
    ran = _ran(lm, family, tracer.graph)
    assert h.shape == (1, 6, 32)
    assert family.at(family.mlp, 0) in ran
    assert family.at(family.block, 0) not in ran
    assert family.at(family.attn, 1) not in ran
    assert "lm_head" not in ran


def test_what_nobody_saves_is_not_computed(lm: nl.LanguageModel, family: SmallModel) -> None:
    """A read and a computation that serve nothing leave the graph."""
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output.save()
        _ = (lm.logits.softmax(-1) * 2).topk(3)
    assert h.shape == (1, 6, 32)
    assert len(tracer.graph) == 1
    assert "lm_head" not in _ran(lm, family, tracer.graph)


def test_a_block_that_saves_and_edits_nothing_does_not_run(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS) as tracer:
        lm.logits.softmax(-1)
    assert len(tracer.graph) == 0
    assert _ran(lm, family, tracer.graph) == []
    with lm.trace(IDS) as tracer:
        weight = lm.lm_head.weight[0].save()
    assert weight.shape == (32,)
    assert _ran(lm, family, tracer.graph) == []


def test_values_are_let_go_when_their_last_use_is_over(llama: SmallModel) -> None:
    """By the time the logits come, the large intermediate of layer 0 is gone."""
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS, execute=False) as tracer:
        wide = lm.layers[0].output.repeat(1, 50, 1)
        first = (wide * 2).sum().save()
        last = lm.logits.save()
    assert first is not last
    alive: list[int] = []
    wide_shape = (1, 300, 32)

    def note(event: RunEvent) -> None:
        if isinstance(event, Saved):
            gc.collect()
            tensors = (thing for thing in gc.get_objects() if type(thing) is torch.Tensor)
            real = [tensor for tensor in tensors if not tensor.is_meta]
            alive.append(sum(tuple(tensor.shape) == wide_shape for tensor in real))

    lm.run(tracer.graph, IDS, on_event=note)
    assert alive[0] >= 1
    assert alive[-1] == 0


def test_a_finished_run_is_not_kept_by_the_model(llama: SmallModel) -> None:
    """What a run gave belongs to the user alone; with the run, it goes."""
    lm = nl.LanguageModel(llama.module)

    def run() -> weakref.ref[Any]:
        with lm.trace(IDS) as tracer:
            lm.layers[1].output.save()
        return weakref.ref(tracer.run["saved_0"])

    gone = run()
    gc.collect()
    assert gone() is None
