"""A slice of the parity grid, and that its judge can tell right from wrong. All of it: `make parity`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.__main__ import chosen, column, passes
from tests.parity.case import FAMILIES, Case, case
from tests.parity.engines import ENGINES, Begun
from tests.parity.judge import NOT_BUILT, REFUSED, SUPPORTED, WRONG, Cell, compared, judged
from tests.parity.method import Expected, Method, Values
from tests.parity.methods import METHODS
from tests.parity.page import ENGINE_NAMES, PAGE, shares, table, written
from tests.parity.results import Results
from tests.support.hooks import forward

SLICE = ("Llama", "Gemma 2", "GPT-2", "Falcon", "Qwen2-MoE")


def _column(family: str, engine: str) -> list[Cell]:
    return column(family, engine, list(METHODS.values()), {})


@pytest.mark.parametrize("engine", ["local", "transformers"])
@pytest.mark.parametrize("family", SLICE)
def test_every_method_gives_what_hooks_give(family: str, engine: str) -> None:
    cells = _column(family, engine)

    assert [cell for cell in cells if cell.verdict != SUPPORTED] == []
    assert len(cells) == len(METHODS)


@pytest.mark.vllm
def test_every_method_gives_what_hooks_give_on_vllm() -> None:
    cells = _column("Llama", "vllm")

    assert [cell for cell in cells if cell.verdict != SUPPORTED] == []
    assert len(cells) == len(METHODS)


def _judged(program: Any, engine: str = "transformers", method: str = "steering") -> Cell:
    made = case("Llama")
    real = METHODS[method]
    with ENGINES[engine](made) as opened:
        return judged(replace(real, program=program), made, engine, opened, real.by_hand(made))


def test_an_edit_that_was_dropped_is_wrong() -> None:
    def program(lm: Any, made: Case) -> Values:
        with lm.trace(made.clean):
            late = lm.layers[2].output.save()
            logits = lm.logits.save()
        return {"late": late, "logits": logits}

    cell = _judged(program)
    assert cell.verdict == WRONG
    assert "logits differs by" in cell.why
    assert "the edit changed nothing in logits" in cell.why


def test_a_refusal_before_the_run_is_a_refusal() -> None:
    def program(lm: Any, made: Case) -> Values:
        with lm.trace(made.clean):
            logits = lm.layers[7].output.save()
        return {"logits": logits}

    cell = _judged(program)
    assert (cell.verdict, cell.difference > 0) == (REFUSED, False)
    assert "layers[7]" in cell.why or "layers.7" in cell.why


def test_what_fails_while_it_runs_is_wrong() -> None:
    def program(lm: Any, made: Case) -> Values:
        with lm.trace(made.clean):
            values = torch.linalg.inv(lm.layers[0].output[0, :2, :2] * 0).save()
        return {"logits": values}

    cell = _judged(program)
    assert cell.verdict == WRONG
    assert cell.why.startswith("OpFailed")


def test_a_refusal_after_the_run_began_is_wrong() -> None:
    """The same error counts as wrong once the engine was told to run."""
    begun = Begun()

    def program(lm: Any, made: Case) -> Values:
        begun.failed += 1
        with lm.trace(made.clean):
            logits = lm.layers[7].output.save()
        return {"logits": logits}

    made = case("Llama")
    method = Method("late", program, lambda _: Expected({}))
    with ENGINES["local"](made) as (lm, _):
        cell = judged(method, made, "local", (lm, begun), Expected({}))
    assert cell.verdict == WRONG
    assert cell.why.startswith("refused after it was queued")


def test_what_the_judge_compares() -> None:
    logits = torch.tensor([[1.0, 1.0 + 5e-5, -30.0]])
    right = Expected({"logits": logits}, {"logits": logits + 3.0})

    assert compared({"logits": logits.clone()}, right) == (0.0, "")
    assert "likeliest" in compared({"logits": logits + torch.tensor([[9e-5, 0, 0]])}, right)[1]
    assert "differs" in compared({"logits": logits + 0.01}, right)[1]
    assert "differs" in compared({"logits": logits * float("nan")}, right)[1]
    assert "saved" in compared({}, right)[1]
    assert "(3,)" in compared({"logits": logits[0]}, right)[1]
    same = replace(right, before={"logits": logits + 0.001})
    assert "changed nothing" in compared({"logits": logits}, same)[1]
    ids = torch.tensor([[3, 4]])
    assert compared({"ids": ids}, Expected({"ids": ids})) == (0.0, "")
    assert "differs" in compared({"ids": ids}, Expected({"ids": ids + 1}))[1]


def test_when_the_grid_passes() -> None:
    right = [Cell("m", str(i), "local", SUPPORTED, 0.0) for i in range(97)]
    refused = [Cell("m", f"r{i}", "local", REFUSED, why="no") for i in range(4)]
    wrong = Cell("m", "w", "local", WRONG, 1.0, "off")
    absent = Cell("m", "a", "vllm", NOT_BUILT, why="not built")

    assert passes([*right, *refused[:3], absent])
    assert not passes([*right, *refused])
    assert not passes([*right, wrong])
    assert not passes([])
    assert shares([*right, *refused[:3]]) == "97 SUPPORTED, 3 REFUSED (3.0%), 0 WRONG"


def test_a_part_of_the_grid_can_be_chosen() -> None:
    assert chosen(FAMILIES, ["llama", "gpt2"]) == ["Llama", "GPT-2"]
    assert chosen(FAMILIES, []) == list(FAMILIES)
    assert chosen(dict.fromkeys(METHODS, ""), ["head", "lens"]) == ["logit lens", "head patching"]
    with pytest.raises(SystemExit, match="nope"):
        chosen(FAMILIES, ["nope"])


def test_results_are_taken_up_again(tmp_path: Path) -> None:
    cells = [Cell("m", "f", "local", SUPPORTED, 0.5), Cell("m", "f", "vllm", REFUSED, why="no")]
    results = Results(tmp_path / "cells.json")
    results.keep(cells)
    results.write()
    again = Results(tmp_path / "cells.json")
    again.read()

    found = again.of(["m"], ["f"], ["local", "vllm"])
    assert found[0] == cells[0]
    assert (found[1].verdict, found[1].why) == (REFUSED, "no")


def test_the_table_and_the_page_say_what_is_not_right() -> None:
    cells = [
        Cell("lens", "Llama", "local", SUPPORTED, 2e-6),
        Cell("lens", "OPT", "local", REFUSED, why="no {such} place"),
        Cell("lens", "Llama", "vllm", WRONG, 0.5, "logits differs by 5.0e-01"),
        Cell("lens", "OPT", "vllm", NOT_BUILT, why="not built"),
        Cell("gradients", "Llama", "vllm", SUPPORTED, 0.0, by="transformers"),
        Cell("gradients", "OPT", "vllm", SUPPORTED, 0.0),
    ]

    shown = table(cells)
    assert "2e-06" in shown
    assert "WRONG" in shown
    page = written(cells)
    assert "| lens | ✓ | refused |" in page
    assert "| lens | ✗ | · |" in page
    assert "| gradients | ✓ᵗ | ✓ |" in page
    assert "| ✗ | lens | Llama | logits differs by 5.0e-01 |" in page
    assert "| refused | lens | OPT | no \\{such} place |" in page


def test_the_page_in_the_docs_is_of_this_grid() -> None:
    """Every method, family and engine of today, and nothing wrong among them."""
    page = PAGE.read_text(encoding="utf-8")
    cells = page.replace("_", " ")

    assert [name for name in METHODS if f"\n| {name} |" not in page] == []
    assert [name for name in FAMILIES if f" {name} |" not in cells] == []
    assert [name for name in ENGINE_NAMES.values() if f"\n## {name}\n" not in page] == []
    assert "0 WRONG" in page


def test_the_oracle_sees_an_effect_of_every_edit() -> None:
    """What a method edits matters in this model: the hooks alone change the logits."""
    made = case("Llama")
    for method in METHODS.values():
        expected = method.by_hand(made)
        for name, plain in expected.before.items():
            assert (expected.values[name] - plain).abs().max() > 0.1, (method.name, name)
    assert forward(made.small.module, made.clean).std() > 0.1
