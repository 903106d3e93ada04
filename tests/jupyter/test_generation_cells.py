"""Generation, sessions and prompts of its own in a cell: `%%trace lm "…" -g 20 --seed 1`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import LabError, MagicUsage
from nnsight_lab.jupyter.line import parse_trace_line
from tests.support.generation_hooks import generated
from tests.support.hooks import hooked, outputs_seen

PROMPT = "The capital of France is"
OTHER = "When Mary and John went to the store"
BLOCK = "model.layers.2"


def ids_of(lm: nl.LanguageModel, prompt: str = PROMPT) -> list[list[int]]:
    return [list(row) for row in lm.tokenize(prompt).rows]


def test_the_line_says_how_to_generate() -> None:
    line = parse_trace_line('lm "p" -g 20 --temperature=0.7 --top-k 5 --top-p 0.9 --seed 1')

    assert line.generation == {
        "max_new_tokens": 20, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 1,
    }  # fmt: skip
    assert parse_trace_line('"p"').generation == {}
    assert parse_trace_line('"p" --generate 3').generation == {"max_new_tokens": 3}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('"p" -g', "-g takes a whole number"),
        ('"p" -g many', "not 'many'"),
        ('"p" -g 2.5', "a whole number"),
        ('"p" -g 3 --temperature warm', "a number"),
        ('"p" --temperature 0.7', "not that it should"),
        ('"p" --seed 1', "seed"),
        ('"p" --temprature 1', "--temprature"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, says: str) -> None:
    with pytest.raises(MagicUsage, match=says) as caught:
        parse_trace_line(line)
    assert caught.value.hint


def test_a_cell_generates_and_its_cost_says_how_many_tokens(
    notebook: Any, tiny: nl.LanguageModel
) -> None:
    cell = notebook.ran(f'%%trace lm "{PROMPT}" -g 2\nids = tracer.result')

    by_hand = generated(tiny.module, ids_of(tiny), max_new_tokens=2, eos_token_id=None)
    assert torch.equal(notebook.names["ids"], by_hand.ids)
    assert re.search(r"\d+ ms, 2 tokens, saved ids", cell.text)
    cell = notebook.ran(f'%%trace lm "{PROMPT}" -g 40\nids = tracer.result')
    assert re.search(r"stopped after \d+ of 40 tokens \(end of sequence\), saved", cell.text)
    assert "token" not in notebook.ran(f'%%trace lm "{PROMPT}"\nh = lm.logits').text


def test_sampling_in_a_cell_repeats_itself_with_a_seed(
    notebook: Any, tiny: nl.LanguageModel
) -> None:
    seen = []
    for seed in (1, 1, 2):
        notebook.ran(
            f'%%trace lm "{PROMPT}" -g 6 --temperature 3 --seed {seed} -q\nids = tracer.result'
        )
        seen.append(notebook.names["ids"])
    with tiny.generate(PROMPT, max_new_tokens=6, temperature=3.0, seed=1) as tracer:
        ids = tracer.result.save()

    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], ids)
    assert not torch.equal(seen[0], seen[2])


STEPS = """
streams = []
for step in tracer.iter[:]:
    h = lm.layers[2].output
    if step == 1:
        h[:, -1] *= 2
    streams.append(h[:, -1])
ids = tracer.result
"""
BLOCKS = STEPS.replace("for step in tracer.iter[:]:", "with tracer.iter[:] as step:")


@pytest.mark.parametrize("body", [STEPS, BLOCKS])
def test_steps_unroll_in_a_cell(notebook: Any, tiny: nl.LanguageModel, body: str) -> None:
    """A loop over steps stays one of Python's; `with` runs its body for each of them."""
    notebook.ran(f'%%trace lm "{PROMPT}" -g 2 -q\n{body}')

    def double(step: int, stream: torch.Tensor) -> torch.Tensor:
        if step == 1:
            stream = stream.clone()
            stream[:, -1] *= 2
        return stream

    by_hand = generated(
        tiny.module, ids_of(tiny), after={BLOCK: double}, see=(BLOCK,),
        max_new_tokens=2, eos_token_id=None,
    )  # fmt: skip
    streams = notebook.names["streams"]
    assert len(streams) == 2
    for stream, seen in zip(streams, by_hand.seen[BLOCK], strict=True):
        torch.testing.assert_close(stream, seen[:, -1])
    assert torch.equal(notebook.names["ids"], by_hand.ids)
    assert "foreach" not in str(notebook.names["run"].graph)


CHOICE = """
loud = []
for step in tracer.iter[:]:
    h = lm.layers[2].output
    norm = h[:, -1].norm()
    if norm < {limit}:
        lm.layers[2].output[:, -1] = h[:, -1] / norm
    loud += [norm]
logits = [lm.logits[:, -1] for step in tracer.iter[:]]
"""


def test_a_recorded_test_chooses_at_each_step(notebook: Any, tiny: nl.LanguageModel) -> None:
    """`if` on a recorded value is a choice of the graph, one for each step of the loop."""
    plain = generated(tiny.module, ids_of(tiny), see=(BLOCK,), max_new_tokens=2, eos_token_id=None)
    first, second = (float(seen[:, -1].norm()) for seen in plain.seen[BLOCK])
    limit = (first + second) / 2
    notebook.ran(f'%%trace lm "{PROMPT}" -g 2 -q\n{CHOICE.format(limit=limit)}')

    def scale(step: int, stream: torch.Tensor) -> torch.Tensor:
        norm = stream[:, -1].norm()
        if norm < limit:
            stream = stream.clone()
            stream[:, -1] /= norm
        return stream

    by_hand = generated(
        tiny.module, ids_of(tiny), after={BLOCK: scale}, see=("lm_head",),
        max_new_tokens=2, eos_token_id=None,
    )  # fmt: skip
    graph = str(notebook.names["run"].graph)
    assert graph.count(" = if %") >= 2
    assert notebook.names["run"].peeks.count == 0
    assert len(notebook.names["loud"]) == 2
    for mine, seen in zip(notebook.names["logits"], by_hand.seen["lm_head"], strict=True):
        torch.testing.assert_close(mine, seen[:, -1], atol=1e-4, rtol=0)


def test_a_list_has_as_many_items_as_there_were_steps(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}" -g 40 -q\nseen = [lm.tokens for _ in tracer.iter[:]]')
    run, seen = notebook.names["run"], notebook.names["seen"]

    assert run.steps < 40
    assert len(seen) == run.steps
    assert all(isinstance(ids, torch.Tensor) for ids in seen)


def test_a_cell_may_bring_its_prompts_itself(notebook: Any, tiny: nl.LanguageModel) -> None:
    notebook.names.update(clean=PROMPT, other=OTHER)
    body = (
        "with tracer.invoke(clean):\n    h = lm.layers[2].output[:, -1]\n"
        "with tracer.invoke(other):\n    lm.layers[2].output[:, -1] = h\n    logits = lm.logits"
    )
    notebook.ran(f"%%trace lm -q\n{body}")
    stream = outputs_seen(tiny.module, ids_of(tiny), BLOCK)[BLOCK][:, -1]

    def put(h: torch.Tensor) -> None:
        h[:, -1] = stream

    expected = hooked(tiny.module, ids_of(tiny, OTHER), after={BLOCK: put})["logits"]
    torch.testing.assert_close(notebook.names["logits"], expected, atol=1e-4, rtol=0)
    notebook.ran("%%trace lm -g 3 -q\nwith tracer.invoke(clean):\n    ids = tracer.result")
    assert notebook.names["ids"].shape[1] <= len(ids_of(tiny)[0]) + 3


def test_the_tracer_is_a_variable_of_the_cell(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}" -q\nh = lm.layers[0].output\ntracer.stop()')
    tracer = notebook.names["tracer"]
    assert tracer.run is notebook.names["run"]
    assert tracer.graph == notebook.names["run"].graph

    assert notebook.cell(f'%%trace lm "{PROMPT}" -q\nh = missing').error is not None
    assert notebook.names["tracer"] is tracer
    del notebook.names["tracer"]
    assert notebook.cell(f'%%trace lm "{PROMPT}" -q\nh = missing').error is not None
    assert "tracer" not in notebook.names


@pytest.mark.parametrize(
    ("line", "body", "code", "at"),
    [
        ('lm "p" -g 0', "x = tracer.result", "bad-input", 1),
        ('lm "p" -g 3 --top-p 2', "x = tracer.result", "bad-input", 1),
        ('lm "p" -g 3', "for step in tracer.iter[5]:\n    pass", "bad-input", 2),
        ('lm "p"', "for step in tracer.iter[:]:\n    pass", "graph-error", 2),
        ("net {ones} -g 3", "x = net.output", "magic-usage", 1),
        ("lm -g 3", "x = tracer.result", "magic-usage", 1),
    ],
)
def test_a_mistake_is_shown_at_its_line(
    notebook: Any, line: str, body: str, code: str, at: int
) -> None:
    notebook.names.update(net=nl.wrap(torch.nn.Linear(2, 2)), ones=torch.ones(1, 2))
    cell = notebook.cell(f"%%trace {line}\n{body}")

    assert isinstance(cell.error, LabError)
    assert (cell.error.code, cell.error.where and cell.error.where.line) == (code, at)
    assert cell.error.hint


SESSION = """
with lm.session() as session:
    with lm.trace(clean):
        h = lm.layers[2].output
    with lm.trace(other) as second:
        lm.layers[2].output[:, -1] = h[:, -1]
        if h.norm() > 1:
            logits = lm.logits.save()
    with lm.generate(other, max_new_tokens=3, eos_token_id=[]) as text:
        ids = [lm.tokens.save() for _ in text.iter[:]]
"""


@pytest.mark.parametrize("indent", [False, True])
def test_a_session_stands_in_an_ordinary_cell(
    notebook: Any, tiny: nl.LanguageModel, indent: bool
) -> None:
    """At the top of a cell, and in a function."""
    notebook.names.update(clean=PROMPT, other=OTHER)
    cell = SESSION
    if indent:
        inner = "\n    ".join(SESSION.splitlines())
        cell = f"def run_it():\n    {inner}\n    return logits, ids\nlogits, ids = run_it()"
    notebook.ran(cell)
    stream = outputs_seen(tiny.module, ids_of(tiny), BLOCK)[BLOCK][:, -1]

    def put(h: torch.Tensor) -> None:
        h[:, -1] = stream

    expected = hooked(tiny.module, ids_of(tiny, OTHER), after={BLOCK: put})["logits"]
    torch.testing.assert_close(notebook.names["logits"], expected, atol=1e-4, rtol=0)
    text = generated(tiny.module, ids_of(tiny, OTHER), max_new_tokens=3, eos_token_id=None)
    assert torch.equal(torch.stack(notebook.names["ids"], 1), text.ids[:, -3:])
