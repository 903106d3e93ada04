"""Attention patterns, measured: vLLM never holds one, so what is made anew is compared as a whole.

Each layer's pattern is read and edited in a run like anybody's, on Hugging Face and on the engine
that is about to serve. Where either differs, the name is refused, or may be read only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from nnsight_lab.contract import Emit, Failed, RunRequest, Saved, TokenRows
from nnsight_lab.errors import LabError
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Address, Call, Graph, Output, Read, Write
from nnsight_lab.ir.literals import Ref
from nnsight_lab_server.vllm.certificate import Certificate, Entry
from nnsight_lab_server.vllm.discover import difference
from nnsight_lab_server.vllm.reference import prompts_for

__all__ = ["to_measure", "with_patterns"]

_LOGITS = Address("", "logits")
_Run = Callable[[RunRequest, Emit], None]


def to_measure(certificate: Certificate) -> tuple[Entry, ...]:
    """The patterns that nobody has compared yet."""
    return tuple(
        entry
        for entry in certificate.entries
        if entry.form is not None and entry.form.kind == "pattern" and entry.read is None
    )


def with_patterns(certificate: Certificate, executor: LocalExecutor, run: _Run) -> Certificate:
    """The certificate with every pattern measured. run: of the engine that is about to serve."""
    prompt = TokenRows((prompts_for(executor)[0],))
    plain = _values(executor.run, _logits(), prompt)["logits"]
    measured = {
        entry.address: _measured(entry, executor, run, prompt, plain, certificate.tolerance)
        for entry in to_measure(certificate)
    }
    entries = tuple(measured.get(entry.address, entry) for entry in certificate.entries)
    return replace(certificate, entries=entries)


def _measured(
    entry: Entry,
    executor: LocalExecutor,
    run: _Run,
    prompt: TokenRows,
    plain: torch.Tensor,
    tolerance: float,
) -> Entry:
    graph = _squared(entry.address)
    wanted = _values(executor.run, graph, prompt)
    try:
        found = _values(run, graph, prompt)
    except LabError as exc:
        return replace(entry, form=None, readable=False, writable=False, reason=exc.message)
    read = difference(found["pattern"], wanted["pattern"])
    write, effect = (difference(one, wanted["logits"]) for one in (found["logits"], plain))
    if read > tolerance:
        reason = f"it differs from Hugging Face by {read:.0e} on vLLM"
        return replace(entry, read=read, readable=False, writable=False, reason=reason)
    right = entry.writable and write <= tolerance < effect
    reason = "" if right else entry.reason
    if not right and not reason:
        reason = f"after an edit of it the logits differ from Hugging Face by {write:.0e} on vLLM"
    return replace(entry, read=read, write=write, effect=effect, writable=right, reason=reason)


def _logits() -> Graph:
    return Graph((Read(id=0, address=_LOGITS),), (Output("logits", 0),))


def _squared(pattern: Address) -> Graph:
    """Reads a pattern, puts its square back, and reads the logits.

    A part of it would not do: where a norm follows, a weaker attention may be the same attention.
    """
    nodes = (
        Read(id=0, address=pattern),
        Call(id=1, op="Tensor.pow", args=(Ref(0), 2)),
        Write(id=2, address=pattern, value=1),
        Read(id=3, address=_LOGITS),
    )
    return Graph(nodes, (Output("pattern", 0), Output("logits", 3)))


def _values(run: _Run, graph: Graph, prompt: TokenRows) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    failures: list[LabError] = []

    def take(event: Any) -> None:
        if isinstance(event, Saved):
            tensor = (
                event.value if isinstance(event.value, torch.Tensor) else from_wire(event.value)
            )
            values[event.name] = tensor.detach().cpu()
        elif isinstance(event, Failed):
            failures.append(event.error)

    run(RunRequest("patterns", graph, prompt), take)
    if failures:
        raise failures[0]
    return values
