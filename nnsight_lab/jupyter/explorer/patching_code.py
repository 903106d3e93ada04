"""A patch as a cell: the same graph that the tab ran, so the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnsight_lab.jupyter.explorer.subject import Subject

if TYPE_CHECKING:
    from nnsight_lab.jupyter.explorer.patching import Asked

__all__ = ["one_place", "whole_map"]

_LENS = """\
import torch
def patching_lens():
    stream = [{lm}.layers[0].input, *(layer.output for layer in {lm}.layers)]
    rows = [*({lm}.lm_head({lm}.norm(resid)) for resid in stream), {lm}.logits]
    return torch.stack(rows)[:, 0].float().softmax(-1)
"""
_SOURCE = "source_probabilities, source_ids = torch.stack([patching_lens()]).topk({top})\n"
_TARGET = """\
with tracer.invoke({target}):
    {lens}
"""
_PATCHED = """\
with tracer.invoke({target}):
    {written}[0, {position}] = source_moved
    patched_after = patching_lens()
    patched_both = torch.stack([patched_before, patched_after])
    patched_probabilities, patched_ids = patched_both.topk({top})
    patched_change = (patched_after - patched_before).abs().sum(-1) / 2
"""
_BOTH = "source_probabilities, source_ids, "


def one_place(subject: Subject, asked: Asked) -> str:
    """The lens of the source, of the target, and of the target with one place of the source.

    patched_probabilities, patched_ids: `[target and patched, layer, pos, top]`. patched_change:
    `[layer, pos]`, how much of the probability is elsewhere.
    """
    if asked.backwards:
        return _session(subject, asked)
    names = (_BOTH if asked.source else "") + "patched_probabilities, patched_ids"
    names += ", patched_change" if asked.places else ""
    cell = f"%%trace {subject.name} -s {names.replace(' ', '')}\n"
    cell += _LENS.format(lm=subject.name)
    if asked.source:
        cell += f"with tracer.invoke({asked.text!r}):\n" + _indented(_from(subject, asked))
    return (cell + _into(subject, asked)).rstrip()


def _session(subject: Subject, asked: Asked) -> str:
    """A deep layer into one before it takes two forward passes, which a session makes one run."""
    lm = subject.name
    names = ("patched_probabilities", "patched_ids", "patched_change")
    saved = [f"{name}.save()" for name in names]
    inside = _into(subject, asked) + f"    {', '.join(saved)}\n"
    source = _from(subject, asked) + "source_probabilities.save(), source_ids.save()\n"
    cell = (
        f"{_LENS.format(lm=lm)}\nwith {lm}.session() as patching_session:\n"
        f"    with {lm}.trace({asked.text!r}):\n{_indented(source, 8)}"
        f"    with {lm}.trace() as tracer:\n{_indented(inside, 8)}"
        "run = patching_session.run\n"
    )
    return cell.rstrip()


def _from(subject: Subject, asked: Asked) -> str:
    code = ""
    if asked.places is not None:
        layer, position = asked.places[0]
        code = f"source_moved = {_place(subject, asked.part, layer)}[0, {position}]\n"
    return code + _SOURCE.format(top=asked.top)


def _into(subject: Subject, asked: Asked) -> str:
    target = _literal(subject)
    if asked.places is None:
        lens = "patched_probabilities, patched_ids = "
        lens += f"torch.stack([patching_lens()]).topk({asked.top})"
        return _TARGET.format(target=target, lens=lens)
    layer, position = asked.places[1]
    patched = _PATCHED.format(
        target=target, written=_place(subject, asked.part, layer), position=position, top=asked.top
    )
    return _TARGET.format(target=target, lens="patched_before = patching_lens()") + patched


def _place(subject: Subject, part: str, layer: int) -> str:
    if layer < 0:
        return f"{subject.name}.layers[0].input"
    return f"{subject.name}.layers[{layer}]{'' if part == 'resid' else '.' + part}.output"


def _literal(subject: Subject) -> str:
    """The target as Python writes it: the text, or its ids where it was no single text."""
    return repr(subject.prompt) if isinstance(subject.prompt, str) else repr([subject.ids])


def _indented(code: str, by: int = 4) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in code.splitlines())


def whole_map(
    subject: Subject, asked: Asked, answer: int, other: int, options: dict[str, Any]
) -> str:
    """The recipe that fills the map, a run a layer."""
    lines = ["from nnsight_lab.recipes import activation_patching", ""]
    metric = f"({_token(subject, answer)}, {_token(subject, other)})"
    text = subject.model.tokenizer.decode([answer])
    if asked.metric == "probability":
        metric = "probability_of_answer"
        lines += [
            "def probability_of_answer(logits):",
            f"    return logits[:, -1].float().softmax(-1)[:, {answer}]  # {text!r}",
            "",
        ]
    pairs = options["positions"]
    plain = len(asked.source) == len(subject.ids) and all(one == other for one, other in pairs)
    positions = "" if plain and len(pairs) == len(subject.ids) else f", positions={pairs}"
    lines += [
        "patching = activation_patching(",
        f"    {subject.name}, {asked.text!r}, {_literal(subject)}, {metric},",
        f"    part={asked.part!r}{positions},",
        ")",
        "patching.figure(recovered=False)",
    ]
    return "\n".join(lines)


def _token(subject: Subject, id: int) -> str:
    """A token as a metric takes it: its text where that is this one token, else its id."""
    tokenizer = subject.model.tokenizer
    text = tokenizer.decode([id])  # as it is, not as it is shown, with `·` for a space
    for said in (text, f" {text}"):  # some tokenizers leave a leading space out
        if tokenizer.encode(said, add_special_tokens=False) == [id]:
            return repr(said)
    return repr(id)
