"""`%%trace`: the cell is the body of a trace, in a real IPython shell."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import LabError

PROMPT = "The capital of France is"


def plain_logits(model: nl.LanguageModel, prompt: str) -> torch.Tensor:
    """The logits of the plain transformers model."""
    with torch.no_grad():
        found: torch.Tensor = model.module(**model.tokenizer(prompt, return_tensors="pt")).logits
    return found


def test_assigned_names_come_back_as_tensors(notebook: Any, tiny: nl.LanguageModel) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nlogits = lm.logits\nlast = logits[:, -1]')

    expected = plain_logits(tiny, PROMPT)
    torch.testing.assert_close(notebook.names["logits"], expected)
    torch.testing.assert_close(notebook.names["last"], expected[:, -1])


def test_an_edit_in_a_cell_reaches_the_model(notebook: Any, tiny: nl.LanguageModel) -> None:
    cell = f'%%trace lm "{PROMPT}" -q\nlm.layers[2].output[:, -1] += 3.0\nlogits = lm.logits'
    notebook.ran(cell)

    def add(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, -1] += 3.0
        return changed

    handle = tiny.module.model.layers[2].register_forward_hook(add)
    expected = plain_logits(tiny, PROMPT)
    handle.remove()
    torch.testing.assert_close(notebook.names["logits"], expected)
    assert not torch.allclose(expected, plain_logits(tiny, PROMPT))


def test_the_last_expression_is_displayed(notebook: Any) -> None:
    cell = notebook.ran(f'%%trace lm "{PROMPT}" -q\nlm.logits[0, -1].argmax()')

    assert "tensor(" in cell.shown[-1].data["text/plain"]


def test_only_the_names_asked_for_come_back(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}" -s h\nh = lm.layers[0].output\nlogits = lm.logits')

    assert isinstance(notebook.names["h"], torch.Tensor)
    assert "logits" not in notebook.names["run"]
    assert not isinstance(notebook.names["logits"], torch.Tensor)


def test_lists_of_values_are_filled_in_place(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nxs = [layer.output[:, -1] for layer in lm.layers]')

    assert [tuple(x.shape) for x in notebook.names["xs"]] == [(1, 128)] * len(notebook.names["xs"])
    assert len(notebook.names["run"]["xs"]) == len(notebook.names["xs"])


def test_the_run_is_bound_to_the_name_given(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}" --as clean\nlogits = lm.logits')

    assert list(notebook.names["clean"]) == ["logits"]


@pytest.mark.parametrize(
    "prompt",
    ["it's {x} $HOME", 'a "quoted" word', "emoji 🙂 here", "trailing space ", "<script>x</script>"],
)
def test_prompts_mean_themselves(notebook: Any, tiny: nl.LanguageModel, prompt: str) -> None:
    notebook.names["x"] = "EXPANDED"
    notebook.ran(f"%%trace lm {prompt!r}\nids = lm.input")

    assert notebook.names["run"].prompt == prompt
    assert notebook.names["ids"][0].tolist() == tiny.tokenizer(prompt)["input_ids"]


def test_several_prompts_are_one_batch(notebook: Any, tiny: nl.LanguageModel) -> None:
    other = "When Mary and John went to the store"
    notebook.names["other"] = other
    notebook.ran(f'%%trace lm "{PROMPT}" {{other}}\nlast = lm.logits[:, -1]')

    for row, prompt in enumerate((PROMPT, other)):
        expected = plain_logits(tiny, prompt)[0, -1]
        torch.testing.assert_close(notebook.names["last"][row], expected)


def test_the_graph_is_shown_with_the_cells_own_lines(notebook: Any) -> None:
    cell = notebook.ran(f'%%trace lm "{PROMPT}" --graph\n\nh = lm.layers[1].output')

    said = cell.shown[0].data["text/plain"]
    assert "read layers.1.output" in said
    assert "# line 3" in said


def test_the_lens_is_shown_under_the_cell(notebook: Any) -> None:
    cell = notebook.ran(f'%%trace lm "{PROMPT}" --show lens\nlogits = lm.logits')

    data = [shown.data for shown in cell.shown]
    figure = next(bundle for bundle in data if "application/vnd.plotly.v1+json" in bundle)
    assert "Logit lens" in figure["image/svg+xml"]
    assert "text/html" not in figure


def test_the_cost_line_can_be_silenced(notebook: Any) -> None:
    assert " ms" in notebook.ran(f'%%trace lm "{PROMPT}"\nh = lm.logits').text
    assert notebook.ran(f'%%trace lm "{PROMPT}" -q\nh = lm.logits').text == ""


def test_the_only_model_is_used_when_none_is_named(notebook: Any) -> None:
    notebook.ran(f'%%trace "{PROMPT}"\nlogits = lm.logits')

    assert notebook.names["run"].model is notebook.names["lm"]


def test_nnl_use_chooses_the_model(notebook: Any, tiny: nl.LanguageModel) -> None:
    notebook.names["second"] = nl.LanguageModel("tiny")
    notebook.ran("%nnl use second")
    notebook.ran(f'%%trace "{PROMPT}"\nlogits = second.logits')

    assert notebook.names["run"].model is notebook.names["second"]


def test_nnl_use_loads_a_bundled_model_as_lm(notebook: Any) -> None:
    del notebook.names["lm"]
    notebook.ran("%nnl use tiny")
    notebook.ran(f'%%trace "{PROMPT}"\nlogits = lm.logits')

    assert notebook.names["run"].model is notebook.names["lm"]


def test_nnl_code_prints_the_last_run_as_plain_pytorch(notebook: Any) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}" --as first -q\nh = lm.layers[0].output')
    notebook.ran(f'%%trace lm "{PROMPT}" -q\nlogits = lm.logits')

    last, first = notebook.ran("%nnl code").text, notebook.ran("%nnl code first").text

    assert "# logits = lm.logits" in last
    assert last.strip() == notebook.names["run"].to_python().strip()
    assert "model.model.layers[0].register_forward_hook" in first


@pytest.mark.parametrize(
    "line", ["%nnl", "%nnl code nothing", "%nnl use", "%nnl use tiny --at x", "%nnl fly"]
)
def test_nnl_says_what_it_takes(notebook: Any, line: str) -> None:
    error, _ = shown_error(notebook, line)

    assert isinstance(error, LabError)
    assert (error.code, bool(error.hint)) == ("magic-usage", True)


def shown_error(notebook: Any, text: str) -> tuple[BaseException, str]:
    """The error of a cell, and what the notebook shows of it."""
    cell = notebook.cell(text)
    assert cell.error is not None, "the cell must fail"
    return cell.error, cell.text


def test_a_name_error_shows_the_users_line_and_no_frame_of_ours(notebook: Any) -> None:
    error, shown = shown_error(notebook, f'%%trace lm "{PROMPT}"\na = 1\nb = a + missing')

    assert isinstance(error, NameError)
    assert "----> 3 b = a + missing" in shown
    assert shown.count("nnsight_lab") == 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("h = lm.layers[99].output", "address-not-found"),
        ("h = lm.layers[0].outptu", "address-not-found"),
        ("h = lm.logits + lm.layers[0].output", "shape-mismatch"),
        ("lm.layers[0].output[:] = lm.layers[3].output", "write-too-early"),
        ("h = torch.rand_like(lm.logits)", "op-not-allowed"),
        ("x = pickle.dumps(lm.logits)", "value-not-known"),
    ],
)
def test_a_mistake_is_shown_at_its_line_with_one_frame_of_ours(
    notebook: Any, line: str, code: str
) -> None:
    error, shown = shown_error(notebook, f'%%trace lm "{PROMPT}"\nimport torch, pickle\n{line}')

    assert isinstance(error, LabError)
    assert error.code == code
    assert error.where is not None
    assert error.where.line == 3
    assert error.where.cell == notebook.shell.execution_count - 1
    assert f"----> 3 {line}" in shown
    assert shown.count("/nnsight_lab/") <= 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%%trace lm", "no prompt"),
        ('%%trace lm ""', "empty"),
        ('%%trace missing "p"', "missing"),
        ('%%trace lm "p" --on nowhere', "nowhere"),
        ('%%trace lm "p" -s nothing', "nothing"),
        ('%%trace lm "unclosed', "not closed"),
    ],
)
def test_a_mistake_in_the_magics_own_line_is_put_there(notebook: Any, line: str, says: str) -> None:
    error, shown = shown_error(notebook, f"{line}\nh = lm.logits")

    assert isinstance(error, LabError)
    assert says in error.message
    assert error.where is not None
    assert (error.where.line, error.where.text) == (1, line)
    assert "Traceback" not in shown


def test_a_syntax_error_shows_the_cell_line(notebook: Any) -> None:
    _, shown = shown_error(notebook, f'%%trace lm "{PROMPT}"\nx = = 1')

    assert "line 2" in shown
    assert "SyntaxError" in shown
    assert "run_cell_magic" not in shown


def test_after_an_error_the_next_cell_works(notebook: Any) -> None:
    shown_error(notebook, f'%%trace lm "{PROMPT}"\nb = missing')
    notebook.ran(f'%%trace lm "{PROMPT}"\nlogits = lm.logits')

    assert isinstance(notebook.names["logits"], torch.Tensor)


def test_python_decides_in_a_cell_and_the_cost_line_says_so(
    notebook: Any, tiny: nl.LanguageModel
) -> None:
    body = "best = int(lm.logits[0, -1].argmax())\nkept = str(best) if lm.logits[0, -1, best] > 0 else 'none'"
    cell = notebook.ran(f'%%trace lm "{PROMPT}"\n{body}\nlogits = lm.logits')

    assert notebook.names["kept"] == str(int(plain_logits(tiny, PROMPT)[0, -1].argmax()))
    assert re.search(r"\d+ ms, 2 peeks before \(\d+ ms\), saved logits", cell.text)
    assert "peek" not in notebook.ran(f'%%trace lm "{PROMPT}"\nlogits = lm.logits').text


def test_one_peek_is_not_two(notebook: Any) -> None:
    cell = notebook.ran(f'%%trace lm "{PROMPT}"\nprint(lm.logits[0, -1, :2])')

    assert "1 peek before" in cell.text
    assert "tensor([" in cell.text


def test_peeks_can_be_forbidden_in_a_cell(notebook: Any) -> None:
    cell = f'%%trace lm "{PROMPT}" --no-peek\nx = int(lm.logits.sum())'
    error, shown = shown_error(notebook, cell)

    assert isinstance(error, LabError)
    assert error.code == "value-not-known"
    assert "----> 2 x = int(" in shown


def test_a_failed_cell_shows_its_values_without_a_run(
    notebook: Any, tiny: nl.LanguageModel
) -> None:
    """The text of the error holds a recorded value, and so does the traceback."""
    calls: list[int] = []
    handle = tiny.module.register_forward_pre_hook(lambda *_: calls.append(1))
    error, shown = shown_error(notebook, f'%%trace lm "{PROMPT}"\nraise ValueError(lm.logits)')
    handle.remove()

    assert isinstance(error, ValueError)
    assert "ValueError: <recorded float32[" in shown
    assert calls == []


def test_a_shown_value_appears_under_the_cell(notebook: Any, tiny: nl.LanguageModel) -> None:
    notebook.names["nl"] = nl
    cell = notebook.ran(
        f'%%trace lm "{PROMPT}" -q\nnl.show(lm.logits.argmax(-1)[0, -1], "next")\nh = lm.logits'
    )

    expected = plain_logits(tiny, PROMPT).argmax(-1)[0, -1]
    assert f"next: {expected!r}" in cell.text
    assert list(notebook.names["run"]) == ["h"]


def test_a_value_shown_in_the_last_line_is_printed_once(notebook: Any) -> None:
    notebook.names["nl"] = nl
    cell = notebook.ran(f'%%trace lm "{PROMPT}" -q\nnl.show(lm.logits.sum(), "sum")')

    assert cell.text.count("tensor(") == 1
    assert cell.shown == []
