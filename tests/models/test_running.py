"""A graph is an experiment that runs again: on another prompt, from bytes, as a mapping."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Done, RunEvent, Saved, Started
from tests.support.fixtures import IDS
from tests.support.hooks import forward, hooked
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly, assert_same

OTHER = [[9, 9, 1, 50, 2, 7]]


def _change(h: Any) -> None:
    h[:, -1] *= 0.5


def test_a_graph_runs_again_on_another_prompt(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer:
        _change(lm.layers[1].output)
        logits = lm.logits.save()
    run = lm.run(tracer.graph, OTHER)

    path = family.at(family.block, 1)
    assert_same(logits, hooked(family.module, IDS, after={path: _change})["logits"])
    assert_same(run["logits"], hooked(family.module, OTHER, after={path: _change})["logits"])
    assert_exactly(lm.run(tracer.graph, IDS)["logits"], logits)


def test_a_graph_without_fixed_sizes_runs_on_any_length(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS) as tracer:
        _change(lm.layers[1].output)
        last = lm.logits[:, -1].save()
    assert last.shape == (1, 61)
    for ids in ([[3]], [[4, 5, 6, 7, 8, 9, 10, 11]], [[1, 2], [3, 4], [5, 6]]):
        path = family.at(family.block, 1)
        expected = hooked(family.module, ids, after={path: _change})["logits"]
        assert_same(lm.run(tracer.graph, ids)["last"], expected[:, -1], atol=1e-5)


def test_a_graph_that_does_not_fit_another_prompt_is_refused_at_its_line(
    lm: nl.LanguageModel,
) -> None:
    with lm.trace(IDS) as tracer:
        sum_of_parts = (lm.layers[0].output + torch.ones(6, 1)).save()
    assert sum_of_parts.shape == (1, 6, 32)
    with pytest.raises(nl.errors.ShapeMismatch) as caught:
        lm.run(tracer.graph, [[1, 2, 3]])
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_bytes_are_the_same_experiment(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        lm.layers[0].mlp.output[:, 2:4] += torch.linspace(0, 1, 32)
        probs = lm.logits.softmax(-1).topk(3).values.save()
    graph = nl.Graph.from_bytes(tracer.graph.to_bytes())

    assert graph == tracer.graph
    assert str(graph) == str(tracer.graph)
    assert_exactly(lm.run(graph, IDS)["probs"], probs)
    bare = nl.Graph.from_bytes(tracer.graph.to_bytes(sources=False))
    assert bare == tracer.graph
    assert "# line" not in str(bare)


def test_a_run_is_a_mapping_of_names_to_tensors(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output.save()
        parts = [lm.layers[i].mlp.output.save() for i in range(2)]
    run = tracer.run

    assert list(run) == ["h", "parts[0]", "parts[1]"]
    assert len(run) == 3
    assert "h" in run
    assert "nothing" not in run
    assert run["h"] is run.h is h
    assert [part is mine for part, mine in zip(run["parts"], parts, strict=True)] == [True, True]
    assert dict(run.items())["h"] is h
    assert "float32[1, 6, 32]" in repr(run)
    with pytest.raises(KeyError, match="It saved h"):
        run["other"]
    with pytest.raises(AttributeError):
        _ = run.other


def test_a_block_can_be_recorded_without_running(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        logits = lm.logits.save()
    with pytest.raises(nl.errors.GraphError):
        _ = tracer.run
    assert "logits" in str(tracer.graph)
    assert "recorded" in repr(logits)
    assert_exactly(lm.run(tracer.graph, IDS)["logits"], forward(family.module, IDS))


def test_recording_never_runs_the_model(lm: nl.LanguageModel, family: SmallModel) -> None:
    """A graph is a value; only the end of the block runs it, and only once."""
    calls: list[int] = []
    handle = family.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with lm.trace(IDS) as tracer:
            h = lm.layers[0].output
            h += h.softmax(-1)
            lm.logits.save()
            assert not calls
        assert len(calls) == 1
        before = str(tracer.graph)
        lm.run(tracer.graph, OTHER)
        assert str(tracer.graph) == before
    finally:
        handle.remove()


def test_events_come_while_the_model_runs(lm: nl.LanguageModel, family: SmallModel) -> None:
    """A saved value is handed out before the modules after it have run."""
    with lm.trace(IDS, execute=False) as tracer:
        early = lm.layers[0].output.save()
        late = lm.logits.save()
    story: list[str] = []

    def note(event: RunEvent) -> None:
        story.append(event.name if isinstance(event, Saved) else type(event).__name__)

    handle = family.module.get_submodule(family.norm).register_forward_hook(
        lambda *_: story.append("norm ran")
    )
    try:
        lm.run(tracer.graph, IDS, on_event=note)
    finally:
        handle.remove()
    assert story == ["Accepted", Started.__name__, "early", "norm ran", "late", Done.__name__]
    assert early is not late


def test_the_text_of_a_graph_is_stable(llama: SmallModel) -> None:
    """Numbered lines, one a node, then what is saved."""
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS) as tracer:
        h = lm.layers[1].output
        h[:, -1] += torch.ones(32)
        probs = lm.lm_head(lm.norm(h[0, 2:4])).softmax(dim=-1).save()
        gain = lm.norm.weight.save()
    assert probs.shape == (2, 61)
    assert gain.shape == (32,)
    text = [line.split("#")[0].rstrip() for line in str(tracer.graph).splitlines()]
    assert text == [
        "graph, schema 2",
        "   %0 = read layers.1.output",
        "   %1 = %0[:, -1]",
        "   %2 = const float32[32] 0bcc7bed",
        "   %3 = Tensor.add_(%1, %2)",
        "   %4 = edit %0[:, -1] <- %3",
        "   %5 = %4[0, 2:4]",
        "   %6 = apply norm(%5)",
        "   %7 = apply lm_head(%6)",
        "   %8 = Tensor.softmax(%7, dim=-1)",
        "   %9 = weight norm.weight",
        "        write layers.1.output <- %4",
        "save probs = %8",
        "save gain = %9",
    ]


def test_one_trace_block_is_used_once(lm: nl.LanguageModel) -> None:
    tracer = lm.trace(IDS)
    with tracer:
        lm.logits.save()
    with pytest.raises(nl.errors.GraphError, match="has been used"), tracer:
        pass
    with pytest.raises(nl.errors.GraphError, match="already open"), lm.trace(IDS), lm.trace(IDS):
        pass
