"""`Served` as bytes, for the way to the workers: a card, forms, and a few numbers. Plain data."""

from __future__ import annotations

import json
import struct

from nnsight_lab.wire import WireLimits, decode_card, encode_card
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.forms import form_from_plain
from nnsight_lab_server.vllm.run import Served

__all__ = ["served_from_bytes", "served_to_bytes"]

_HEAD = struct.Struct("<I")
_LIMITS = WireLimits(card_bytes=2**31)


def served_to_bytes(served: Served) -> bytes:
    """What a worker is told of its model."""
    head = json.dumps(
        {
            "forms": [form.to_plain() for form in served.forms.values()],
            "stop_ids": served.stop_ids,
            "end_pad": served.end_pad,
            "pad": served.pad,
            "calls": Callables(served.routes).to_plain(),
        }
    ).encode()
    return _HEAD.pack(len(head)) + head + encode_card(served.card)


def served_from_bytes(data: bytes) -> Served:
    """The same in the worker; it comes from its own server."""
    (size,) = _HEAD.unpack_from(data)
    head = json.loads(data[_HEAD.size : _HEAD.size + size])
    forms = [form_from_plain(plain) for plain in head["forms"]]
    return Served(
        card=decode_card(data[_HEAD.size + size :], _LIMITS),
        forms={form.address: form for form in forms},
        stop_ids=tuple(head["stop_ids"]),
        end_pad=head["end_pad"],
        pad=head["pad"],
        routes=Callables.from_plain(head["calls"]).routes,
    )
