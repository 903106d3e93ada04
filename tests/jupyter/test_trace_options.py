"""`%%trace` options: background, scan, explain, diff, timeout, views; `%nnl runs` and `cancel`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import LabError
from nnsight_lab.jupyter.around import AROUND
from nnsight_lab.models.under_way import runs_under_way

PROMPT = "The capital of France is"
LINE = f'%%trace lm "{PROMPT}"'


@pytest.fixture
def held(tiny: nl.LanguageModel) -> Iterator[threading.Event]:
    """The model waits before its first layer until the event is set."""
    assert tiny.card.layers
    go = threading.Event()

    def wait(*_: object) -> None:
        go.wait(20)

    handle = tiny.module.model.layers[0].register_forward_pre_hook(wait)
    yield go
    go.set()
    handle.remove()


def plain(tiny: nl.LanguageModel, layer: int | None = None, prompt: str = PROMPT) -> torch.Tensor:
    """The logits, or the stream after a layer, by hooks of one's own."""
    found: list[torch.Tensor] = []
    module = tiny.module if layer is None else tiny.module.model.layers[layer]
    handle = module.register_forward_hook(
        lambda _, __, out: found.append(out if layer is not None else out.logits)
    )
    with torch.no_grad():
        tiny.module(**tiny.tokenizer(prompt, return_tensors="pt"))
    handle.remove()
    return found[0]


def refused(notebook: Any, cell: str) -> LabError:
    error = notebook.cell(cell).error
    assert isinstance(error, LabError), error
    return error


# In the background


def test_a_background_cell_goes_on_and_its_names_come_back(
    notebook: Any, tiny: nl.LanguageModel, held: threading.Event
) -> None:
    cell = notebook.ran(f"{LINE} --bg\nlogits = lm.logits\nhs = [l.output for l in lm.layers]")
    run = notebook.names["run"]
    assert "run.wait()" in cell.text
    assert not run.done
    assert not isinstance(notebook.names["logits"], torch.Tensor)
    held.set()
    run.wait()

    torch.testing.assert_close(notebook.names["logits"], plain(tiny))
    torch.testing.assert_close(notebook.names["hs"][2], plain(tiny, 2))


def test_several_background_cells_go_on_at_once(
    notebook: Any, tiny: nl.LanguageModel, held: threading.Event
) -> None:
    for name in ("a", "b"):
        notebook.ran(f"{LINE} --bg -q --as run_{name}\n{name} = lm.layers[1].output")
    listed = repr(notebook.shell.run_line_magic("nnl", "runs"))
    held.set()
    notebook.names["run_a"].wait()
    notebook.names["run_b"].wait()

    assert ("run_a" in listed, "run_b" in listed) == (True, True)
    torch.testing.assert_close(notebook.names["a"], plain(tiny, 1))
    assert torch.equal(notebook.names["a"], notebook.names["b"])


def test_a_name_that_was_given_something_else_meanwhile_keeps_it(
    notebook: Any, held: threading.Event
) -> None:
    notebook.ran(f"{LINE} --bg -q\nlogits = lm.logits\nh = lm.layers[0].output")
    notebook.ran("logits = 'mine'")
    held.set()
    notebook.names["run"].wait()

    assert notebook.names["logits"] == "mine"
    assert isinstance(notebook.names["h"], torch.Tensor)


def test_a_failed_background_cell_takes_its_names_back(notebook: Any) -> None:
    notebook.ran("z = 'before'")
    body = "import torch\nz = torch.zeros(5).index_select(0, lm.logits[0, -1].argmax().reshape(1) + 9999)"
    notebook.cell(f"{LINE} --bg -q\n{body}")
    with pytest.raises(LabError) as caught:
        notebook.names["run"].wait()
    ended = threading.Event()
    notebook.names["run"].when_done(lambda _: ended.set())
    assert ended.wait(10)

    assert caught.value.code == "op-failed"
    assert caught.value.where is not None
    assert caught.value.where.line == 3
    assert notebook.names["z"] == "before"


def test_a_mistake_in_a_background_cell_is_shown_at_once(notebook: Any) -> None:
    cell = f"{LINE} --bg\nlm.layers[0].output[:] = lm.layers[3].output"
    assert refused(notebook, cell).code == "write-too-early"


@pytest.mark.parametrize("how", ["%nnl cancel", "%nnl cancel run", "%nnl cancel all", "id"])
def test_a_background_cell_can_be_cancelled(notebook: Any, held: threading.Event, how: str) -> None:
    notebook.ran(f"{LINE} --bg -q\nlogits = lm.logits")
    while not runs_under_way():
        pass
    notebook.ran(f"%nnl cancel {runs_under_way()[0].id[:8]}" if how == "id" else how)
    held.set()
    with pytest.raises(LabError) as caught:
        notebook.names["run"].wait()

    assert caught.value.code == "cancelled"


def test_nothing_to_list_and_nothing_to_cancel(notebook: Any) -> None:
    assert repr(notebook.shell.run_line_magic("nnl", "runs")) == "no run is under way"
    assert refused(notebook, "%nnl cancel").code == "magic-usage"
    assert refused(notebook, "%nnl cancel abc").code == "magic-usage"


# Shapes, and what would run


def test_scan_gives_shapes_and_runs_nothing(notebook: Any, tiny: nl.LanguageModel) -> None:
    calls: list[int] = []
    handle = tiny.module.register_forward_pre_hook(lambda *_: calls.append(1))
    cell = notebook.ran(f"{LINE} --scan\nlogits = lm.logits\nh = lm.layers[1].output[:, -1]")
    handle.remove()

    assert calls == []
    assert (notebook.names["h"].shape, notebook.names["h"].is_meta) == ((1, 128), True)
    assert "h: float32[1, 128]" in cell.shown[-1].data["text/plain"]
    assert dict(notebook.names["run"])["logits"].shape == plain(tiny).shape


def test_scan_of_a_generation(notebook: Any) -> None:
    notebook.ran(f"{LINE} --scan -g 3\nhs = [lm.logits for _ in tracer.iter[:]]")

    assert [h.shape[1] for h in notebook.names["hs"]] == [6, 1, 1]


def test_explain_says_how_deep_and_runs_nothing(notebook: Any, tiny: nl.LanguageModel) -> None:
    notebook.ran("h = 'before'")
    calls: list[int] = []
    handle = tiny.module.register_forward_pre_hook(lambda *_: calls.append(1))
    cell = notebook.ran(f"{LINE} --explain\nh = lm.layers[1].output")
    handle.remove()

    said = cell.shown[-1].data["text/plain"]
    assert calls == []
    assert "after layers.1.output" in said
    assert "1 forward pass, 1 x 6 tokens; 1 reads, 0 edits" in said
    assert f"{6 * 128 * 4 / 1e3:.3g} kB" in said
    assert "<table>" in cell.shown[-1].data["text/html"]
    assert notebook.names["h"] == "before"
    assert "run" not in notebook.names


def test_the_cost_that_explain_says_is_that_of_the_matrices(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        tiny.logits.save()
    with tiny.trace(PROMPT, execute=False) as early:
        tiny.layers[2].output.save()
    found, less = (each.experiment.explain(tiny) for each in (tracer, early))

    linear = [m for m in tiny.module.modules() if isinstance(m, torch.nn.Linear)]
    expected = 2 * 6 * sum(m.weight.numel() for m in linear)
    assert found.flops == expected
    below = [m for layer in tiny.module.model.layers[:3] for m in layer.modules()]
    assert less.flops == 2 * 6 * sum(
        m.weight.numel() for m in below if isinstance(m, torch.nn.Linear)
    )
    assert found.parts[0].last == ""
    assert less.parts[0].last == "layers.2.output"


@pytest.mark.parametrize("option", ["--bg", "--show lens", "--timeout 3", "--explain"])
def test_what_runs_nothing_goes_with_nothing_that_needs_a_run(notebook: Any, option: str) -> None:
    assert refused(notebook, f"{LINE} --scan {option}\nh = lm.logits").code == "magic-usage"


# Comparing


def test_diff_compares_what_both_saved(notebook: Any, tiny: nl.LanguageModel) -> None:
    body = "logits = lm.logits\nhs = [l.output for l in lm.layers]"
    notebook.ran(f"{LINE} --as clean -q\n{body}\nonly = lm.embed.output")
    before, early = notebook.names["logits"], notebook.names["hs"][0]
    cell = notebook.ran(f"{LINE} --diff clean\nlm.layers[2].output[:, 3] += 2.0\n{body}")

    after = notebook.names["logits"]
    apart = (after.double() - before.double()).abs()
    found = notebook.names["run"].diff(notebook.names["clean"])
    assert apart.max() > 0.1
    assert found["logits"].largest == float(apart.max())
    assert apart[found["logits"].where] == apart.max()
    cosine = torch.cosine_similarity(after.double().flatten(), before.double().flatten(), dim=0)
    assert math.isclose(found["logits"].cosine, float(cosine), rel_tol=1e-9)
    assert found["hs[0]"].largest == 0
    assert torch.equal(early, notebook.names["hs"][0])
    assert "only" not in found
    table = next(shown.data for shown in cell.shown if "largest" in shown.data["text/plain"])
    assert f"{found['logits'].largest:.3g}" in table["text/plain"]
    assert "<th scope" in table["text/html"]


def test_a_run_may_be_compared_with_the_one_whose_name_it_takes(notebook: Any) -> None:
    notebook.ran(f"{LINE} -q\nlogits = lm.logits")
    cell = notebook.ran(f"{LINE} --diff run\nlm.layers[0].output += 1\nlogits = lm.logits")

    assert "cosine" in cell.shown[-1].data["text/plain"]
    assert " 0 " not in cell.shown[-1].data["text/plain"].split("\n")[1]


def test_other_shapes_are_refused_by_name(notebook: Any) -> None:
    notebook.ran(f"{LINE} --as clean -q\nlogits = lm.logits\nlast = lm.logits[:, -1]")
    cell = notebook.ran(
        '%%trace lm "A longer prompt it is" --diff clean -q\nlogits = lm.logits\nlast = lm.logits[:, -1]'
    )
    error = refused(notebook, '%%trace lm "A longer prompt" --diff clean\nlogits = lm.logits')

    assert "not compared: float32[1, 6, 2188] in the other run" in cell.shown[-1].data["text/plain"]
    assert "last" in cell.shown[-1].data["text/plain"]
    assert error.code == "shape-mismatch"
    assert "logits is float32" in error.message


def test_numbers_that_are_none_are_told_apart(notebook: Any) -> None:
    notebook.ran(f"{LINE} --as a -q\nx = lm.logits[0, 0, :3] / 0")
    notebook.ran(f"{LINE} --as b -q\nx = lm.logits[0, 0, :3] / 0")
    notebook.ran(f"{LINE} --as c -q\nx = lm.logits[0, 0, :3]")
    a, b, c = (notebook.names[name] for name in "abc")

    assert a.diff(b)["x"].largest == 0
    assert c.diff(a)["x"].largest == math.inf


def test_no_run_to_compare_with(notebook: Any, held: threading.Event) -> None:
    notebook.ran(f"{LINE} --as clean --bg -q\nlogits = lm.logits")
    for name in ("lm", "nothing", "clean"):
        assert refused(notebook, f"{LINE} --diff {name}\nh = lm.logits").code == "magic-usage"
    held.set()
    notebook.names["clean"].wait()
    error = refused(notebook, f"{LINE} --diff clean\nh = lm.layers[0].output")
    assert error.code == "not-saved"


# Time


def test_a_run_that_takes_too_long_is_cancelled(notebook: Any, tiny: nl.LanguageModel) -> None:
    import time

    def wait(*_: object) -> None:
        time.sleep(0.1)

    handle = tiny.module.model.layers[0].register_forward_pre_hook(wait)
    begun = time.monotonic()
    error = refused(notebook, f"{LINE} -g 100 --timeout 0.4\nids = tracer.result")
    notebook.ran(f"{LINE} -g 100 --timeout 0.4 --bg -q\nids = tracer.result")
    with pytest.raises(LabError) as caught:
        notebook.names["run"].wait()
    handle.remove()

    assert (error.code, caught.value.code) == ("timed-out", "timed-out")
    assert "0.4 s" in error.message
    assert time.monotonic() - begun < 5
    assert notebook.ran(f"{LINE} --timeout 60 -q\nlogits = lm.logits").error is None


@pytest.mark.parametrize("value", ["0", "-3", "soon", "nan"])
def test_a_timeout_is_a_number_of_seconds(notebook: Any, value: str) -> None:
    assert refused(notebook, f"{LINE} --timeout {value}\nh = lm.logits").code == "magic-usage"


# What else


@pytest.mark.parametrize(
    "body", ["await x", "async with x:\n    pass", "async for a in x:\n    pass", "h = [await x]"]
)
def test_a_cell_that_awaits_is_refused_at_its_line(notebook: Any, body: str) -> None:
    error = refused(notebook, f"{LINE}\nh = lm.logits\n{body}")

    assert (error.code, error.where and error.where.line) == ("magic-usage", 3)
    assert "Await in a cell above" in error.hint
    assert "with lm.trace(prompt):" in error.hint


def test_an_async_function_in_a_cell_is_the_users_own(notebook: Any) -> None:
    notebook.ran(f"{LINE} -q\nasync def f(x):\n    return await x\nh = lm.logits")

    assert isinstance(notebook.names["h"], torch.Tensor)


@pytest.mark.parametrize("background", [False, True])
def test_an_option_can_hook_in_around_the_run(
    notebook: Any, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    monkeypatch.setitem(AROUND, "no_peek", f"{__name__}:noting")
    NOTED.clear()
    notebook.ran(f"{LINE} --no-peek -q {'--bg' if background else ''}\nh = lm.logits")
    ended = threading.Event()
    notebook.names["run"].when_done(lambda _: ended.set())

    assert ended.wait(10)
    assert NOTED == [PROMPT, "ended"]


NOTED: list[str] = []


def noting(model: Any, said: Any) -> Any:
    """Notes the prompt of the run that it is around, and its end."""
    from contextlib import ExitStack

    from nnsight_lab.models.under_way import watching

    stack = ExitStack()
    stack.callback(lambda: NOTED.append("ended"))
    stack.enter_context(
        watching(lambda run, event: NOTED.append(run.prompt) if event is None else None)
    )
    return stack
