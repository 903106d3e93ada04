"""A model in a notebook: every module is in the tree, and what is copied is code that works."""

from __future__ import annotations

import re
from typing import Any

import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.reprs import html_of
from nnsight_lab.tracing.envoy import path_of
from tests.support.html_tree import Element, parsed


def shown(value: Any, notebook: Any) -> Element:
    html = html_of(value, notebook.shell)
    assert html is not None
    return parsed(html)


def copied(page: Element) -> list[str]:
    return [
        each.attributes["data-copy"] for each in page.within() if "data-copy" in each.attributes
    ]


def test_every_copied_path_names_a_module_or_a_value(notebook: Any, tiny: Any) -> None:
    paths = copied(shown(tiny, notebook))
    assert "lm.layers[0].attn.pattern" in paths
    assert "lm.model.layers[0].self_attn.q_proj" in paths
    assert "lm.logits" in paths
    modules = [path for path in paths if path.rpartition(".")[2] not in tiny.tree.ports_of]
    with tiny.trace("a b", execute=False):
        for path in modules:
            assert eval(path, {"lm": tiny}) is not None


def test_every_module_is_in_the_tree_under_itself_or_its_like(notebook: Any, tiny: Any) -> None:
    page = shown(tiny, notebook)
    with tiny.trace("a b", execute=False):
        found = {path_of(eval(path, {"lm": tiny})) for path in copied(page) if "model" in path}
    first = {path for path in tiny.tree.by_path if path.startswith("model")}
    first = {path for path in first if ".layers." not in path or ".layers.0" in path}

    assert first <= found
    assert "[0] … [5]" in page.text
    assert "6 alike" in page.text


def test_layers_that_differ_are_not_shown_as_one(notebook: Any) -> None:
    parts = [torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 4), torch.nn.ReLU()]
    net = nl.wrap(torch.nn.Sequential(*parts))
    text = shown(net, notebook).text

    assert "[0] … [1]" in text
    assert "[2] Linear" in text
    assert "[3] ReLU" in text


def test_the_parameters_are_those_of_the_model(notebook: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(100, 30), torch.nn.Linear(30, 7))
    text = shown(nl.wrap(module), notebook).text

    assert "Linear · 3k parameters" in text
    assert "Linear · 217 parameters" in text


def test_buffers_are_no_parameters(notebook: Any, tiny: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    text = shown(nl.wrap(module), notebook).text
    rotary = tiny.module.model.rotary_emb
    assert sum(each.numel() for each in rotary.buffers()) > 0
    assert not list(rotary.parameters())

    assert re.search(r"BatchNorm1d[^B]* · 10 parameters", text)
    assert "Sequential · 30 parameters" in text
    line = shown(tiny, notebook).text.partition("rotary_emb")[2].partition("lm_head")[0]
    assert "parameters" not in line


def test_of_a_module_alone_both_are_counted_and_it_says_so(notebook: Any, tiny: Any) -> None:
    text = shown(tiny.model, notebook).text

    assert re.search(r"rotary_emb[^·]*(·[^·]*)*? · \d+ parameters and buffers", text)


def test_a_module_shows_its_values_and_what_is_below(notebook: Any, tiny: Any) -> None:
    page = shown(tiny.layers[3].attn, notebook)
    paths = copied(page)

    assert "lm.layers[3].attn.z" in paths
    assert "lm.model.layers[3].self_attn.q_proj" in paths
    assert "float32[batch, pos, 4, 32]" in page.text


def test_names_of_modules_are_text(notebook: Any) -> None:
    module = torch.nn.Module()
    module.add_module("<script>alert(1)</script>", torch.nn.Linear(2, 2))
    page = shown(nl.wrap(module), notebook)

    assert "<script>alert(1)</script>" in page.text
    assert not page.every("script")


def test_a_very_large_model_stays_small(notebook: Any) -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(2, size % 37 + 2) for size in range(3000)))
    html = html_of(nl.wrap(module), notebook.shell)

    assert html is not None
    assert len(html) < 400_000
    assert "… more" in parsed(html).text


def test_stored_edits_are_told(notebook: Any, tiny: Any) -> None:
    with tiny.edit() as edited:
        edited.layers[0].output[:] *= 2

    assert "1 stored edit" in shown(edited, notebook).text
    assert "stored edit" not in shown(tiny, notebook).text


def test_the_users_own_names_and_modules_are_in_the_tree(notebook: Any) -> None:
    lm = nl.LanguageModel("tiny", rename={"model.embed_tokens": "words", "mlp": "ff"})
    lm.layers[2].sae = torch.nn.Linear(128, 4)
    notebook.names["mine"] = lm
    page, module = shown(lm, notebook), shown(lm.layers[2], notebook)
    notebook.names.pop("mine")

    assert "mine.words = model.embed_tokens" in page.text
    assert "mine.model.layers[2].sae yours, Linear" in page.text
    assert "ff = " in page.text
    assert "sae yours, Linear" in module.text
