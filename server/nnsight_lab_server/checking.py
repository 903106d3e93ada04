"""Compare a model in vLLM with Hugging Face's without serving it: for `nnsight-lab check`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from nnsight_lab.errors import EngineFailed
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.offered import served_model
from nnsight_lab_server.engines.vllm_engine import VllmEngine
from nnsight_lab_server.vllm.certificate import Certificate, Entry

__all__ = ["Row", "check_model", "rows_of"]

Row = tuple[str, str, str, str]
"""A place, how far off reading it is, how far off the logits are after an edit, and a remark."""

_SAID = "verified"


def check_model(
    source: str,
    settings: Settings,
    *,
    file: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """The certificate of a model, by bundled name, folder or Hugging Face id.

    file: how vLLM is started. say: is told how far it is.

    Raises:
        ModelNotFound: there is no such model.
        NotSupported: vLLM is not installed.
        EngineFailed: it does not start.
    """
    served = served_model(source, source, settings, engine="vllm", file=file, say=say)
    engine = served.load()
    try:
        found = engine.certificate if isinstance(engine, VllmEngine) else None
        if found is None:
            raise EngineFailed(
                f"{source} was not compared.", hint="The log of vLLM above may say why."
            )
        return found
    finally:
        engine.close()


def rows_of(certificate: Certificate, *, standard: bool) -> list[Row]:
    """A row for each place, the layers of a model together. standard: only standard names."""
    places: dict[str, list[Entry]] = {}
    for entry in certificate.entries:
        name = str(entry.address)
        if standard and not _is_standard(name):
            continue
        places.setdefault(re.sub(r"\.\d+(?=\.|$)", "[i]", name), []).append(entry)
    return [_row(place, entries) for place, entries in places.items()]


def _is_standard(name: str) -> bool:
    return re.match(r"(embed|layers|norm|lm_head|logits)\b", name) is not None


def _row(place: str, entries: list[Entry]) -> Row:
    reads = [entry.read for entry in entries if entry.read is not None]
    writes = [entry.write for entry in entries if entry.write is not None and entry.writable]
    read = f"{max(reads):.0e}" if reads and all(entry.readable for entry in entries) else "–"
    write = f"{max(writes):.0e}" if writes and all(entry.writable for entry in entries) else "–"
    wrong = sorted({entry.reason for entry in entries if entry.reason})
    many = f" ({len(wrong)} reasons)" if len(wrong) > 1 else ""
    return place, read, write, f"{wrong[0]}{many}" if wrong else _SAID
