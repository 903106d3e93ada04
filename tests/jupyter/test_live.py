"""Live views as the kernel tells them: whose runs they follow, what their tokens are, what is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import nnsight_lab as nl
from nnsight_lab.contract import Token
from nnsight_lab.errors import Cancelled
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.jupyter.live.following import following
from nnsight_lab.jupyter.live.moving import Moving
from nnsight_lab.jupyter.live.pictures import draw
from nnsight_lab.jupyter.live.view import LiveView
from nnsight_lab.jupyter.run_log import RunLog
from nnsight_lab.models.under_way import RunUnderWay, watching
from tests.jupyter.conftest import Notebook
from tests.server.lab_server import (
    TOKEN,
    GatedEngine,
    Run,
    reads,
    request_for,
    serving,
    tiny_engine,
)
from tests.support.waiting import wait_until

Told = list[tuple[str, dict[str, Any]]]
STEPS = 12


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[LiveView]:
    """The live views that are made from now on, oldest first."""
    made: list[LiveView] = []
    init = LiveView.__init__

    def noted(self: LiveView, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        made.append(self)

    monkeypatch.setattr(LiveView, "__init__", noted)
    return made


@pytest.fixture(autouse=True)
def imported(notebook: Notebook) -> None:
    """What the first cell of a notebook imports."""
    notebook.names["nl"] = nl


def told(view: LiveView) -> Told:
    """What a view that mounts now would be told."""
    kept = view.channel._told.values()
    return [(message["kind"], message["content"]) for message, _ in kept]


def chips(view: LiveView) -> list[str]:
    """The tokens of its first row."""
    return [content["texts"][0] for kind, content in told(view) if kind == "token"]


def state(view: LiveView) -> str:
    (last,) = [content["word"] for kind, content in told(view) if kind == "state"]
    return str(last)


def press_cancel(view: LiveView) -> None:
    view.channel._take(None, {"kind": "cancel", "content": {}}, [])


def write(view: LiveView) -> str:
    """The text that a reader without a kernel sees."""
    return view._fallback()[1]


def generation(words: str, line: str, tokens: int = STEPS) -> str:
    """A cell that writes so many tokens and has a plot of each step."""
    return (
        f"%%trace lm {words!r} -g {tokens} {line}\n"
        "for _ in tracer.iter[:]:\n"
        '    nl.live_plot(lm.layers[2].output[:, -1].norm(), "norm")'
    )


class Beside:
    """Begins a generation on another thread, once a run on this one has sampled three tokens."""

    def __init__(self, lm: nl.LanguageModel, begun: Callable[[], None] = lambda: None) -> None:
        self._lm = lm
        self._begun = begun
        self._here = threading.get_ident()
        self._there = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self.run: nl.Run | None = None

    def _go(self) -> None:
        with self._lm.generate("Two", max_new_tokens=2, eos_token_id=[]) as tracer:
            tracer.result.save()
        self.run = tracer.run

    def watch(self, run: RunUnderWay, event: Any) -> None:
        if run.thread != self._here:
            self._there.set()
        elif isinstance(event, Token) and event.step == 2:
            self._thread.start()
            assert self._there.wait(20)
            self._begun()

    def end(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.run is not None


def test_a_view_stays_with_the_run_of_its_cell(
    notebook: Notebook, tiny: nl.LanguageModel, views: list[LiveView]
) -> None:
    beside = Beside(tiny)
    with watching(beside.watch):
        notebook.ran(generation("One", "--live -q --as one"))
        beside.end()

    (view,) = views
    words = [tiny.token_string(ids[0]) for ids in notebook.names["one"].tokens]
    assert len(words) == STEPS
    assert chips(view) == words
    assert state(view) == "done"


def test_cancel_ends_the_run_of_its_cell_and_no_other(
    notebook: Notebook, tiny: nl.LanguageModel, views: list[LiveView]
) -> None:
    beside = Beside(tiny, lambda: press_cancel(views[0]))
    with watching(beside.watch):
        cell = notebook.cell(generation("One", "--live -q"))
        beside.end()

    assert isinstance(cell.error, Cancelled)
    assert state(views[0]) == "failed"
    assert len(chips(views[0])) < STEPS
    assert beside.run is not None
    assert len(beside.run.tokens) == 2


def test_two_cells_in_the_background_have_a_view_each(
    notebook: Notebook, tiny: nl.LanguageModel, views: list[LiveView]
) -> None:
    for name in ("One", "Two", "Three"):
        notebook.ran(generation(name, f"--live --bg -q --as {name.lower()}"))
    press_cancel(views[2])
    runs = [notebook.names[name] for name in ("one", "two")]
    for run, view in zip(runs, views, strict=False):
        run.wait(30)
        assert chips(view) == [tiny.token_string(ids[0]) for ids in run.tokens]
        assert len(chips(view)) > 3
        assert state(view) == "done"
    with pytest.raises(Cancelled):
        notebook.names["three"].wait(30)
    assert chips(views[0]) != chips(views[1])
    assert state(views[2]) == "failed"

    notebook.ran(generation("Four", "-q").replace("nl.live_plot", "nl.show"))
    assert chips(views[0]) == [tiny.token_string(ids[0]) for ids in runs[0].tokens]
    assert len(views) == 3


def test_cancel_that_is_pressed_before_the_run_has_begun_ends_it(tiny: nl.LanguageModel) -> None:
    with pytest.raises(Cancelled), following(tiny) as view:
        press_cancel(view)
        with tiny.generate("One", max_new_tokens=STEPS) as tracer:
            tracer.result.save()

    assert chips(view) == []
    assert state(view) == "failed"


def points(view: LiveView) -> int:
    return sum(kind == "point" for kind, _ in told(view))


def test_plots_of_a_background_cell_are_drawn(notebook: Notebook, views: list[LiveView]) -> None:
    notebook.ran(generation("One", "--bg -q --as one"))
    run = notebook.names["one"].wait(30)

    (view,) = views
    assert points(view) == STEPS
    assert len(run.tokens) == STEPS - 1
    assert state(view) == "done"


def test_plots_of_another_model_are_drawn_beside_an_open_view(
    notebook: Notebook, views: list[LiveView]
) -> None:
    go_on = threading.Event()

    @nl.local_fn
    def held(value: Any) -> Any:
        assert go_on.wait(30)
        return value

    notebook.names.update(held=held, other=nl.LanguageModel("tiny"))
    notebook.ran("%%trace lm 'a' --live --bg -q --as first\nh = held(lm.logits[:, -1])")
    notebook.ran(generation("One", "-q --as second").replace("lm", "other"))
    assert not notebook.names["first"].done
    go_on.set()
    notebook.names["first"].wait(30)

    assert [points(view) for view in views] == [0, STEPS]
    assert [state(view) for view in views] == ["done", "done"]


SLID = """with lm.generate("One", max_new_tokens=3, eos_token_id=[]) as tracer:
    strength = nl.slider("strength", 0, 8)
    lm.layers[2].output[:, -1] += strength
    for _ in tracer.iter[:]:
        logits = lm.logits[:, -1].save()
        nl.live_plot(logits.max(), "most")
moved = tracer.run"""


def test_runs_that_a_hand_makes_are_no_rows_and_draw_in_their_own_view(
    notebook: Notebook, tiny: nl.LanguageModel, views: list[LiveView]
) -> None:
    log = RunLog(lambda: ("cell", "execution"), lambda: None)
    notebook.ran(SLID)
    moving = Moving(notebook.names["moved"])
    before, made = moving.run["logits"], len(views)
    with watching(log.watch):
        moving._move("strength", 8.0, (1, "a hand"))
        assert moving.latest.wait(30)
        assert log.rows()[1] == []
        notebook.ran("with lm.trace('a'):\n    x = lm.logits.save()")
    assert [row["prompt"] for row in log.rows()[1]] == ["a"]
    assert not torch.equal(moving.run["logits"], before)
    assert len(views) == made

    (last,) = [content for kind, content in told(moving.view) if kind == "state"]
    assert (last["at"], last["move"]) == ({"strength": 8.0}, [1, "a hand"])


def test_the_run_of_an_explorers_tab_is_no_row(tiny: nl.LanguageModel) -> None:
    from nnsight_lab.jupyter.explorer.work import Work

    log = RunLog(lambda: ("cell", "execution"), lambda: None)
    ended = threading.Event()
    found: list[Any] = []

    def do(job: Any) -> None:
        with tiny.trace("a") as tracer:
            tiny.logits.save()
        found.append(tracer.run)

    with watching(log.watch):
        Work().begin(1, do, lambda job, error: ended.set())
        assert ended.wait(30)
    assert len(found) == 1
    assert log.rows()[1] == []


def test_all_tokens_are_sampled_and_nothing_more_is_listed(notebook: Notebook) -> None:
    cell = notebook.ran("%%trace lm 'One' -g 5 --live --as one\nh = lm.layers[1].output[:, -1]")
    run = notebook.names["one"]

    assert len(run.tokens) == 5
    assert list(run) == ["h"]
    assert "saved h (512 B)" in cell.text
    assert "needed" not in repr(run) + cell.text


# Tokens as text

PIECES = ["<unk>", "<s>", "</s>", "▁the", "▁a", "the", "A", "<0x41>"]
PIECES += ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]


@pytest.fixture(scope="module")
def pieces(tiny: nl.LanguageModel) -> nl.LanguageModel:
    """The bundled model with a vocabulary of pieces, where a space is `▁` and bytes are tokens."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return nl.LanguageModel(tiny.module, tokenizer=fast)


def test_spaces_and_parts_of_characters_are_seen(
    notebook: Notebook, pieces: nl.LanguageModel, views: list[LiveView]
) -> None:
    ids = [3, 4, 5, 8, 9, 10, 11]
    notebook.names.update(pieces=pieces, ids=ids)
    notebook.ran(
        "%%trace pieces {[[3]]} --live -q -g 7 --as written\n"
        "for step, id in zip(tracer.iter[:], ids):\n"
        "    pieces.tokens[:] = id"
    )
    assert [row[0] for row in notebook.names["written"].tokens] == ids

    (view,) = views
    assert chips(view) == ["·the", "·a", "the", "F0", "9F", "99", "82"]
    assert write(view).splitlines()[1] == "the athe🙂"
    after = LiveView("after")
    draw(after, notebook.names["written"])
    assert write(after).splitlines()[1] == "the athe🙂"


def test_the_bundled_vocabulary_shows_parts_of_characters(tiny: nl.LanguageModel) -> None:
    ids = tiny.tokenizer(" 🙂", add_special_tokens=False)["input_ids"]
    shown = " ".join(tiny.token_string(id) for id in ids)
    assert shown.replace("·", "").strip() == "🙂".encode().hex(" ").upper()


def test_tokens_that_look_alike_have_a_bar_each(pieces: nl.LanguageModel) -> None:
    with pieces.trace([[1]]) as tracer:
        pieces.logits.save()
    logits = torch.full((1, pieces.card.vocab), -100.0)
    logits[0, 6], logits[0, 7] = 1.0, 2.0
    view = LiveView("bars")
    draw(view, tracer.run, lambda run: {"made": logits})

    ((_, content),) = [each for each in told(view) if each[0] == "bars"]
    assert content["labels"][:2] == ["A", "A"]
    assert len(content["labels"]) == 8


def test_a_view_says_how_many_are_before_it_until_it_runs(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    state_of = LiveView.state

    def noted(self: LiveView, word: str, text: str, *more: Any) -> None:
        said.append(text)
        state_of(self, word, text, *more)

    monkeypatch.setattr(LiveView, "state", noted)
    gated = GatedEngine(tiny_engine())
    with serving(("tiny", lambda: gated)) as lab, nl.connect(lab.url, TOKEN) as connected:
        notebook.names["far"] = connected.model("tiny")
        other = lab.client()
        first = Run(RemoteExecutor(other, "tiny"), request_for(reads("logits")))
        assert gated.running.wait(60)
        notebook.ran('%%trace far "a b" --live --bg --as later\nx = far.logits')
        wait_until(lambda: len(said) == 2, 20, "the queue")
        gated.open()
        first.end()
        notebook.names["later"].wait(30)
        other.close()

    assert said[:3] == ["running", "1 before it in the queue", "running"]


def test_a_plot_of_nothing_does_not_end_the_run(notebook: Notebook, views: list[LiveView]) -> None:
    notebook.ran('%%trace lm "a" -q\nnl.live_plot(lm.layers[1].output[:, :0], "nothing")')
    assert "nothing: nothing" in write(views[0])


def test_a_view_that_cannot_draw_does_not_end_the_run(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the page is gone in the middle of it."""

    def gone(*_: Any) -> None:
        raise RuntimeError("the page is gone")

    monkeypatch.setattr(LiveView, "token", gone)
    with pytest.warns(RuntimeWarning, match="The live view has stopped: the page is gone"):
        notebook.ran('%%trace lm "a" --live -g 3 -q --as written\nlast = lm.logits[:, -1]')
    assert len(notebook.names["written"].tokens[0]) >= 1
