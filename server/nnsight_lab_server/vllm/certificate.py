"""The parity certificate: which addresses of Hugging Face vLLM's model reads and edits right.

    store = CertificateStore(folder)
    certificate = store.get(key) or store.put(key, certified(reference, engine))
    certificate.forms[address]          # where a verified address is
    certificate.refused[address]        # why another is not served

Made by `certify.py`, and kept by the model and the versions it is true of. A certificate is looked at again by people (`nnsight-lab check`, `lab.models()`), so it is written to
be read: one entry for each address, with the differences that were measured.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.forms import Form, Point, form_from_plain

__all__ = [
    "Certificate",
    "CertificateStore",
    "Entry",
    "certificate_from_plain",
    "certificate_key",
    "certificate_to_plain",
    "versions",
]

_SCHEMA = 2
_LIBRARIES = ("vllm", "transformers", "torch", "nnsight-lab")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


@dataclass(frozen=True, slots=True)
class Entry:
    """One address, measured. Differences are relative to the largest value on Hugging Face.

    form: where it is; None when it is nowhere. read: how far the value is off; None when unknown.
    write: how far the logits are off after an edit. effect: what the edit does to them.
    readable, writable: what is verified. reason: why something is not.
    """

    address: Address
    form: Form | None
    read: float | None = None
    write: float | None = None
    effect: float | None = None
    readable: bool = False
    writable: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was found of one model.

    points: vLLM's points in the order they come. logits: how far the plain logits are off.
    twin: whether a small model of the same class was measured instead. calls: which modules may be
    called, where that is not compared anew at each start.
    """

    model: str
    entries: tuple[Entry, ...]
    points: tuple[Point, ...]
    logits: float
    tolerance: float
    versions: Mapping[str, str] = field(default_factory=dict)
    twin: bool = False
    calls: Callables = field(default_factory=Callables)

    @cached_property
    def by_address(self) -> Mapping[Address, Entry]:
        """Entries by address."""
        return {entry.address: entry for entry in self.entries}

    @cached_property
    def forms(self) -> Mapping[Address, Form]:
        """Where each verified address is."""
        return {
            entry.address: entry.form
            for entry in self.entries
            if entry.readable and entry.form is not None
        }

    @cached_property
    def refused(self) -> Mapping[Address, str]:
        """Addresses that cannot be read, and why."""
        return {entry.address: entry.reason for entry in self.entries if not entry.readable}

    @cached_property
    def read_only(self) -> Mapping[Address, str]:
        """Addresses that can be read but not edited, and why."""
        return {
            entry.address: entry.reason
            for entry in self.entries
            if entry.readable and not entry.writable
        }

    def __str__(self) -> str:
        """One line: how much of the model is verified."""
        readable, editable = len(self.forms), len(self.forms) - len(self.read_only)
        twin = " of a small twin" if self.twin else ""
        return (
            f"{readable} of {len(self.entries)} places{twin} verified ({editable} to edit),"
            f" logits within {self.logits:.0e}"
        )

    @property
    def same_logits(self) -> bool:
        """Whether vLLM says what Hugging Face says."""
        return self.logits <= self.tolerance


def versions() -> dict[str, str]:
    """The versions a certificate depends on."""
    found = {}
    for name in _LIBRARIES:
        for known in (name, f"{name}-cpu"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(known)
    return found


def certificate_key(model: str | Path, revision: str = "", **settings: str) -> str:
    """What a certificate of a model is kept by.

    model: a folder, or the id of a model whose `revision` is known. settings: what else changes
    what an engine computes, such as dtype and device.
    """
    folder = Path(model)
    parts = {
        "schema": str(_SCHEMA),
        "model": _files(folder) if folder.is_dir() else f"{model}@{revision}",
        **versions(),
        **settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _files(folder: Path) -> str:
    """The files of a model: small ones by what is in them, weights by size and time."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        digest.update(path.name.encode())
        if path.suffix in _WEIGHTS:
            about = path.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


class CertificateStore:
    """Certificates in a folder, one file each. One that cannot be read is made anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Certificate | None:
        """The certificate kept by that key, or None."""
        try:
            plain = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            return certificate_from_plain(plain)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, certificate: Certificate) -> Certificate:
        """Keep a certificate; gives it back."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(certificate_to_plain(certificate), indent=1)
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(self._folder / f"{key}.json")
        return certificate


def certificate_to_plain(certificate: Certificate) -> dict[str, Any]:
    """Plain data, as JSON has it."""
    return {
        "schema": _SCHEMA,
        "model": certificate.model,
        "twin": certificate.twin,
        "calls": certificate.calls.to_plain(),
        "logits": _number(certificate.logits),
        "tolerance": certificate.tolerance,
        "versions": dict(certificate.versions),
        "points": [list(point) for point in certificate.points],
        "entries": [_entry_to_plain(entry) for entry in certificate.entries],
    }


def certificate_from_plain(plain: Mapping[str, Any]) -> Certificate:
    """The certificate that plain data holds. Raises `ValueError` for another schema."""
    if plain["schema"] != _SCHEMA:
        raise ValueError("a certificate of another schema")
    return Certificate(
        model=plain["model"],
        entries=tuple(map(_entry, plain["entries"])),
        points=tuple(Point(*point) for point in plain["points"]),
        logits=_float(plain["logits"]) or 0.0,
        tolerance=plain["tolerance"],
        versions=dict(plain["versions"]),
        twin=plain["twin"],
        calls=Callables.from_plain(plain["calls"]),
    )


def _entry_to_plain(entry: Entry) -> dict[str, Any]:
    return {
        "address": list(entry.address),
        "form": None if entry.form is None else entry.form.to_plain(),
        "read": _number(entry.read),
        "write": _number(entry.write),
        "effect": _number(entry.effect),
        "readable": entry.readable,
        "writable": entry.writable,
        "reason": entry.reason,
    }


def _entry(plain: Mapping[str, Any]) -> Entry:
    return Entry(
        address=Address(*plain["address"]),
        form=None if plain["form"] is None else form_from_plain(plain["form"]),
        read=_float(plain["read"]),
        write=_float(plain["write"]),
        effect=_float(plain["effect"]),
        readable=plain["readable"],
        writable=plain["writable"],
        reason=plain["reason"],
    )


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return value if value is None or math.isfinite(value) else "inf"


def _float(value: float | str | None) -> float | None:
    return None if value is None else float(value)
