"""Control messages to JSON text and back. Strict: exactly the fields of a message, each checked.

A message is one JSON object: its `type`, and its fields under their own names. What is not
that raises `RemoteProtocolError`; what is too large raises `LimitExceeded`. The table `_FIELDS`
is the whole grammar; `docs/reference/wire.md` is the same in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from nnsight_lab.contract import MOST_STOP_IDS, Generation, TokenRows
from nnsight_lab.errors import LabError, LimitExceeded
from nnsight_lab.ir.literals import DTYPE_SIZES, Arg
from nnsight_lab.ir.plain_args import from_plain_arg, to_plain_arg
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.plain import (
    Malformed,
    optional,
    parse,
    read_error,
    read_flag,
    read_list,
    read_number,
    read_record,
    read_seconds,
    read_text,
    read_texts,
    read_whole,
    tuple_of,
    write,
)
from nnsight_lab.wire.sources import read_source, source_to_plain

__all__ = ["decode_generation", "decode_message", "encode_message"]

_U32 = 2**32
_MODELS = 4_096
_ROWS = 65_536
_PARTS = 1_024
_AXES = 64
_BLOBS = 4_096
_DIGEST = frozenset("0123456789abcdef")
_STRUCTURE_DEPTH = 32

Reader = Callable[[Any], Any]


def _number(plain: Any) -> int:
    number = read_whole(plain)
    if number >= _U32:
        raise Malformed("a number over 32 bits")
    return number


def _dtype(plain: Any) -> str:
    if not isinstance(plain, str) or plain not in DTYPE_SIZES:
        raise Malformed("a dtype that does not travel")
    return plain


def _digest(plain: Any) -> str:
    if not isinstance(plain, str) or len(plain) != 64 or not _DIGEST.issuperset(plain):
        raise Malformed("a digest is 64 hexadecimal digits")
    return plain


def _row(plain: Any) -> tuple[int, ...]:
    row = tuple(read_list(plain))
    if any(type(token) is not int or not 0 <= token < _U32 for token in row):
        raise Malformed("a prompt is a list of token ids")
    return row


def _structure(plain: Any) -> Arg:
    return from_plain_arg(plain, _STRUCTURE_DEPTH)


_SUMMARY: dict[str, Reader] = {
    "name": read_text,
    "architecture": read_text,
    "dtype": read_text,
    "engine": read_text,
    "device": read_text,
    "layers": read_whole,
    "parameters": read_whole,
    "certificate": read_text,
}
_SUMMARY_MAY_SAY: dict[str, Reader] = {
    "state": read_text,
    "running": read_whole,
    "waiting": read_whole,
}
_HEAD: dict[str, Reader] = {
    "stream": _number,
    "dtype": _dtype,
    "shape": tuple_of(read_whole, _AXES),
}


_BLOB: dict[str, Reader] = {
    "digest": _digest,
    "dtype": _dtype,
    "shape": tuple_of(read_whole, _AXES),
}


def _blobs(plain: Any) -> tuple[m.BlobHead, ...]:
    found = tuple(m.BlobHead(**read_record(item, _BLOB)) for item in read_list(plain))
    if len({head.digest for head in found}) != len(found) or len(found) > _BLOBS:
        raise Malformed("a constant is named twice, or there are too many")
    return found


def _summary(plain: Any) -> m.ModelSummary:
    """One line of a list. What a newer server says beside it is left out, so that one model
    of a new kind does not hide the others.
    """
    if not isinstance(plain, dict):
        raise Malformed("a model is a record")
    fields = _SUMMARY | {k: read for k, read in _SUMMARY_MAY_SAY.items() if k in plain}
    return m.ModelSummary(**read_record({k: v for k, v in plain.items() if k in fields}, fields))


def _head(plain: Any) -> m.TensorHead:
    return m.TensorHead(**read_record(plain, _HEAD))


_GENERATION: dict[str, Reader] = {
    "max_new_tokens": _number,
    "temperature": read_number,
    "top_k": optional(_number),
    "top_p": optional(read_number),
    "seed": optional(read_whole),
    "stop_ids": optional(tuple_of(_number, MOST_STOP_IDS)),
}


def decode_generation(plain: Any) -> Generation:
    """The options of a generation that plain data holds. Raises `RemoteProtocolError`."""
    return Generation(**read_record(plain, _GENERATION))


def _part(plain: Any) -> TokenRows:
    return TokenRows(**read_record(plain, _PART))


_PART: dict[str, Reader] = {
    "rows": tuple_of(_row, _ROWS),
    "generation": optional(decode_generation),
}


_MODEL_LIST = tuple_of(_summary, _MODELS)
_EVENT: dict[str, Reader] = {"job": _number, "seq": _number}

_FIELDS: dict[type[m.Message], dict[str, Reader]] = {
    m.Hello: {"protocol": read_whole, "versions": read_texts},
    m.ListModels: {"ask": _number},
    m.GetCard: {"ask": _number, "model": read_text},
    m.GetSource: {"ask": _number, "model": read_text, "path": read_text},
    m.Submit: {
        "job": _number,
        "model": read_text,
        "graph_bytes": read_whole,
        "parts": tuple_of(_part, _PARTS),
        "key": read_text,
        "blobs": _blobs,
    },
    m.Cancel: {"job": _number},
    m.Welcome: {
        "protocol": read_whole,
        "versions": read_texts,
        "models": _MODEL_LIST,
        "graph_bytes": read_whole,
        "blob_bytes": read_whole,
    },
    m.Missing: {"job": _number, "digests": tuple_of(_digest, _BLOBS)},
    m.Models: {"ask": _number, "models": _MODEL_LIST},
    m.Card: {"ask": _number, "size": read_whole},
    m.Source: {"ask": _number, "source": read_source},
    m.Accepted: {**_EVENT, "engine": read_text, "why": read_text},
    m.Queued: {**_EVENT, "place": read_whole},
    m.Started: _EVENT,
    m.Saved: {
        **_EVENT,
        "name": read_text,
        "structure": _structure,
        "tensors": tuple_of(_head, _ROWS),
    },
    m.Failed: {**_EVENT, "error": read_error},
    m.Token: {**_EVENT, "step": _number, "ids": tuple_of(_number, _ROWS)},
    m.Done: {
        **_EVENT,
        "seconds": read_seconds,
        "sent_bytes": read_whole,
        "steps": read_whole,
        "ended": read_flag,
    },
    m.Error: {"ask": optional(_number), "error": read_error},
}
_KINDS: dict[str, type[m.Message]] = {kind.kind: kind for kind in _FIELDS}


def encode_message(message: m.Message) -> str:
    """The JSON text of a message."""
    plain: dict[str, Any] = {"type": message.kind}
    for field in fields(message):
        plain[field.name] = _to_plain(field.name, getattr(message, field.name))
    return write(plain)


def _to_plain(name: str, value: Any) -> Any:
    if name == "structure":
        return to_plain_arg(value)
    if name == "source":
        return source_to_plain(value)
    if name in {"models", "tensors", "blobs"}:
        return [_fields(item) for item in value]
    if name in {"versions", "seconds", "error"}:
        return dict(value)
    if name == "parts":
        return [asdict(part) for part in value]
    return value


def _fields(item: Any) -> dict[str, Any]:
    plain = {field.name: getattr(item, field.name) for field in fields(item)}
    if isinstance(item, m.ModelSummary):
        unsaid = {"state": "ready", "running": None, "waiting": None}
        return {k: v for k, v in plain.items() if k not in unsaid or v != unsaid[k]}
    return plain


def decode_message(text: str, limits: WireLimits) -> m.Message:
    """The message a JSON text holds.

    Raises:
        RemoteProtocolError: it holds none.
        LimitExceeded: it is larger than `limits.text_bytes`.
    """
    if len(text) > limits.text_bytes:
        raise LimitExceeded(
            f"A control message of {len(text)} characters; {limits.text_bytes} may be sent.",
            hint="Send fewer or shorter prompts at a time.",
        )
    try:
        plain = parse(text)
    except ValueError as exc:
        raise RemoteProtocolError("A control message is not JSON.") from exc
    kind = plain.pop("type", None) if isinstance(plain, dict) else None
    found = _KINDS.get(kind) if isinstance(kind, str) else None
    if found is None:
        raise RemoteProtocolError(
            f"A message of unknown type {str(kind)[:40]!r}.",
            hint="Install the same nnsight-lab version on both sides.",
        )
    try:
        return found(**read_record(plain, _FIELDS[found]))
    except (ValueError, LabError) as exc:
        reason = exc.message if isinstance(exc, LabError) else str(exc)
        raise RemoteProtocolError(f"A malformed {kind!r} message: {reason}.") from exc
