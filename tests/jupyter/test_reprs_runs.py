"""Runs, caches, errors and the rest in a notebook; what is left behind when it is unloaded."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import AddressNotFound, LabError
from nnsight_lab.jupyter.reprs import html_of, unregister_reprs
from tests.support.html_tree import Element, parsed

TRICKY = "<script>alert(1)</script> {x} $y$ & ' \" 🙂 "


def shown(value: Any, notebook: Any) -> Element:
    html = html_of(value, notebook.shell)
    assert html is not None
    return parsed(html)


@pytest.fixture
def traced(tiny: Any) -> Any:
    with tiny.trace(TRICKY) as tracer:
        h = tiny.layers[2].output
        before = h.save()
        h[:, -1] *= 2
        after = tiny.logits.save()
        tracer.cache(modules=[tiny.layers[0].mlp, "layers.3"])
    assert before.shape[1] == after.shape[1]
    return tracer


def test_the_numbers_of_a_run_are_those_of_hooks(notebook: Any, traced: Any, tiny: Any) -> None:
    seen: list[torch.Tensor] = []
    layer = tiny.module.model.layers[2]
    handle = layer.register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        tiny.module(torch.tensor(traced.run.inputs.rows))
    handle.remove()
    rows = {row[0]: row for row in shown(traced.run, notebook).rows()}
    name, shape, mean, std, low, high, bad, _ = rows["before"]
    numbers = (seen[0].mean(), seen[0].std(), seen[0].min(), seen[0].max())

    assert shape == f"float32{list(seen[0].shape)}"
    assert [mean, std, low, high] == [f"{number.item():.4g}" for number in numbers]
    assert (name, bad) == ("before", "none")
    assert set(traced.run) == set(rows) - {"name"}


def test_a_prompt_is_text_with_its_last_space(notebook: Any, traced: Any) -> None:
    page = shown(traced.run, notebook)

    assert repr(TRICKY) in page.text
    assert not page.every("script")


def test_nothing_is_a_formula(notebook: Any, traced: Any) -> None:
    """MathJax leaves out elements of these classes; a `$` is a token like any other."""
    for value in (traced.run, traced.graph, traced.run["before"]):
        (page,) = (part for part in shown(value, notebook).inside if isinstance(part, Element))
        assert {"tex2jax_ignore", "mathjax_ignore"} <= set(page.attributes["class"].split())


def test_a_cache_is_a_table_of_its_modules(notebook: Any, tiny: Any) -> None:
    with tiny.trace("a b c") as tracer:
        cache = tracer.cache(modules=[tiny.layers[0].mlp, "layers.3"])
        assert html_of(cache, notebook.shell) is None
    rows = shown(cache, notebook).rows()

    assert [row[0] for row in rows[1:]] == ["layers.0.mlp.output", "layers.3.output"]
    assert rows[2][2] == f"{cache['layers.3'].output.mean().item():.4g}"
    assert shown(cache["layers.3"], notebook).rows()[1][:3] == rows[2][:3]


def test_a_session_shows_the_prompts_of_its_traces(notebook: Any, tiny: Any) -> None:
    with tiny.session() as session:
        with tiny.trace("one two"):
            h = tiny.layers[1].output
        with tiny.trace("three four"):
            tiny.layers[1].output[:] = h
            out = tiny.logits.save()
    page = shown(session.run, notebook)

    assert "2 traces" in page.text
    assert "['one two', 'three four']" in page.text
    assert page.rows()[1][0] == "out"
    assert out.dim() == 3


def test_a_recorded_value_is_not_looked_at(notebook: Any, tiny: Any) -> None:
    with tiny.trace("a b c") as tracer:
        h = tiny.layers[1].output[:, -1]
        page = shown(h, notebook)
        h.save()

    assert "float32[1, 128]" in page.text
    assert tracer.run.peeks.count == 0


def test_a_scan_and_an_experiment_are_tables(notebook: Any, tiny: Any, traced: Any) -> None:
    with tiny.scan("a b c") as tracer:
        x = tiny.layers[1].output.save()
    assert x is not None
    assert shown(tracer.run, notebook).rows()[1] == ["x", f"float32{list(x.shape)}"]
    assert repr(TRICKY) in shown(traced.experiment, notebook).text


def test_an_error_marks_the_users_line_and_says_what_to_do(notebook: Any) -> None:
    cell = notebook.cell('with lm.trace("a"):\n    h = lm.layers[2].mpl  # <b>\n    x = 1')
    assert isinstance(cell.error, AddressNotFound)
    page = shown(cell.error, notebook)
    (mark,) = page.every("mark")

    assert "2      h = lm.layers[2].mpl  # <b>" in mark.text
    for said in (cell.error.message, cell.error.hint, cell.error.code, str(cell.error.where)):
        assert said in page.text
    assert "docs/errors/address-not-found.md" in page.text


@pytest.mark.parametrize("kind", ["run", "graph", "tensor", "model", "error"])
def test_what_github_leaves_out_is_not_needed(
    notebook: Any, traced: Any, tiny: Any, kind: str
) -> None:
    """No style, no handler, no script: the same words are there, and no id is used."""
    error = AddressNotFound("no such module", hint="look")
    values = {"run": traced.run, "graph": traced.graph, "model": tiny, "error": error}
    html = html_of(values.get(kind, traced.run["before"]), notebook.shell)
    assert html is not None
    page = parsed(html)
    bare = re.sub(r' (?:style|on\w+|data-[\w-]+|class)="[^"]*"', "", html)

    assert parsed(bare).text == page.text
    names = {part.name for part in page.within()}
    assert names.isdisjoint({"script", "style", "svg", "link", "iframe"})
    assert not [part for part in page.within() if "id" in part.attributes]
    addresses = [part.attributes.get("src", "data:") for part in page.within()]
    assert all(address.startswith("data:") for address in addresses)
    assert "http" not in re.sub(r'src="[^"]*"', "", html)


def test_unloading_shows_values_as_before(notebook: Any) -> None:
    shell = notebook.shell
    formatter = shell.display_formatter.formatters["text/html"]
    tensor = torch.randn(3, 3)
    assert "text/html" in shell.display_formatter.format(tensor)[0]

    shell.run_line_magic("unload_ext", "nnsight_lab")
    assert shell.display_formatter.format(tensor)[0] == {"text/plain": repr(tensor)}
    formatter.for_type(torch.Tensor, lambda value: "mine")
    shell.run_line_magic("load_ext", "nnsight_lab")
    shell.run_line_magic("reload_ext", "nnsight_lab")
    assert "mine" not in shell.display_formatter.format(tensor)[0]["text/html"]
    unregister_reprs(shell)
    unregister_reprs(shell)

    assert shell.display_formatter.format(tensor)[0]["text/html"] == "mine"
    formatter.pop(torch.Tensor)
    assert shell.custom_exceptions == ()


def test_nothing_is_patched_by_loading(notebook: Any) -> None:
    assert torch.Tensor.__repr__.__module__ == "torch._tensor"
    assert not hasattr(torch.Tensor, "_repr_html_")
    assert not hasattr(LabError, "_repr_html_")


def test_a_value_that_cannot_be_drawn_has_its_plain_text(notebook: Any) -> None:
    class Strange(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            raise RuntimeError("no")

    strange = torch.randn(2, 2).as_subclass(Strange)
    notebook.names["strange"] = strange

    assert html_of(strange, notebook.shell) is None


def test_plain_texts_say_how_values_spread(tiny: Any) -> None:
    with tiny.trace("a b c") as tracer:
        x = tiny.layers[1].output.save()
        names = [layer.output.norm() for layer in tiny.layers]
        nl.save(names)
    text = repr(tracer.run)

    assert f"x: float32{list(x.shape)}  mean {x.mean():.3g}, std {x.std():.3g}" in text
    assert f"names[0]: float32[]  {names[0]:.4g}" in text
    assert repr(tracer.graph).endswith("7 in all>") == (len(tracer.graph.outputs) > 6)


def test_a_large_shown_value_says_its_numbers(tiny: Any, capsys: Any) -> None:
    with tiny.trace("a b c d e f g h i j"):
        h = tiny.layers[1].output
        nl.show(h, "h")
        nl.show(h.norm(), "norm")
        h.save()
    out = capsys.readouterr().out

    assert f"h:\nfloat32{list(h.shape)}  mean {h.mean():.3g}" in out
    assert "norm: tensor(" in out


def test_displaying_a_recorded_value_records_nothing(notebook: Any) -> None:
    cell = notebook.ran(
        "from IPython.display import display\n"
        'with lm.trace("a b") as tracer:\n    h = lm.layers[1].output\n'
        "    display(h)\n    h.save()"
    )
    (shown,) = cell.shown

    assert "Recorded value" in parsed(shown.data["text/html"]).text
    assert notebook.names["tracer"].run.peeks.count == 0
    assert len(notebook.names["tracer"].graph) == 1
