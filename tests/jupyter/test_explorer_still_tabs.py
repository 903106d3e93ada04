"""What is read of each tab without a kernel: what hooks give, in few bytes, and nothing runs for it."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.jupyter.explorer import VIEWS, Autoencoder, Sheet, Subject
from nnsight_lab.jupyter.explorer.still import Quiet, Still
from nnsight_lab.jupyter.explorer.still_parts import thinned, window
from nnsight_lab.jupyter.static import colour
from tests.support.explored import head_scores, patterns_of, plain, stream_seen
from tests.support.html_tree import Element, parsed

PROMPT = "The capital of France is Paris. The capital of Italy is"
SOURCE = "The capital of Spain is Madrid. The capital of Japan is"
HARD = 'a {x} $y$ <script>alert("no")</script> <b>&amp; 🙂 "quoted" ends '
LONG = (PROMPT + " ") * 20
VIEW = {view.name: view for view in VIEWS}
ASKED: dict[str, dict[str, Any]] = {
    "tokens": {},
    "lens": {"targets": [" Rome", " Paris"]},
    "attention": {"layer": 3, "head": 1},
    "patching": {"source": SOURCE, "map": True, "answer": " Tokyo", "other": " Rome"},
    "steering": {"layer": 3, "strength": 2, "toward": ["I love it"], "away": ["I hate it"]},
    "norms": {"direction": "token", "of": " Rome", "skip": 1},
    "features": {"token": 4},
}


def subject_of(lm: nl.LanguageModel, prompt: str = PROMPT) -> Subject:
    made = torch.Generator().manual_seed(1)
    sae = {
        "W_enc": torch.randn(128, 96, generator=made) / 10,
        "b_enc": torch.zeros(96) - 0.1,
        "W_dec": torch.randn(96, 128, generator=made),
        "b_dec": torch.zeros(128),
    }
    return Subject(lm, prompt, sae=Autoencoder(sae, 3))


def told(subject: Subject, tab: str, **wanted: Any) -> list[Sheet]:
    sheets: list[Sheet] = []
    VIEW[tab](subject).ask(wanted, sheets.append)
    return sheets


def seen(lm: nl.LanguageModel, tab: str, prompt: str = PROMPT, **wanted: Any) -> tuple[str, str]:
    """What is read after a tab was opened, and has told all it had to tell."""
    subject, wanted = subject_of(lm, prompt), ASKED[tab] | wanted
    still = Still(subject, "title")
    still.open(tab)
    for sheet in told(subject, tab, **wanted):
        still.learn(tab, wanted, sheet, job=1)
    return still.drawn()


def numbers(page: Element, table: int = 0, name: str = "small") -> list[list[float]]:
    """The numbers of a table, its last row (the first layer) first."""
    rows = page.every("table")[table].every("tr")[1:]
    return [[float(cell.text) for cell in row.every(name)] for row in rows][::-1]


def lens_by_hand(lm: nl.LanguageModel) -> tuple[list[int], torch.Tensor]:
    """Probabilities `[layer, pos, vocab]` by hooks on the plain model."""
    module, ids = plain(lm), list(lm.tokenize(PROMPT).rows[0])
    stream = stream_seen(lm, ids, module.model.layers)
    with torch.no_grad():
        rows = [*(module.lm_head(module.model.norm(resid)) for resid in stream)]
        return ids, torch.stack([*rows, module(torch.tensor([ids])).logits[0]]).softmax(-1)


def test_the_lens_is_that_of_hooks(tiny: nl.LanguageModel) -> None:
    page = parsed(seen(tiny, "lens")[0])
    ids, spread = lens_by_hand(tiny)
    best = spread.max(-1)
    rows = page.every("table")[0].every("tr")

    assert [cell.text for cell in rows[0].every("th")][1:] == [
        tiny.token_string(id).replace(" ", "·") for id in ids
    ]
    assert rows[1].every("th")[0].text == "output"
    assert numbers(page) == [pytest.approx(row, abs=6e-4) for row in best.values.tolist()]
    for row, found in zip(rows[:0:-1], best.indices.tolist(), strict=True):
        for cell, id in zip(row.every("td"), found, strict=True):
            word = tiny.token_string(id).replace(" ", "·").replace("\n", "↵")
            shown = cell.attributes.get("title") or cell.text[: -len("0.000")]
            assert shown == word
    rome = tiny.tokenizer.encode(" Rome", add_special_tokens=False)[0]
    assert f"·Rome {spread[-1, -1, rome]:.4f}" in page.text


def test_norms_and_cosines_are_those_of_hooks(tiny: nl.LanguageModel) -> None:
    page = parsed(seen(tiny, "norms")[0])
    ids, module = list(tiny.tokenize(PROMPT).rows[0]), plain(tiny)
    stream = stream_seen(tiny, ids, module.model.layers)
    rome = tiny.tokenizer.encode(" Rome", add_special_tokens=False)[0]
    cosines = torch.cosine_similarity(stream, module.lm_head.weight[rome].detach(), dim=-1)

    assert numbers(page, 0, "td") == [pytest.approx(row, abs=6e-4) for row in cosines.tolist()]
    assert numbers(page, 1, "td") == [
        pytest.approx(row, rel=6e-4) for row in stream.norm(dim=-1).tolist()
    ]
    plane = base64.b64decode(page.every("img")[0].attributes["src"].partition(",")[2]).decode()
    assert plane.count("<circle") == len(ids) - 1


def patched_by_hand(lm: nl.LanguageModel, layer: int, at: int) -> tuple[float, float]:
    """The logit difference of the target, patched at one place and not, by hooks."""
    module: Any = plain(lm)
    held: list[torch.Tensor] = []
    pair = [lm.tokenizer.encode(word, add_special_tokens=False)[0] for word in (" Tokyo", " Rome")]

    def write(_: Any, __: Any, out: Any) -> Any:
        new = (out[0] if isinstance(out, tuple) else out).clone()
        new[0, at] = held[0]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    block = module.model.layers[layer]
    target = torch.tensor(lm.tokenize(PROMPT).rows)
    with torch.no_grad():
        handle = block.register_forward_hook(
            lambda _, __, out: held.append((out[0] if isinstance(out, tuple) else out)[0, at])
        )
        module(torch.tensor(lm.tokenize(SOURCE).rows))
        handle.remove()
        before = module(target).logits[0, -1, pair]
        handle = block.register_forward_hook(write)
        after = module(target).logits[0, -1, pair]
        handle.remove()
    return float(before[0] - before[1]), float(after[0] - after[1])


@pytest.mark.parametrize(("layer", "at"), [(1, 11), (4, 12), (2, 5)])
def test_the_map_is_that_of_hooks(tiny: nl.LanguageModel, layer: int, at: int) -> None:
    page = parsed(seen(tiny, "patching")[0])
    before, after = patched_by_hand(tiny, layer, at)

    assert numbers(page, 0, "td")[layer][at] == pytest.approx(after - before, abs=2e-3)
    assert f"target {before:.3f}" in page.text
    assert abs(after - before) > 0.01


def test_a_map_is_shown_as_far_as_it_is_filled(tiny: nl.LanguageModel) -> None:
    subject, wanted = subject_of(tiny), ASKED["patching"]
    still = Still(subject, "title")
    still.open("patching")
    sheets = told(subject, "patching", **wanted)
    whole = numbers(parsed(seen(tiny, "patching")[0]), 0, "td")
    still.learn("patching", wanted, sheets[0], job=3)
    assert "no row yet" in still.drawn()[0]
    for sheet in sheets[1:4]:
        still.learn("patching", wanted, sheet, job=3)
    page = parsed(still.drawn()[0])
    cells = page.every("table")[0].every("tr")[1:][::-1]

    assert "3 of 6 layers were done" in page.text
    assert [[float(cell.text) for cell in row.every("td")] for row in cells[:3]] == whole[:3]
    assert {cell.text for row in cells[3:] for cell in row.every("td")} == {""}


def test_one_patched_place_is_shown(tiny: nl.LanguageModel) -> None:
    wanted: dict[str, Any] = {"map": False, "from": [3, 5], "to": [3, 5]}
    subject = subject_of(tiny)
    sheet = told(subject, "patching", **ASKED["patching"] | wanted)[-1]
    page = parsed(seen(tiny, "patching", **wanted)[0])

    assert "Residual stream of the source's layer 3, position 5" in page.text
    assert numbers(page) == [
        pytest.approx(row, abs=6e-4) for row in sheet.arrays["change"].tolist()
    ]
    assert sheet.arrays["change"].max() > 0.1


def test_the_patterns_are_those_of_the_model(tiny: nl.LanguageModel) -> None:
    page = parsed(seen(tiny, "attention")[0])
    ids = list(tiny.tokenize(PROMPT).rows[0])
    pattern = patterns_of(tiny, ids)[3]
    images = page.every("img")
    svg = base64.b64decode(images[0].attributes["src"].partition(",")[2]).decode()
    scores = re.findall(
        r"(?:entropy|previous|induction|first) (\d\.\d{3})", page.text.partition("Scores:")[2]
    )
    assert [*map(float, scores)] == pytest.approx(
        [kind[1] for kind in head_scores(pattern, ids)], abs=1e-3
    )
    assert len(images) == 1 + 6
    for weight in (pattern[1, 4, 0], pattern[1, 12, 11], pattern[1, 7, 7]):
        level = round(float(weight.sqrt()) * 40)
        assert f'fill="{colour(level / 40)[0]}"' in svg
    assert "·capital" in svg


def test_both_texts_are_read(tiny: nl.LanguageModel) -> None:
    html, text = seen(tiny, "steering")
    sheet = told(subject_of(tiny), "steering", **ASKED["steering"])[-1]
    page = parsed(html)
    lines = text.splitlines()

    for side, head in enumerate(("As it is:", "Steered by 2:")):
        words = [word.replace(" ", "·") for word in sheet.plain["words"][side]]
        along = sheet.arrays["along"][side]
        said = " ".join(f"{word} {number:.3f}" for word, number in zip(words, along, strict=False))
        assert lines[lines.index(head) + 1] == said
    assert sheet.plain["words"][0] != sheet.plain["words"][1]
    assert "'I love it' and 'I hate it'" in page.text


def test_features_are_those_of_the_autoencoder(tiny: nl.LanguageModel) -> None:
    page = parsed(seen(tiny, "features")[0])
    subject = subject_of(tiny)
    ids = list(tiny.tokenize(PROMPT).rows[0])
    resid = stream_seen(tiny, ids, plain(tiny).model.layers)[4]
    sae: Any = subject.sae
    found = torch.relu(resid @ sae.module["W_enc"] + sae.module["b_enc"])
    value, feature = found[4].max(-1)

    assert f"Most active: {feature} ({value:.3f})" in page.text
    assert [float(each.text) for each in page.every("small")] == pytest.approx(
        found[:, feature].tolist(), abs=2e-3
    )


@pytest.mark.parametrize("prompt", [PROMPT, LONG, HARD, HARD * 7], ids=["short", "long", "hard", "hard-long"])  # fmt: skip
@pytest.mark.parametrize("tab", VIEW)
def test_it_is_small_and_escaped(tiny: nl.LanguageModel, tab: str, prompt: str) -> None:
    html, text = seen(tiny, tab, prompt)
    page = parsed(html)

    assert len(json.dumps([html, text], ensure_ascii=False).encode()) < 40_000
    assert not page.every("script")
    assert not page.every("b")
    assert "Run the cell again" in page.text
    assert TITLES[tab] in page.text
    if prompt == LONG and tab in {"lens", "norms"}:
        count = len(subject_of(tiny, prompt).tokens)
        shown, said = re.findall(rf"(\d+) of {count} positions: \d+ to (\d+)", page.text)[0]
        assert int(said) == count - 1  # the chosen one is among them
        assert len(page.every("table")[0].every("tr")[0].every("th")) == int(shown) + 1
        assert int(shown) > 8


TITLES = {
    "tokens": "Likeliest next",
    "lens": "Lens: the likeliest",
    "attention": "All heads",
    "patching": "What the source's residual stream changes",
    "steering": "Steered by 2",
    "norms": "Norm of the residual stream",
    "features": "Most active",
}


def test_nothing_runs_for_it(tiny: nl.LanguageModel) -> None:
    subject = subject_of(tiny)
    still, calls = Still(subject, "title"), list[int]()
    for tab, wanted in ASKED.items():
        for sheet in told(subject, tab, **wanted):
            still.learn(tab, wanted, sheet)
    handle = plain(tiny).register_forward_pre_hook(lambda *_: calls.append(1))
    drawn = set()
    for tab in ASKED:
        still.open(tab)
        drawn.add(still.drawn())
    told(subject, "tokens")
    handle.remove()

    assert len(drawn) == len(ASKED)
    assert len(calls) == 1


def test_the_tab_in_front_is_shown_once_it_has_something(tiny: nl.LanguageModel) -> None:
    subject = subject_of(tiny)
    still = Still(subject, "title", {"token": 3})
    for tab in ("tokens", "norms"):
        still.open(tab)
        still.learn(tab, ASKED[tab], told(subject, tab, **ASKED[tab])[-1])
    still.open("lens")
    assert "Norm of the" in still.drawn()[0]
    still.learn("lens", ASKED["lens"], told(subject, "lens", **ASKED["lens"])[-1])
    assert "after position 3 ·of" in still.drawn()[0]
    still.open("tokens")
    assert "surprisal" in still.drawn()[0]


def test_an_older_job_changes_nothing(tiny: nl.LanguageModel) -> None:
    subject = subject_of(tiny)
    still = Still(subject, "title")
    still.open("norms")
    new, old = (told(subject, "norms", **wanted)[-1] for wanted in (ASKED["norms"], {}))
    still.learn("norms", {}, new, job=5)
    still.learn("norms", {}, old, job=4)

    assert "Cosine" in still.drawn()[0]


def test_what_cannot_be_drawn_leaves_the_tokens(tiny: nl.LanguageModel) -> None:
    still = Still(subject_of(tiny), "title")
    still.open("lens")
    still.learn("lens", {}, Sheet({}, {}))

    assert "·capital" in still.drawn()[0]


def test_it_is_done_once_when_nobody_asks_any_more() -> None:
    done: list[float] = []
    ended = threading.Event()

    def do() -> None:
        done.append(time.monotonic())
        ended.set()

    quiet = Quiet(do, moment=0.2)
    for _ in range(5):
        quiet.soon()
        last = time.monotonic()
        time.sleep(0.02)
    assert ended.wait(5)
    time.sleep(0.3)
    quiet.soon()
    quiet.cancel()
    time.sleep(0.3)

    assert len(done) == 1
    assert done[0] - last > 0.19


@pytest.mark.parametrize("count", [1, 2, 26, 27, 82, 200])
def test_of_many_layers_some_are_shown_the_first_and_the_last_among_them(count: int) -> None:
    rows, said = thinned(count)

    assert {0, count - 1} <= set(rows) <= set(range(count))
    assert len(rows) == len(set(rows)) <= 27
    assert said == (f"One layer in {-(-count // 26)}." if count > 26 else "")


@pytest.mark.parametrize(("count", "most", "token"), [(9, 9, 3), (90, 10, 3), (90, 10, 50), (90, 10, 89)])  # fmt: skip
def test_the_chosen_position_is_among_those_shown(count: int, most: int, token: int) -> None:
    shown = window(count, most, token)

    assert token in shown
    assert len(shown) == most
    assert set(shown) <= set(range(count))
