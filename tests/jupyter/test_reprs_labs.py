"""A lab in a notebook: what it serves, without asking it more than one asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nnsight_lab as nl
from nnsight_lab.jupyter.reprs import html_of
from nnsight_lab.models.lab import LabModel, LabModels
from nnsight_lab.wire import ModelSummary
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.html_tree import parsed


def test_a_lab_and_its_models_give_code_that_works(notebook: Any) -> None:
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        notebook.names["mine"] = connected
        models = connected.models()
        table = parsed(html_of(models, notebook.shell) or "")
        one = parsed(html_of(models[0], notebook.shell) or "")
        served = connected.model("tiny")
        tree = parsed(html_of(served, notebook.shell) or "")
        run = notebook.ran(
            'far = mine.model("tiny")\nwith far.trace("a b") as t:\n    x = far.logits.save()'
        )
        told = parsed(html_of(notebook.names["t"].run, notebook.shell) or "")

    head, row = table.rows()
    assert dict(zip(head, row, strict=True))["architecture"] == "LlamaForCausalLM"
    (name,) = (each for each in table.within() if "data-copy" in each.attributes)
    assert name.attributes["data-copy"] == "lm = mine.model('tiny')"
    assert one.rows() == table.rows()
    assert "[0] … [5]" in tree.text
    assert run.error is None
    assert "bytes sent" in told.text


def test_a_queue_is_a_column_only_where_there_is_one(notebook: Any) -> None:
    idle = ModelSummary("a", "Llama", "float32", "transformers", "cpu", 6, 1_600_000)
    busy = replace(idle, name="b", running=1, waiting=2)
    kinds = [
        parsed(html_of(LabModels(map(LabModel, each)), notebook.shell) or "").rows()
        for each in ([idle, replace(idle, name="b", running=0, waiting=0)], [idle, busy])
    ]

    (head, *_), (head_busy, *rows) = kinds
    assert head_busy == [*head, "runs"]
    assert [row[-1] for row in rows] == ["", "1 running, 2 waiting"]


def test_a_model_that_still_loads_says_so_and_nothing_else(notebook: Any) -> None:
    summary = ModelSummary("b", "", "", "", "", 0, 0, state="loading")
    (head, row) = parsed(html_of(LabModels([LabModel(summary)]), notebook.shell) or "").rows()

    shown = {name: text for name, text in zip(head, row, strict=True) if text}
    assert shown == {"model": "b", "state": "loading"}


def test_a_closed_lab_is_still_shown(notebook: Any) -> None:
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        pass
    assert lab.url in parsed(html_of(connected, notebook.shell) or "").text
