"""A session once more: its graph on other prompts, as a file, and what is refused on a session.

The page: `docs/reference/sessions.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, GraphError, LabError, NotSupported
from nnsight_lab.ir import Graph
from tests.language.test_sessions_everywhere import (
    CLEAN,
    CORRUPTED,
    logits_of,
    patch,
    patched,
)
from tests.support.hooks import forward
from tests.support.lines import assert_at
from tests.support.tensors import assert_differs, assert_exactly, assert_same


def test_its_graph_runs_again_on_other_prompts(anywhere: Any, tiny: Any) -> None:
    """A list of what `tokenize` gives says what each trace gets; `run.inputs` is such a list."""
    lm = anywhere
    session = patch(lm)
    graph = Graph.from_bytes(session.graph.to_bytes())

    same = lm.run(graph, session.run.inputs)
    swapped = lm.run(graph, [lm.tokenize(CORRUPTED), lm.tokenize(CLEAN)])
    twice = lm.run(graph, [lm.tokenize(CLEAN), lm.tokenize(CLEAN)])

    with pytest.raises(BadInput) as caught:
        lm.run(graph, [lm.tokenize(CLEAN)] * 3)  # three
    assert_at(caught.value, "three")
    assert_exactly(logits_of(same), logits_of(session.run))
    assert_same(logits_of(twice), forward(tiny.module, CLEAN), atol=1e-5)
    assert_differs(logits_of(swapped), logits_of(session.run))


def test_the_options_of_a_generation_go_with_its_prompt(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    options: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": []}
    with lm.session(execute=False) as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output[:, -1]
        with lm.generate(CORRUPTED, **options) as tracer:
            lm.layers[2].output[:, -1] = h
            tracer.result.save()
    clean = lm.tokenize(CLEAN)
    run = lm.run(session.graph, [clean, lm.tokenize(CORRUPTED, **options)])
    with pytest.raises(BadInput) as bare:
        lm.run(session.graph, [clean, lm.tokenize(CORRUPTED)], **options)  # whose options
    with pytest.raises(BadInput, match="Step 1 of a run that has 1"):
        lm.run(session.graph, CLEAN)

    by_hand = patched(tiny.module)[0, -1].argmax()
    assert int(logits_of(run)[0, 5]) == int(by_hand)
    assert_at(bare.value, "whose options")


def test_a_session_is_a_file(anywhere: Any, tmp_path: Path) -> None:
    session = patch(anywhere)
    path = session.run.save(tmp_path / "session.nnlab")
    experiment = nl.load(path)

    assert "2 traces" in repr(experiment)
    assert experiment.graph == session.graph
    for run in (experiment.run(), experiment.run(anywhere)):
        assert_same(logits_of(run), logits_of(session.run), atol=1e-5)
    parts = [anywhere.tokenize(CORRUPTED), anywhere.tokenize(CORRUPTED)]
    assert_differs(logits_of(experiment.run(anywhere, parts)), logits_of(session.run))
    with pytest.raises(BadInput) as caught:
        experiment.run(anywhere, CLEAN)  # one prompt
    assert_at(caught.value, "one prompt")


def test_a_generation_is_a_file(anywhere: Any, tmp_path: Path) -> None:
    lm = anywhere
    with lm.generate(CLEAN, max_new_tokens=4, temperature=2.0, seed=3, eos_token_id=[]) as tracer:
        tracer.result.save()
    experiment = nl.load(tracer.run.save(tmp_path / "text.nnlab"))

    for run in (experiment.run(), experiment.run(lm)):
        assert_exactly(logits_of(run), logits_of(tracer.run))
        assert run.inputs == tracer.run.inputs
    other = experiment.run(lm, CORRUPTED)  # goes on as the recorded one did
    assert other.inputs.generation == tracer.run.inputs.generation  # type: ignore[union-attr]
    assert logits_of(other).shape == (1, 9)
    fewer = experiment.run(lm, lm.tokenize(CORRUPTED, max_new_tokens=2, eos_token_id=[]))
    assert logits_of(fewer).shape == (1, 7)


def test_a_session_of_any_module_is_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    net = nl.wrap(module)
    one, many = torch.randn(1, 4), torch.randn(3, 4)
    with net.session() as session:
        with net.trace(one):
            first = net[0].output
        with net.trace(many):
            net[0].output[:] = first
            net[2].output.save()
    experiment = nl.load(session.run.save(tmp_path / "net.nnlab"))

    by_hand = module(one).detach().expand(3, 2)
    assert_same(logits_of(session.run), by_hand)
    assert_exactly(logits_of(experiment.run(net)), logits_of(session.run))
    assert_exactly(logits_of(net.run(session.graph, session.run.inputs)), logits_of(session.run))
    with pytest.raises(BadInput):
        experiment.run()  # a module has no name to be loaded by


def test_only_recorded_it_is_an_experiment(anywhere: Any) -> None:
    session = patch(anywhere, execute=False)

    with pytest.raises(GraphError):
        _ = session.run
    run = session.experiment.run(anywhere)
    assert_exactly(logits_of(run), logits_of(patch(anywhere).run))


# Refused


def test_what_belongs_to_a_trace_is_refused_on_a_session(tiny: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as cache, tiny.session() as session:
        session.cache()  # whose
    with pytest.raises(GraphError) as invoke, tiny.session() as session:
        with session.invoke(CLEAN):  # of which trace
            pass
    with pytest.raises(GraphError) as stop, tiny.session() as session:
        session.stop()  # all of it
    with pytest.raises(GraphError) as scan, tiny.session():
        with tiny.scan(CLEAN):  # shapes only
            pass
    for caught, line in (
        (cache, "whose"), (invoke, "of which trace"), (stop, "all of it"), (scan, "shapes only"),
    ):  # fmt: skip
        assert_at(caught.value, line)
        assert caught.value.hint


def test_no_plain_program_nor_view_of_a_session(tiny: nl.LanguageModel) -> None:
    run = patch(tiny).run
    with pytest.raises(LabError) as printed:
        run.to_python()
    with pytest.raises(NotSupported) as drawn:
        run.fig.lens()
    assert printed.value.hint
    assert drawn.value.hint


def test_an_error_of_a_later_trace_is_at_its_line(anywhere: Any, tiny: Any) -> None:
    lm = anywhere
    with pytest.raises(LabError) as caught, lm.session():
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            torch.linalg.cholesky(h[0, :1, :1] * 0 - torch.eye(1)).save()  # not positive
    assert_at(caught.value, "not positive")
    with lm.trace(CLEAN):
        logits = lm.logits.save()
    assert_same(logits, forward(tiny.module, CLEAN), atol=1e-5)


def test_a_session_does_not_run_with_half_a_trace(anywhere: Any, tiny: Any) -> None:
    """An error that was caught inside the session; the model can be used afterwards."""
    lm = anywhere
    with lm.edit() as steered:
        lm.layers[1].output[:] *= 2
    for model in (lm, steered):
        with pytest.raises(GraphError) as caught, lm.session():
            with pytest.raises(ZeroDivisionError), model.trace(CLEAN):
                model.layers[2].output[:] = 0
                1 / 0  # noqa: B018
            if model is lm:
                with lm.trace(CORRUPTED):  # goes on
                    lm.logits.save()
        assert "ended with an error" in caught.value.message
    with lm.trace(CLEAN):
        logits = lm.logits.save()
    assert_same(logits, forward(tiny.module, CLEAN), atol=1e-5)
