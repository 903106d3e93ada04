"""What a generation refuses: at the line that asks for it, before the model runs.

The page: `docs/reference/generation.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import nnsight_lab as nl
from nnsight_lab.contract import Generation, ModelCard, TokenRows
from nnsight_lab.errors import (
    AddressNotFound,
    BadInput,
    GraphError,
    LabError,
    LimitExceeded,
    NotSupported,
    OpNotAllowed,
    ShapeMismatch,
    WriteTooEarly,
)
from nnsight_lab.ir import (
    Address,
    Constant,
    Gradient,
    Graph,
    ModuleSource,
    Output,
    Read,
    TensorData,
    Write,
)
from nnsight_lab.passes import check_inputs
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import TOKEN, Serving
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours


def _step_beyond(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[3]:  # step beyond
            lm.logits.save()


def _slice_beyond(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[1:4]:  # slice beyond
            lm.logits.save()


def _before_the_first(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[[0, -4]]:  # before the first
            lm.logits.save()


def _no_index(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter["all"]:  # no index
            lm.logits.save()


def _nested(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[:]:
            for _other in tracer.iter[:]:  # nested
                lm.logits.save()


def _prompt_in_a_loop(lm: nl.LanguageModel) -> None:
    with lm.generate(max_new_tokens=3) as tracer:
        for _step in tracer.iter[1:]:
            with tracer.invoke(IDS):  # prompt in a loop
                lm.logits.save()


def _backward(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3):
        lm.logits[0, -1, 3].backward()  # backward


def _keys(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3):
        lm.layers[1].attn.k[:] = 0.0  # keys


def _values(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[1]:
            lm.layers[1].attn.v *= 2.0  # values


def _result_written(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        tracer.result[:] = 0  # result written


def _earlier_step(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[1]:
            later = lm.layers[0].output[:, -1]
        lm.layers[0].output[:, -1] = later  # earlier step


def _tokens_of_another_shape(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3):
        lm.tokens = torch.tensor([1, 2])  # tokens of another shape


def _tokens_in_a_trace(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        lm.tokens.save()  # tokens in a trace


def _steps_of_a_trace(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        for _step in tracer.iter[:]:  # steps of a trace
            lm.logits.save()


def _unknown_token(lm: nl.LanguageModel) -> None:
    with lm.generate(IDS, max_new_tokens=3) as tracer:
        lm.tokens = 61  # unknown token
        tracer.result.save()


REFUSED: dict[str, tuple[type[LabError], Callable[[nl.LanguageModel], None]]] = {
    "step beyond": (BadInput, _step_beyond),
    "slice beyond": (BadInput, _slice_beyond),
    "before the first": (BadInput, _before_the_first),
    "no index": (BadInput, _no_index),
    "nested": (GraphError, _nested),
    "prompt in a loop": (GraphError, _prompt_in_a_loop),
    "backward": (NotSupported, _backward),
    "keys": (NotSupported, _keys),
    "values": (NotSupported, _values),
    "result written": (OpNotAllowed, _result_written),
    "earlier step": (WriteTooEarly, _earlier_step),
    "tokens of another shape": (ShapeMismatch, _tokens_of_another_shape),
    "tokens in a trace": (AddressNotFound, _tokens_in_a_trace),
    "steps of a trace": (GraphError, _steps_of_a_trace),
    "unknown token": (BadInput, _unknown_token),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_at_its_line(lm: nl.LanguageModel, name: str) -> None:
    kind, program = REFUSED[name]
    with pytest.raises(kind) as refused:
        program(lm)

    assert type(refused.value) is kind
    assert refused.value.hint
    assert_at(refused.value, name)
    assert frames_of_ours(refused.value) <= 2


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt option": ({"max_new_token": 3}, "max_new_tokens"),
    "an unknown option": ({"num_beams": 3}, "Options"),
    "no tokens": ({"max_new_tokens": 0}, "whole number"),
    "half a token": ({"max_new_tokens": 2.5}, "whole number"),
    "a negative temperature": ({"temperature": -1.0}, "number from 0"),
    "an endless temperature": ({"temperature": float("inf")}, "number from 0"),
    "top_k below none": ({"top_k": -1}, "whole number"),
    "top_p over 1": ({"top_p": 1.5}, "up to 1"),
    "a seed in words": ({"do_sample": True, "seed": "x"}, "number"),
    "an end that is no token": ({"eos_token_id": 61}, "ids"),
    "greedy with top_k": ({"do_sample": False, "top_k": 5}, "Leave one"),
    "sampling at 0": ({"do_sample": True, "temperature": 0}, "Leave out"),
    "do_sample in words": ({"do_sample": "yes"}, "True or False"),
    "longer than the context": ({"max_new_tokens": 60}, "at most 59"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_cannot_be_is_refused(lm: nl.LanguageModel, name: str) -> None:
    options, hint = OPTIONS[name]
    with pytest.raises(BadInput) as refused:
        lm.generate(IDS, **options)

    assert hint in refused.value.hint
    assert refused.value.where is not None
    assert refused.value.where.file == __file__
    assert frames_of_ours(refused.value) <= 1


def test_a_model_is_clean_after_a_body_that_raised(lm: nl.LanguageModel) -> None:
    with pytest.raises(ZeroDivisionError), lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[:]:
            1 / 0  # noqa: B018 - the mistake of a body

    with lm.trace(IDS):
        assert lm.logits.save().shape == (1, 6, 61)


def test_a_model_without_a_cache_of_positions_is_refused() -> None:
    config = transformers.MambaConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=1, state_size=4
    )
    lm = nl.LanguageModel(transformers.MambaForCausalLM(config))

    assert "generate" not in lm.card.capabilities.features
    with pytest.raises(NotSupported, match="cannot generate"):
        lm.generate(IDS, max_new_tokens=3)


# Graphs that were not recorded here


def _card(lm: nl.LanguageModel) -> ModelCard:
    return lm.card


STREAM, LOGITS = Address("layers.0", "output"), Address("", "logits")
ROWS = ((1, 2, 3),)


def _no_source(path: str) -> ModuleSource:
    raise AssertionError(f"nobody names an operation inside {path}")


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        (Graph((Read(id=0, address=STREAM, step=4),), (Output("h", 0),)), BadInput),
        (Graph((Read(id=0, address=STREAM, step=-1),), (Output("h", 0),)), BadInput),
        (
            Graph((Read(id=0, address=LOGITS), Gradient(id=1, of=0, at=0)), (Output("g", 1),)),
            NotSupported,
        ),
        (
            Graph(
                (
                    Read(id=0, address=Address("layers.0.attn", "k"), step=1),
                    Write(id=1, address=Address("layers.0.attn", "k"), value=0, step=1),
                )
            ),
            NotSupported,
        ),
        (
            Graph(
                (
                    Constant(id=0, value=TensorData("int64", (1,), bytes(8))),
                    Write(id=1, address=Address("", "result"), value=0),
                )
            ),
            OpNotAllowed,
        ),
    ],
)
def test_a_graph_from_elsewhere_is_held_to_the_same(
    lm: nl.LanguageModel, graph: Graph, kind: type[LabError]
) -> None:
    """As bytes, where they can be bytes at all; the server says the same before it queues."""
    with pytest.raises(kind):
        lm.run_inputs(graph, TokenRows(ROWS, Generation(4)))
    with pytest.raises(LabError):
        admit(
            graph.to_bytes(), (TokenRows(ROWS, Generation(4)),), lm.card, ServerLimits(), _no_source
        )


def test_a_trace_has_no_second_step(lm: nl.LanguageModel) -> None:
    graph = Graph((Read(id=0, address=STREAM, step=1),), (Output("h", 0),))
    with pytest.raises(BadInput, match="Step 1"):
        lm.run_inputs(graph, TokenRows(ROWS))


def test_a_server_bounds_what_it_makes(lm: nl.LanguageModel) -> None:
    graph = Graph(
        tuple(Read(id=step, address=STREAM, step=step) for step in range(8)),
        tuple(Output(f"h{step}", step) for step in range(8)),
    )
    few = ServerLimits(new_tokens=7)
    with pytest.raises(LimitExceeded, match="8 forward passes"):
        admit(graph.to_bytes(), (TokenRows(ROWS, Generation(8)),), lm.card, few, _no_source)
    of_the_prompt, of_a_step = 3 * 32 * 4, 32 * 4
    exact = of_the_prompt + 7 * of_a_step
    admit(
        graph.to_bytes(),
        (TokenRows(ROWS, Generation(8)),),
        lm.card,
        ServerLimits(saved_bytes=exact),
        _no_source,
    )
    with pytest.raises(LimitExceeded, match=f"save {exact} bytes"):
        admit(
            graph.to_bytes(),
            (TokenRows(ROWS, Generation(8)),),
            lm.card,
            ServerLimits(saved_bytes=exact - 1),
            _no_source,
        )
    with pytest.raises(LimitExceeded, match="10 tokens"):
        admit(
            graph.to_bytes(),
            (TokenRows(ROWS, Generation(8)),),
            lm.card,
            ServerLimits(batch_tokens=9),
            _no_source,
        )


def test_options_that_no_client_of_ours_would_send(lm: nl.LanguageModel) -> None:
    for options in (
        Generation(0),
        Generation(2, temperature=-1.0),
        Generation(2, top_k=0),
        Generation(2, top_p=0.0),
        Generation(2, seed=2**63),
        Generation(2, stop_ids=(99,)),
        Generation(2**40),
    ):
        with pytest.raises(BadInput):
            check_inputs(_card(lm), TokenRows(ROWS, options))


def test_a_server_refuses_at_the_users_line(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        lm = connected.model("tiny")
        tracer = lm.generate("The capital of", max_new_tokens=3)
        with pytest.raises(BadInput) as refused, tracer:
            lm.tokens = 50_000  # on a server
            tracer.result.save()
    assert_at(refused.value, "on a server")
