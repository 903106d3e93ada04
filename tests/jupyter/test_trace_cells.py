"""What the body of a `%%trace` cell may be, and what is left of it when it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl

PROMPT = "The capital of France is"
HEAD = f'%%trace lm "{PROMPT}" -q'
LENS = f'lm "{PROMPT}" --show lens'


def clean(model: nl.LanguageModel) -> torch.Tensor:
    """The plain model's logits."""
    with torch.no_grad():
        found: torch.Tensor = model.module(**model.tokenizer(PROMPT, return_tensors="pt")).logits
    return found


def test_a_run_gives_lists_and_dicts_in_their_own_order(
    notebook: Any, tiny: nl.LanguageModel
) -> None:
    body = (
        "hs = [layer.output for layer in lm.layers]\nd = {'b': hs[3][:, -1], 'a': [hs[4], hs[1]]}\n"
    )
    notebook.ran(f"{HEAD}\n{body}")
    run, hs = notebook.names["run"], notebook.names["hs"]

    assert [name for name in run if name.startswith("hs")] == [
        f"hs[{place}]" for place in range(len(hs))
    ]
    for place, h in enumerate(hs):
        with tiny.trace(PROMPT):
            expected = tiny.layers[place].output.save()
        assert torch.equal(h, expected)
        assert torch.equal(run["hs"][place], expected)
    assert set(run["d"]) == {"b", "a"}
    assert torch.equal(run["d"]["b"], hs[3][:, -1])
    assert torch.equal(run["d"]["a"][1], hs[1])


def test_parts_of_a_run_are_put_together_by_their_keys(tiny: nl.LanguageModel) -> None:
    """Not by the order of saving; and a place that was not saved is not counted."""
    hs: list[Any] = [None, None]
    some: list[Any] = [None, None]
    with tiny.trace(PROMPT) as tracer:
        second, first = tiny.layers[1].output.save(), tiny.layers[0].output.save()
        hs[:] = [first, second]
        some[1] = tiny.layers[2].output.save()

    assert torch.equal(tracer.run["hs"][0], hs[0])
    assert torch.equal(tracer.run["hs"][1], hs[1])
    assert list(tracer.run["some"]) == [1]


def test_a_name_a_run_did_not_save_is_a_typed_key_error(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        logits = tiny.logits.save()
    run = tracer.run

    with pytest.raises(KeyError) as caught:
        run["zz"]
    assert isinstance(caught.value, nl.errors.NotSaved)
    assert caught.value.where is not None
    assert "run[" in caught.value.where.text
    assert str(caught.value).startswith("'zz' was not saved in this run.\n")
    assert run.get("zz", 3) == 3
    assert "zz" not in run
    assert torch.equal(run["logits"], logits)


@pytest.mark.parametrize("what", ["topk(3)", "max(-1)", "sort(-1)"])
def test_named_tuples_come_back_with_tensors(
    notebook: Any, tiny: nl.LanguageModel, what: str
) -> None:
    cell = notebook.ran(f"{HEAD}\nbest = lm.logits[0, -1].{what}\nlm.logits[0, -1].{what}")

    expected = eval(f"logits.{what}", {"logits": clean(tiny)[0, -1]})
    best = notebook.names["best"]
    assert type(best) is type(expected)
    torch.testing.assert_close(best.values, expected.values)
    assert torch.equal(best.indices, expected.indices)
    shown = cell.shown[-1].data["text/plain"]
    assert "tensor(" in shown
    assert "recorded" not in shown


@pytest.mark.parametrize("text", [f"%%trace {LENS}", f"%%trace {LENS}\n", f"%trace {LENS}"])
def test_a_cell_without_a_body_shows_the_prompt(notebook: Any, text: str) -> None:
    cell = notebook.ran(text)

    assert "image/svg+xml" in cell.shown[-1].data


def test_the_extension_can_be_loaded_again(notebook: Any) -> None:
    """The change to how cells are read is made once."""
    count = len(notebook.shell.input_transformers_cleanup)
    notebook.shell.extension_manager.reload_extension("nnsight_lab")

    assert len(notebook.shell.input_transformers_cleanup) == count


@pytest.mark.parametrize("option", ['-s "h"', "--save='h'", '-s "h, g"'])
def test_names_to_save_may_be_quoted(notebook: Any, option: str) -> None:
    notebook.ran(f"{HEAD} {option}\nh = lm.layers[0].output\ng = lm.layers[1].output\nx = g + 1")

    assert isinstance(notebook.names["h"], torch.Tensor)
    assert "x" not in notebook.names["run"]


def test_commands_and_magics_may_stand_in_the_body(notebook: Any, tiny: nl.LanguageModel) -> None:
    body = "!true\nseen = !echo one \\\n  two\n\n%time logits = lm.logits\nimport math?"
    notebook.ran(f"{HEAD}\n{body}")

    torch.testing.assert_close(notebook.names["logits"], clean(tiny))
    assert notebook.names["run"]["logits"] is notebook.names["logits"]


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("!true\nx = missing", 3),
        ("\n\n!true\n\nx = missing", 6),
        ("%time x = \\\n  1\ny = '''\n\n'''\nx = missing", 7),
    ],
)
def test_a_line_keeps_its_number_below_a_command(notebook: Any, body: str, line: int) -> None:
    cell = notebook.cell(f"{HEAD}\n{body}")

    assert isinstance(cell.error, NameError)
    assert f"----> {line} x = missing" in cell.text


def test_a_cell_magic_inside_is_refused_with_the_way_round(notebook: Any) -> None:
    cell = notebook.cell(f"{HEAD}\n%%time\nh = lm.logits")

    assert isinstance(cell.error, nl.errors.MagicUsage)
    assert "above %%trace" in cell.error.hint
    notebook.ran(f"%%time\n{HEAD}\nh = lm.logits")
    assert isinstance(notebook.names["h"], torch.Tensor)


@pytest.mark.parametrize("end", [";", ";  # quietly", " ;\n\n"])
def test_a_semicolon_at_the_end_displays_nothing(notebook: Any, end: str) -> None:
    assert notebook.ran(f"{HEAD}\nlm.logits[0, -1].argmax(){end}").shown == []


def test_a_failed_cell_leaves_earlier_variables_as_they_were(notebook: Any) -> None:
    notebook.names.update(h=1, plain=1)
    body = "h = lm.logits\nhs = [lm.layers[0].output]\nplain = 2\nlm.layers[0].outptu"
    assert notebook.cell(f"{HEAD}\n{body}").error is not None

    assert notebook.names["h"] == 1
    assert "hs" not in notebook.names
    assert notebook.names["plain"] == 2, "what is no recorded value stays, as in any cell"
    assert notebook.cell(f"{HEAD}\nh = lm.layers[0].output[:, 99:]\nh[0, 99]").error is not None
    assert notebook.names["h"] == 1
