"""`run.to_python()`: the experiment as plain PyTorch with hooks, which runs without us.

What is printed runs in a Python that cannot import this package, and gives the run's numbers.

The page: `docs/how-to/save-and-rerun-a-graph.md`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, NotSupported
from nnsight_lab.ir import (
    Address,
    Block,
    Call,
    Cond,
    Foreach,
    Graph,
    Output,
    Param,
    Read,
    Ref,
    Skip,
    While,
)
from tests.language.plain_programs import IDS, PROGRAMS, run_elsewhere
from tests.support.family_models import family_model
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly, assert_same

MODELS = ("tiny", "gemma2", "bloom")
PROMPT = "The capital of France is"

Found = dict[str, tuple[nl.Run, dict[str, torch.Tensor], str]]


@pytest.fixture(scope="module", params=MODELS)
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every program on one model: our run, what its printed form gave elsewhere, and its text."""
    name = request.param
    lm = nl.LanguageModel("tiny" if name == "tiny" else family_model(name).module)
    runs = {one: program(lm).run for one, program in PROGRAMS.items()}
    texts = {one: run.to_python() for one, run in runs.items()}
    gave = run_elsewhere(tmp_path_factory.mktemp(name), texts, lm.module)
    return {one: (runs[one], gave[one], texts[one]) for one in PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_printed_program_gives_the_runs_numbers(printed: Found, program: str) -> None:
    run, gave, text = printed[program]

    assert run, "it saves something"
    assert set(gave) == set(run)
    for name in run:
        assert_same(gave[name], run[name])
    assert "nnsight_lab" not in text.partition('"""\n\n')[2].replace("nnsight_lab/models", "")
    compile(text, program, "exec")


def _run_here(text: str, model: Any, *more: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "printed"}
    exec(compile(text, "<printed>", "exec"), space)
    gave: dict[str, Any] = space["run"](model, *more)
    return gave


# What it reads like


def test_it_reads_like_what_was_written(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[2].output
        h[:, -1] += 4 * h[:, 0]
        logits = tiny.logits[:, -1].save()

    text = tracer.to_python()

    assert "# 'The capital of France is'" in text
    assert (
        """
    def at_layers_2_output(module, args, output):
        # h = tiny.layers[2].output
        h = output.clone()

        # h[:, -1] += 4 * h[:, 0]
        h_edited = h.clone()
        h_edited[:, -1] = h[:, -1] + 4 * h[:, 0]
        return h_edited
"""
        in text
    )
    assert "model.model.layers[2].register_forward_hook(at_layers_2_output)" in text
    # The run computes only the needed rows of the logits, the program all of them.
    assert_same(_run_here(text, tiny.module)["logits"], logits, atol=1e-5)


def test_it_is_said_by_the_run_the_block_the_graph_and_the_file(
    tiny: nl.LanguageModel, tmp_path: Path
) -> None:
    with tiny.trace(PROMPT) as tracer:
        tracer.save(logits=tiny.logits)

    text = tracer.run.to_python()

    assert text == tracer.to_python()
    assert text == tracer.graph.to_python(tiny, PROMPT)
    assert text == nl.load(tracer.run.save(tmp_path / "file.nnlab")).to_python()


def test_a_served_model_prints_the_same(tiny: nl.LanguageModel, served: nl.LanguageModel) -> None:
    def printed(lm: nl.LanguageModel) -> str:
        return PROGRAMS["patterns"](lm).to_python()

    assert printed(served) == printed(tiny)


def test_a_program_is_a_script_as_well(tiny: nl.LanguageModel, tmp_path: Path) -> None:
    with tiny.trace(PROMPT) as tracer:
        best = tiny.logits[0, -1].argmax().save()
    script = tmp_path / "experiment.py"
    script.write_text(tracer.to_python(), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert f"best tensor({best})" in done.stdout


def test_a_wrapped_module_is_printed_with_its_inputs() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.act = torch.nn.Linear(3, 3), torch.nn.Tanh()

        def forward(self, x: torch.Tensor, *, by: float) -> torch.Tensor:
            result: torch.Tensor = self.act(self.line(self.act(self.line(x)))) * by
            return result

    module = Twice()
    net = nl.wrap(module)
    with net.trace(torch.arange(6.0).reshape(2, 3), by=2.0) as tracer:
        net.line.output[:, 0] = 1.0
        tracer.save(first=net.act.output, out=net.output)

    gave = _run_here(tracer.to_python(), module)

    assert_exactly(gave["out"], tracer.run["out"])
    assert_exactly(gave["first"], tracer.run["first"])
    assert not torch.equal(gave["out"], module(torch.arange(6.0).reshape(2, 3), by=2.0))


def test_local_functions_are_given_to_it(tiny: nl.LanguageModel) -> None:
    def halved(h: torch.Tensor) -> torch.Tensor:
        return h / 2

    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[0].output
        tiny.layers[0].output = nl.local_fn(halved, like=h)(h)
        logits = tiny.logits.save()

    text = tracer.to_python()

    assert "def run(model, functions):" in text
    assert_exactly(_run_here(text, tiny.module, tracer.functions)["logits"], logits)


def test_values_that_are_tuples_are_said_too() -> None:
    lm = nl.LanguageModel(family_model("gpt2").module)
    with lm.trace(IDS) as tracer:
        attn = lm.transformer.h[0].attn
        attn.output[0][:, -1] = 0
        tracer.save(whole=attn.output, logits=lm.logits)

    gave = _run_here(tracer.to_python(), lm.module)

    assert_exactly(gave["logits"], tracer.run["logits"])
    assert_exactly(gave["whole"][0], tracer.run["whole"][0])
    assert not gave["whole"][0][:, -1].any()


# Blocks


def _with_blocks() -> Graph:
    """if / for / while over the positions and the sum of one residual stream."""
    given = Param(id=0, index=0)
    double = Block(1, (given, Call(id=1, op="Tensor.add", args=(Ref(0), Ref(0)))), (1,))
    same = Block(1, (given,), (0,))
    step = Block(
        3,
        (
            Param(id=0, index=0),
            Param(id=1, index=1),
            Param(id=2, index=2),
            Call(id=3, op="Tensor.add", args=(Ref(1), Ref(0))),
            Call(id=4, op="Tensor.mul", args=(Ref(0), Ref(2))),
        ),
        (3, 4),
    )
    small = Block(
        1,
        (given, Call(id=1, op="Tensor.sum", args=(Ref(0),)),
         Call(id=2, op="Tensor.abs", args=(Ref(1),)),
         Call(id=3, op="Tensor.lt", args=(Ref(2), 1e4))),
        (3,),
    )  # fmt: skip
    return Graph(
        (
            Read(id=0, address=Address("layers.0")),
            Call(id=1, op="Tensor.sum", args=(Ref(0),)),
            Call(id=2, op="Tensor.gt", args=(Ref(1), 0)),
            Cond(id=3, test=2, inputs=(0,), then=double, otherwise=same),
            Call(id=4, op="operator.getitem", args=(Ref(0), 0)),
            Call(id=5, op="operator.getitem", args=(Ref(4), 0)),
            Foreach(id=6, over=4, carry=(5,), inputs=(1,), body=step),
            While(id=7, carry=(5,), inputs=(), test=small, body=double, limit=60),
        ),
        (Output("chosen", 3), Output("each", 6), Output("grown", 7)),
    )


def test_blocks_are_if_for_and_while(tiny: nl.LanguageModel) -> None:
    with tiny.trace(IDS):
        h = tiny.layers[0].output.save()

    gave = _run_here(_with_blocks().to_python(tiny, IDS), tiny.module)

    assert_exactly(gave["chosen"][0], h + h if h.sum() > 0 else h)
    total, made = gave["each"]
    running = h[0][0]
    for row in h[0]:
        running = running + row
    assert_exactly(total, running)
    assert_exactly(torch.stack(made), torch.stack([row * h.sum() for row in h[0]]))
    grown = h[0][0]
    while grown.sum().abs() < 1e4:
        grown = grown + grown
    assert_exactly(gave["grown"][0], grown)
    assert not torch.equal(grown, h[0][0])


# What cannot be said


@pytest.mark.parametrize(
    ("name", "why"),
    [("gptj", "in a method of its own"), ("falcon-7b", "inside its own code")],
)
def test_what_no_hook_can_reach_is_refused_at_its_line(name: str, why: str) -> None:
    lm = nl.LanguageModel(family_model(name).module)
    with lm.trace(IDS) as tracer:
        lm.layers[0].attn.q.save()  # out of reach

    with pytest.raises(NotSupported, match=f"layers.0.attn.q cannot be said .*{why}") as caught:
        tracer.to_python()

    assert_at(caught.value, "out of reach")


def test_a_skipped_module_is_refused_for_now(tiny: nl.LanguageModel) -> None:
    graph = Graph(
        (Read(id=0, address=Address("layers.0")), Skip(id=1, address=Address("layers.1"), value=0)),
        (Output("h", 0),),
    )

    with pytest.raises(NotSupported, match="A skipped module cannot be said"):
        graph.to_python(tiny, IDS)


def test_a_graph_without_inputs_asks_for_them(tiny: nl.LanguageModel, tmp_path: Path) -> None:
    with tiny.trace(PROMPT) as tracer:
        tracer.save(logits=tiny.logits)
    path = tracer.graph.save(tmp_path / "graph.nnlab")

    with pytest.raises(BadInput, match="needs inputs") as caught:
        nl.load(path).to_python(tiny)  # no inputs

    assert_at(caught.value, "no inputs")
