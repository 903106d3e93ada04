"""Tab in a notebook: options, models, views, runs, and modules, without running anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from IPython.core.completer import provisionalcompleter

import nnsight_lab as nl
from nnsight_lab.jupyter.completion import offered
from nnsight_lab.jupyter.line import VALUED

LINE = '%%trace lm "a prompt"'
APOSTROPHE = """%%trace lm "it's" """.rstrip()


def completed(notebook: Any, text: str) -> list[str]:
    """The last line of the text with each thing that Tab offers in its place."""
    with provisionalcompleter():
        found = list(notebook.shell.Completer.completions(text, len(text)))
    return [(text[: each.start] + each.text).split("\n")[-1] for each in found]


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%trace lm --sh", ["%%trace lm --show"]),
        ("%%trace lm --b", ["%%trace lm --bg"]),
        ("%%trace ", ["%%trace lm", "%%trace second"]),
        ("%%trace se", ["%%trace second"]),
        (f"{LINE} --show lens,n", [f"{LINE} --show lens,norms", f"{LINE} --show lens,none"]),
        (f"{LINE} --show=p", [f"{LINE} --show=probs"]),
        (f"{LINE} --on l", [f"{LINE} --on local"]),
        (f"{LINE} --diff ", [f"{LINE} --diff clean"]),
        ("%%trace lm --then ", ["%%trace lm --then clean"]),
        ("%%trace lm --then=c", ["%%trace lm --then=clean"]),
        (f'{APOSTROPHE} --sh', [f"{APOSTROPHE} --show"]),
        (f"{APOSTROPHE} {{'a b'}} --on l", [f"{APOSTROPHE} {{'a b'}} --on local"]),
        (f"{LINE}\nlm.lay", ["lm.layers"]),
        (f"{LINE}\nh = lm.layers[0].at", ["h = lm.layers[0].attn"]),
        (f"{LINE}\nh = lm.layers[-1].attn.pa", ["h = lm.layers[-1].attn.pattern"]),
        (f"{LINE}\nh = lm.model.layers[1].self_attn.q_", ["h = lm.model.layers[1].self_attn.q_proj"]),
        (f"{LINE}\nfor layer in lm.layers:\n    layer.mlp.neu", ["    layer.mlp.neurons"]),
        (f"{LINE}\nhs = [l for l in lm.layers]\nl.mlp.neu", ["l.mlp.neurons"]),
        ("lm.layers[0].mlp.neu", ["lm.layers[0].mlp.neurons"]),
        ('lm.get("model.layers.0.self', ['lm.get("model.layers.0.self_attn']),
        ("%nnl con", ["%nnl connect"]),
        ("%nnl use t", ["%nnl use tiny"]),
        ("%nnl code c", ["%nnl code clean"]),
        ("%nnl cancel ", ["%nnl cancel all"]),
    ],
)  # fmt: skip
def test_tab_offers(notebook: Any, text: str, offered: list[str]) -> None:
    notebook.names["second"] = notebook.names["lm"]
    notebook.ran(f"{LINE} --as clean -q\nh = lm.layers[0].output")
    notebook.ran("del run" if "run" in notebook.names else "pass")

    assert completed(notebook, text) == offered


def test_tab_runs_nothing(notebook: Any, tiny: nl.LanguageModel) -> None:
    assert tiny.card.layers, "measured before"
    calls: list[int] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: calls.append(1))
    texts = [
        f"{LINE}\nlm.layers[0].output.",
        "lm.layers[0].source.",
        "lm.logits.",
        "lm.layers[99].x",
    ]
    for text in (*texts, f"{LINE}\nlm.layers[0].attn."):
        completed(notebook, text)
    handle.remove()

    assert calls == []


def test_every_standard_name_of_a_layer_is_offered(notebook: Any) -> None:
    found = {each.rpartition(".")[2] for each in completed(notebook, "lm.layers[0].")}

    assert {"attn", "mlp", "input", "output", "self_attn"} <= found
    assert not any(name.startswith("_") for name in found)


@pytest.mark.parametrize("text", ["import os.pa", "x = 3\nx.bit_l", '%%trace lm "lm.la'])
def test_elsewhere_tab_is_the_notebooks_own(notebook: Any, text: str) -> None:
    notebook.ran("x = 3")
    found = completed(notebook, text)

    assert ("lm.layers" in str(found)) is False
    assert bool(found) is not text.startswith("%%")


@pytest.mark.parametrize("option", VALUED)
def test_only_what_an_option_takes_is_offered_after_it(tiny: nl.LanguageModel, option: str) -> None:
    offer = offered(f"{LINE} {option} ", "", {"lm": tiny}, True)

    assert offer is None or "lm" not in offer.words
    assert offered(f"{LINE} -q ", "", {"lm": tiny}, True) == (("lm",), "", "instance", True)


@pytest.mark.parametrize("text", ["\"it's ", "'l", '"a" "b\\" ', "{[lm, ", '"l'])
def test_nothing_of_ours_is_offered_in_a_prompt(tiny: nl.LanguageModel, text: str) -> None:
    assert offered(f"%%trace lm {text}", "", {"lm": tiny}, True) is None


def test_loading_the_extension_again_offers_once(notebook: Any) -> None:
    notebook.ran("%reload_ext nnsight_lab")

    assert completed(notebook, "%%trace lm --sh") == ["%%trace lm --show"]
