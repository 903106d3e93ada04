"""The patching tab without a browser: what it finds is what hooks give, and its code gives it again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, Cancelled
from nnsight_lab.jupyter.explorer import Sheet, Subject
from nnsight_lab.jupyter.explorer.alignment import aligned
from nnsight_lab.jupyter.explorer.patching import PatchingView
from tests.jupyter.conftest import Notebook

TARGET = "The capital of France is Paris. The capital of Italy is"
SOURCE = "The capital of Spain is Madrid. The capital of Japan is"
LONGER = "The capital of the country Spain is Madrid. The capital of Japan is"
"""More tokens than the target."""


def asked(view: PatchingView, **wanted: Any) -> Sheet:
    """What the view tells last."""
    return told(view, **wanted)[-1]


def told(view: PatchingView, **wanted: Any) -> list[Sheet]:
    """All that the view tells."""
    sheets: list[Sheet] = []
    view.ask(wanted, sheets.append)
    return sheets


def tops(sheet: Sheet, name: str) -> list[list[str]]:
    """The likeliest token at each layer and position."""
    return [
        [sheet.plain["words"][place] for place in row]
        for row in sheet.arrays[f"{name}_ids"][..., 0]
    ]


def place(module: Any, part: str, layer: int) -> Any:
    """The plain module of a part of a block."""
    block = module.model.layers[layer]
    return {"resid": block, "attn": block.self_attn, "mlp": block.mlp}[part]


def first(output: Any) -> torch.Tensor:
    """The tensor a module returned."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def lens_by_hooks(
    lm: nl.LanguageModel, ids: list[list[int]], *hooked: tuple[Any, Any]
) -> torch.Tensor:
    """Probabilities `[layer, batch, pos, vocab]` of the plain model with hooks that edit."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    stream: list[torch.Tensor] = []
    blocks = module.model.layers
    handles = [part.register_forward_hook(hook) for part, hook in hooked]
    handles.append(
        blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: stream.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    )
    handles += [
        block.register_forward_hook(lambda _, __, out: stream.append(first(out)))
        for block in blocks
    ]
    with torch.no_grad():
        logits = module(torch.tensor(ids)).logits
        for handle in handles:
            handle.remove()
        rows = [*(module.lm_head(module.model.norm(resid)) for resid in stream), logits]
        return torch.stack(rows).softmax(-1)


def patched_by_hooks(
    lm: nl.LanguageModel, source: str, part: str, taken: tuple[int, int], put: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lens of the target, and of the target with one place of the source, each run by itself."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    seen: list[torch.Tensor] = []
    see = (
        place(module, part, taken[0]),
        lambda _, __, out: seen.append(first(out)[0, taken[1]].clone()),
    )
    lens_by_hooks(lm, [list(lm.tokenize(source).rows[0])], see)

    def write(_: Any, __: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[0, put[1]] = seen[0]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    ids = [list(lm.tokenize(TARGET).rows[0])]
    edited = lens_by_hooks(lm, ids, (place(module, part, put[0]), write))
    return lens_by_hooks(lm, ids)[:, 0], edited[:, 0]


@pytest.mark.parametrize("part", ["resid", "attn", "mlp"])
@pytest.mark.parametrize(
    ("source", "taken", "put"),
    [
        (SOURCE, (2, 4), (2, 4)),
        (SOURCE, (1, 11), (3, 4)),
        (SOURCE, (4, 4), (1, 6)),
        (LONGER, (2, 6), (2, 4)),
    ],
)
def test_a_patch_is_what_hooks_give(
    tiny: nl.LanguageModel, part: str, source: str, taken: tuple[int, int], put: tuple[int, int]
) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    sheet = asked(view, source=source, part=part, **{"from": list(taken), "to": list(put)})
    target, patched = patched_by_hooks(tiny, source, part, taken, put)

    for name, spread in (("target", target), ("patched", patched)):
        values = spread.topk(3).values
        torch.testing.assert_close(
            torch.from_numpy(sheet.arrays[f"{name}_chances"]), values, atol=2e-5, rtol=1e-4
        )
        sure = (values[..., 0] - values[..., 1] > 1e-4).tolist()
        best = spread.argmax(-1).tolist()
        for seen, ids, known in zip(tops(sheet, name), best, sure, strict=True):
            expected = [tiny.token_string(id) for id in ids]
            assert all(a == b for a, b, sure in zip(seen, expected, known, strict=True) if sure)
    change = (patched - target).abs().sum(-1) / 2
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["change"]), change, atol=2e-5, rtol=1e-3
    )
    assert change.max() > 1e-3


@pytest.mark.parametrize("backwards", [False, True])
def test_a_patch_is_exactly_hooks_on_the_same_rows(tiny: nl.LanguageModel, backwards: bool) -> None:
    module: Any = tiny.executor.module  # type: ignore[attr-defined]
    ids, other = (list(tiny.tokenize(prompt).rows[0]) for prompt in (TARGET, SOURCE))
    taken, put = ((4, 4), (2, 4)) if backwards else ((2, 4), (4, 4))
    rows = [ids, ids] if backwards else [other, ids, ids]
    seen: list[torch.Tensor] = []

    def see(_: Any, __: Any, output: Any) -> None:
        seen.append(first(output)[0, taken[1]].clone())

    def write(_: Any, __: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[-1, put[1]] = seen[0]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    edits = [(place(module, "resid", taken[0]), see), (place(module, "resid", put[0]), write)]
    if backwards:
        lens_by_hooks(tiny, [other], edits.pop(0))
    by_hand = lens_by_hooks(tiny, rows, *edits)
    sheet = asked(PatchingView(Subject(tiny, TARGET)), source=SOURCE, **{"from": taken, "to": put})

    change = (by_hand[:, -1] - by_hand[:, -2]).abs().sum(-1) / 2
    assert torch.equal(
        torch.from_numpy(sheet.arrays["patched_chances"]), by_hand[:, -1].topk(3).values
    )
    assert torch.equal(torch.from_numpy(sheet.arrays["change"]), change)
    assert change.max() > 1e-2


@pytest.mark.parametrize(
    ("taken", "put"), [((2, 4), (2, 4)), ((1, 3), (4, 7)), ((5, 12), (0, 5)), ((-1, 4), (-1, 4))]
)
@pytest.mark.parametrize("source", [SOURCE, LONGER])
def test_only_the_causal_cone_changes(
    tiny: nl.LanguageModel, source: str, taken: tuple[int, int], put: tuple[int, int]
) -> None:
    sheet = asked(PatchingView(Subject(tiny, TARGET)), source=source, **{"from": taken, "to": put})
    change = sheet.arrays["change"].copy()
    layer, position = put

    inside = change[layer + 1 :, position:]
    assert inside.max() > 1e-3
    inside[:] = 0
    assert change.max() == 0


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (SOURCE, {"from": [2, 4], "to": [2, 4]}),
        (SOURCE, {"from": [1, 11], "to": [3, 4], "part": "mlp"}),
        (LONGER, {"from": [0, 6], "to": [2, 4], "part": "attn"}),
        (SOURCE, {"from": [4, 4], "to": [1, 4]}),
        (LONGER, {"from": [-1, 6], "to": [-1, 4]}),
        (SOURCE, {}),
        ("", {}),
    ],
)
def test_the_code_gives_the_same_bits(
    notebook: Notebook, tiny: nl.LanguageModel, source: str, more: dict[str, Any]
) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    sheet = asked(view, source=source, **more)
    code = view.code({"source": source, **more})
    notebook.ran(code)
    names, arrays = notebook.names, sheet.arrays

    assert code.startswith("%%trace lm -s ") == (more.get("from", [0])[0] <= more.get("to", [0])[0])
    kinds = ["target", "patched"] if more else ["target"]
    assert names["patched_probabilities"].shape[0] == len(kinds)
    for found, kind in zip(names["patched_probabilities"], kinds, strict=True):
        assert torch.equal(found, torch.from_numpy(arrays[f"{kind}_chances"]))
    if source:
        assert torch.equal(
            names["source_probabilities"][0], torch.from_numpy(arrays["source_chances"])
        )
    if more:
        assert torch.equal(names["patched_change"], torch.from_numpy(arrays["change"]))
        assert list(notebook.names["run"]).count("patched_change") == 1


def test_the_code_of_prompts_with_quotes_and_of_another_name(
    notebook: Notebook, tiny: nl.LanguageModel
) -> None:
    notebook.names["gpt"] = notebook.names.pop("lm")
    source = 'He said "it\'s in the film lm.x {y}" $z '
    wanted = {"source": source, "from": [1, 2], "to": [2, 2]}
    view = PatchingView(Subject(tiny, "A film. lm.x is", name="gpt"))
    notebook.ran(view.code(wanted))

    assert torch.equal(
        notebook.names["patched_change"], torch.from_numpy(asked(view, **wanted).arrays["change"])
    )


def metric_by_hooks(lm: nl.LanguageModel, metric: str, layer: int, position: int) -> float:
    """The metric of the target's last token, with the source's residual at one place."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    source, target = (torch.tensor(lm.tokenize(prompt).rows) for prompt in (SOURCE, TARGET))
    block, seen = module.model.layers[layer], list[torch.Tensor]()
    tokyo, rome = (
        lm.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Tokyo", " Rome")
    )

    def write(_: Any, __: Any, output: Any) -> Any:
        changed = first(output).clone()
        changed[0, position] = seen[0]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with torch.no_grad():
        handle = block.register_forward_hook(
            lambda _, __, out: seen.append(first(out)[0, position])
        )
        module(source)
        handle.remove()
        handle = block.register_forward_hook(write)
        logits = module(target).logits[0, -1]
        handle.remove()
    if metric == "probability":
        return float(logits.softmax(-1)[tokyo])
    return float(logits[tokyo] - logits[rome])


@pytest.mark.parametrize("metric", ["difference", "probability"])
def test_the_map_is_what_hooks_give_place_by_place(tiny: nl.LanguageModel, metric: str) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    sheets = told(view, source=SOURCE, map=True, metric=metric, answer=" Tokyo", other=" Rome")
    found = sheets[-1].arrays["map"]

    assert [sheet.part for sheet in sheets] == [True] * (tiny.card.layers + 1) + [False]
    assert [sheet.plain["done"] for sheet in sheets[:-1]] == list(range(tiny.card.layers + 1))
    assert found.shape == (tiny.card.layers, len(view.subject.ids))
    for layer, position in ((0, 4), (3, 11), (5, 12), (2, 7)):
        assert found[layer, position] == pytest.approx(
            metric_by_hooks(tiny, metric, layer, position), abs=1e-4
        )
    assert abs(found - sheets[-1].plain["corrupt"]).max() > 0.05


def test_the_map_of_prompts_of_two_lengths_has_gaps(tiny: nl.LanguageModel) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    sheet = asked(view, source=LONGER, map=True, answer=" Tokyo", other=" Rome")
    gaps = [column for column, pair in enumerate(sheet.plain["pairs"]) if min(pair) < 0]

    assert gaps
    assert {
        column
        for column in range(len(sheet.plain["pairs"]))
        if torch.from_numpy(sheet.arrays["map"])[:, column].isnan().all()
    } == set(gaps)
    assert (
        not torch.from_numpy(sheet.arrays["map"])[
            :, [c for c in range(len(sheet.plain["pairs"])) if c not in gaps]
        ]
        .isnan()
        .any()
    )


@pytest.mark.parametrize("source", [SOURCE, LONGER])
@pytest.mark.parametrize("metric", ["difference", "probability"])
def test_the_code_of_the_map_gives_the_same_bits(
    notebook: Notebook, tiny: nl.LanguageModel, source: str, metric: str
) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    wanted = {
        "source": source,
        "map": True,
        "metric": metric,
        "answer": " Tokyo",
        "other": "",
        "part": "mlp",
    }
    sheet = asked(view, **wanted)
    notebook.ran(view.code(wanted))
    shown = torch.from_numpy(sheet.arrays["map"])
    shown = shown[:, ~shown[0].isnan()]

    assert torch.equal(notebook.names["patching"].patched, shown)
    figure = view.figure(wanted)
    assert torch.allclose(torch.tensor(figure.data[0].z), notebook.names["patching"].effect)


def test_a_map_that_is_not_wanted_any_more_stops(tiny: nl.LanguageModel) -> None:
    runs: list[Sheet] = []

    def tell(sheet: Sheet) -> None:
        runs.append(sheet)
        if len(runs) == 3:
            raise Cancelled("Something else was wanted.")

    with pytest.raises(Cancelled):
        PatchingView(Subject(tiny, TARGET)).ask({"source": SOURCE, "map": True}, tell)
    assert [sheet.plain["done"] for sheet in runs] == [0, 1, 2]


def test_the_answers_are_what_each_prompt_says(tiny: nl.LanguageModel) -> None:
    sheet = asked(PatchingView(Subject(tiny, TARGET)), source=SOURCE, map=True)

    assert sheet.plain["answer"] == tops(sheet, "source")[-1][-1]
    assert sheet.plain["other"] == tops(sheet, "target")[-1][-1]
    assert sheet.plain["clean"] > sheet.plain["corrupt"]


def test_prompts_are_aligned_by_token() -> None:
    assert aligned([1, 2, 3], [1, 2, 3]) == [(0, 0), (1, 1), (2, 2)]
    assert aligned([1, 9, 3], [1, 2, 3]) == [(0, 0), (1, 1), (2, 2)]
    # A name of one token beside a name of three: the last of them belong together.
    assert aligned([1, 9, 3], [1, 5, 6, 7, 3]) == [(0, 0), (-1, 1), (-1, 2), (1, 3), (2, 4)]
    assert aligned([1, 2, 3, 4], [1, 4]) == [(0, 0), (1, -1), (2, -1), (3, 1)]
    assert aligned([], [1]) == [(-1, 0)]


def test_what_cannot_be_patched(tiny: nl.LanguageModel) -> None:
    view = PatchingView(Subject(tiny, TARGET))
    for wanted, said in (
        ({"part": "heads"}, "no part 'heads'"),
        ({"source": SOURCE, "from": [6, 0], "to": [0, 0]}, "layer 6"),
        ({"source": SOURCE, "from": [0, 0], "to": [0, 40]}, "position 40"),
        ({"source": SOURCE, "from": [-1, 0], "to": [0, 0], "part": "mlp"}, "layer -1"),
        ({"map": True}, "no source prompt"),
        ({"source": TARGET, "map": True}, "there is no difference"),
        ({"source": SOURCE, "map": True, "answer": "two words"}, "not one token"),
    ):
        with pytest.raises(BadInput, match=said):
            asked(view, **wanted)


def test_a_run_with_edits_says_why_it_cannot_be_patched(tiny: nl.LanguageModel) -> None:
    with tiny.trace(TARGET) as tracer:
        tiny.layers[1].output[:, 0] = 0
    assert "without edits" in PatchingView(Subject(tracer.run)).missing
    assert PatchingView(Subject(tiny, TARGET)).missing == ""


def test_one_request_for_a_patch(tiny: nl.LanguageModel) -> None:
    from nnsight_lab.models.under_way import watching

    begun: list[Any] = []
    view = PatchingView(Subject(tiny, TARGET))
    for put in ([4, 4], [1, 4]):  # forwards, and backwards through a session
        with watching(lambda run, event: begun.append(run) if event is None else None):
            asked(view, source=SOURCE, **{"from": [2, 4], "to": put})
        assert len(begun) == 1
        begun.clear()


def test_figures_of_a_patch(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, TARGET)
    wanted = {"source": SOURCE, "from": [2, 4], "to": [2, 4]}
    figure = explorer.figure("patching", **wanted)
    sheet = asked(PatchingView(Subject(tiny, TARGET)), **wanted)

    assert torch.equal(torch.tensor(figure.data[0].z), torch.from_numpy(sheet.arrays["change"]))
    assert figure.data[0].text[-1][-1] == tops(sheet, "patched")[-1][-1]
    assert "source's layer 2" in figure.layout.title.text
