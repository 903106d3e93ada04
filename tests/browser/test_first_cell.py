"""The first thing a person does: load the extension, trace, and see the number hooks give."""

from __future__ import annotations

from tests.support.jupyter_lab import NotebookPage

BY_HAND = """import torch
seen = []
handle = lm.executor.module.model.layers[2].register_forward_hook(
    lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
)
ids = torch.tensor(run.inputs.rows)
logits = lm.executor.module(ids).logits
handle.remove()
"""


def test_a_traced_cell_gives_what_hooks_give(notebook: NotebookPage) -> None:
    shown = notebook.cell(
        '%%trace "The capital of France is" --show lens\n'
        "h = lm.layers[2].output\n"
        "logits = lm.logits"
    )
    shown.locator("text=Logit lens").first.wait_for()
    notebook.cell(BY_HAND)

    assert notebook.python("float((h - seen[0]).abs().max())") <= 1e-6
    assert notebook.python("float((globals()['logits'] - run['logits']).abs().max())") <= 1e-5


def test_an_error_is_shown_at_the_users_line(notebook: NotebookPage) -> None:
    index = notebook.add(
        '%%trace "The capital of France is"\nh = lm.layers[2].output\nx = undefined'
    )
    notebook.run(index)
    (error,) = (out for out in notebook.outputs(index) if out["output_type"] == "error")
    text = notebook.output(index).inner_text()

    assert error["ename"] == "NameError"
    assert "3 x = undefined" in text
    assert "nnsight_lab/" not in text.replace("nnsight_lab/jupyter", "", 1)
