"""The explorer without a browser: what its views find, and the code they give back."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, Cancelled
from nnsight_lab.jupyter.explorer import Explorer, Sheet, Subject, bundle
from nnsight_lab.jupyter.explorer.bundle import PARTS, TABS, script
from nnsight_lab.jupyter.explorer.lens import LensView
from nnsight_lab.jupyter.explorer.tokens import TokensView
from nnsight_lab.jupyter.explorer.work import Job, Work
from tests.jupyter.conftest import Notebook

_NAME = r"^(?:export )?(?:async )?(?:const|let|function|class) (\w+)"
PROMPT = "The capital of France is Paris. The capital of Italy is"


def asked(view: Any, **wanted: Any) -> Sheet:
    """What a view tells when it is asked once."""
    told: list[Sheet] = []
    view.ask(wanted, told.append)
    return told[-1]


def logits_of(lm: nl.LanguageModel, prompt: str) -> torch.Tensor:
    """The plain model's logits, `[pos, vocab]`."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    with torch.no_grad():
        found: torch.Tensor = module(torch.tensor(lm.tokenize(prompt).rows)).logits[0]
    return found


def stream_of(lm: nl.LanguageModel, prompt: str) -> list[torch.Tensor]:
    """The residual stream before block 0 and after each, by hooks on the plain model."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]
    seen: list[torch.Tensor] = []
    blocks = module.model.layers
    handles = [
        blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    ]
    handles += [
        block.register_forward_hook(
            lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    logits_of(lm, prompt)
    for handle in handles:
        handle.remove()
    return seen


def test_surprisal_is_what_the_plain_model_says(tiny: nl.LanguageModel) -> None:
    numbers = torch.from_numpy(asked(TokensView(Subject(tiny, PROMPT))).arrays["numbers"])
    ids = torch.tensor(tiny.tokenize(PROMPT).rows[0])
    by_hand = -logits_of(tiny, PROMPT)[:-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]

    assert numbers[0].isnan()
    torch.testing.assert_close(numbers[1:], by_hand, atol=1e-5, rtol=1e-5)


def test_the_row_of_a_padded_batch_is_its_own(tiny: nl.LanguageModel) -> None:
    alone = asked(TokensView(Subject(tiny, "The capital"))).arrays["numbers"]
    subject = Subject(tiny, ["The capital", PROMPT], row=0)

    assert subject.tokens == Subject(tiny, "The capital").tokens
    found = asked(TokensView(subject)).arrays["numbers"]
    torch.testing.assert_close(
        torch.from_numpy(found), torch.from_numpy(alone), atol=1e-5, rtol=1e-5, equal_nan=True
    )


def test_what_a_run_saved_can_colour_the_tokens(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        norm = tiny.layers[2].output.norm(dim=-1).save()
        tiny.logits.save()
    sheet = asked(TokensView(Subject(tracer.run)), by="norm")

    assert sheet.plain["choices"] == ["surprisal", "norm"]
    assert torch.equal(torch.from_numpy(sheet.arrays["numbers"]), norm[0])


def test_the_lens_is_what_hooks_give(tiny: nl.LanguageModel) -> None:
    sheet = asked(LensView(Subject(tiny, PROMPT)), top=3, targets=[" Rome"])
    module: Any = tiny.executor.module  # type: ignore[attr-defined]
    with torch.no_grad():
        rows = [module.lm_head(module.model.norm(h))[0] for h in stream_of(tiny, PROMPT)]
    spread = torch.stack([*rows, logits_of(tiny, PROMPT)]).softmax(-1)
    values, ids = spread.topk(3, dim=-1)
    tops = torch.tensor(sheet.plain["ids"])[torch.from_numpy(sheet.arrays["tops"]).long()]
    rome = tiny.tokenizer.encode(" Rome", add_special_tokens=False)[0]

    assert sheet.plain["layers"] == ["embed", *map(str, range(tiny.card.layers)), "output"]
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["probabilities"]), values, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(tops[values > 1e-3], ids[values > 1e-3])
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["chances"])[0], spread[..., rome], atol=1e-5, rtol=1e-5
    )
    ranks = (spread > spread[..., rome, None]).sum(-1)
    assert torch.equal(torch.from_numpy(sheet.arrays["ranks"])[0].long(), ranks)


def test_a_run_is_seen_with_its_edits(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[3].output[:, -1] = 0
        logits = tiny.logits.save()
    sheet = asked(LensView(Subject(tracer.run)), top=1)

    best = logits[0].softmax(-1).max(-1).values
    torch.testing.assert_close(
        torch.from_numpy(sheet.arrays["probabilities"])[-1, :, 0], best, atol=1e-6, rtol=1e-6
    )
    plain = asked(LensView(Subject(tiny, PROMPT)), top=1).arrays["probabilities"]
    assert abs(plain[-1, -1, 0] - best[-1].item()) > 1e-2


@pytest.mark.parametrize("prompt", [PROMPT, 'She said "it\'s {fine}" $x ', "Hi\n\tthere 🙂"])
def test_code_of_the_tokens_gives_the_same_numbers(
    notebook: Notebook, tiny: nl.LanguageModel, prompt: str
) -> None:
    view = TokensView(Subject(tiny, prompt))
    notebook.ran(view.code({}))

    found = notebook.names["surprisal"]
    assert torch.equal(found, torch.from_numpy(asked(view).arrays["numbers"])[1:])


def test_code_of_the_lens_gives_the_same_numbers(
    notebook: Notebook, tiny: nl.LanguageModel
) -> None:
    view = LensView(Subject(tiny, PROMPT))
    wanted = {"top": 4, "targets": [" Rome", 7]}
    sheet = asked(view, **wanted)
    notebook.ran(view.code(wanted))
    names = notebook.names

    assert torch.equal(names["lens_probabilities"], torch.from_numpy(sheet.arrays["probabilities"]))
    assert torch.equal(names["lens_entropy"], torch.from_numpy(sheet.arrays["entropy"]))
    chances = torch.from_numpy(sheet.arrays["chances"])
    torch.testing.assert_close(names["lens_target_probabilities"].movedim(-1, 0), chances)
    assert torch.equal(
        names["lens_target_ranks"].movedim(-1, 0).int(), torch.from_numpy(sheet.arrays["ranks"])
    )


def test_code_of_an_edited_run_keeps_its_edits(notebook: Notebook) -> None:
    notebook.ran(f'%%trace lm "{PROMPT}"\nlm.layers[3].output[:, -1] = 0')
    view = LensView(Subject(notebook.names["run"]))
    sheet = asked(view, top=2)
    notebook.ran(view.code({"top": 2}).replace("--then run", "--then run --as seen"))

    assert torch.equal(
        notebook.names["lens_probabilities"], torch.from_numpy(sheet.arrays["probabilities"])
    )


def test_figures_show_the_same_numbers(tiny: nl.LanguageModel) -> None:
    explorer = nl.explore(tiny, PROMPT)
    lens, bars = explorer.figure("lens", top=3), explorer.figure("tokens")
    sheet = asked(explorer.views["lens"], top=3)

    assert lens.data[0].z[-1][-1] == pytest.approx(float(sheet.arrays["probabilities"][-1, -1, 0]))
    assert bars.data[0].y[0] is None
    assert len(bars.data[0].y) == len(explorer.subject.tokens)


def test_no_such_view(tiny: nl.LanguageModel) -> None:
    with pytest.raises(BadInput, match="no view 'lense'"):
        nl.explore(tiny, PROMPT).figure("lense")


def test_an_explorer_without_a_notebook_says_what_it_is(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.logits.save()
    assert repr(nl.explore(tiny, PROMPT)) == "<explorer of tiny: 13 tokens>"
    assert repr(tracer.run.explore()) == "<explorer of a run on tiny: 13 tokens>"


def test_newer_work_cancels_the_older(tiny: nl.LanguageModel) -> None:
    work, ended = Work(), []
    begun, done = threading.Event(), threading.Event()

    def long(job: Job) -> None:
        begun.set()
        with tiny.generate(PROMPT, max_new_tokens=200, execute=False) as tracer:
            for _ in tracer.iter[:]:
                tiny.layers[0].output.save()
        for _ in range(500):
            tiny.run(tracer.graph, PROMPT, max_new_tokens=200)

    def end(job: Job, error: BaseException | None) -> None:
        ended.append((job.number, error))
        if len(ended) == 2:
            done.set()

    work.begin(1, long, end)
    assert begun.wait(10)
    work.begin(2, lambda job: None, end)

    assert done.wait(20)
    errors = dict(ended)
    assert isinstance(errors[1], Cancelled)
    assert errors[2] is None


def test_work_that_is_slow_to_end_leaves_the_newer_alone(tiny: nl.LanguageModel) -> None:
    work, ended = Work(), []
    begun, newer_done, both = threading.Event(), threading.Event(), threading.Event()

    def slow(job: Job) -> None:
        begun.set()
        assert newer_done.wait(20)

    def newer(job: Job) -> None:
        try:
            with tiny.trace(PROMPT):
                tiny.logits.save()
        finally:
            newer_done.set()

    def end(job: Job, error: BaseException | None) -> None:
        ended.append((job.number, error))
        if len(ended) == 2:
            both.set()

    work.begin(1, slow, end)
    assert begun.wait(10)
    work.begin(2, newer, end)

    assert both.wait(20)
    errors = dict(ended)
    assert isinstance(errors[1], Cancelled)
    assert errors[2] is None


def test_the_script_is_small_and_its_names_are_one_files() -> None:
    text = script()
    files = Path(bundle.__file__).with_name("js").glob("*.js")
    whole = "\n".join(path.read_text() for path in files)
    names = re.findall(_NAME, whole, re.MULTILINE)

    assert len(text.encode()) < 150_000
    assert sorted(names) == sorted(set(names))
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "import " not in re.sub(r"[`'\"].*?[`'\"]", "", text)


def test_every_tab_has_its_file_and_its_view(tiny: nl.LanguageModel) -> None:
    assert set(Explorer(Subject(tiny, PROMPT)).views) == set(TABS)
    assert len(set(PARTS)) == len(PARTS)


def test_code_of_a_run_calls_it_by_its_name(notebook: Notebook) -> None:
    notebook.ran(
        f'%%trace lm "{PROMPT}" --as halved -q\nlm.layers[2].output[:, -1] *= 0.5\nlogits = lm.logits'
    )
    explorer = nl.explore(notebook.names["halved"])
    shown = asked(explorer.views["lens"]).arrays["probabilities"]
    notebook.ran(explorer.code("lens"))
    found = notebook.names["lens_probabilities"]

    assert explorer.code("lens").startswith("%%trace lm --then halved -s lens_")
    torch.testing.assert_close(found, torch.from_numpy(shown))
