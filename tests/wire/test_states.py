"""A model's state on the wire: said only where there is something to say, so that others understand."""

from __future__ import annotations

import json
from dataclasses import replace

from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import decode_message, encode_message
from nnsight_lab.wire.limits import WireLimits
from tests.wire.talk import SUMMARY


def test_a_model_that_is_ready_travels_as_it_always_did() -> None:
    text = encode_message(m.Models(1, (SUMMARY,)))

    assert "state" not in json.loads(text)["models"][0]
    assert decode_message(text, WireLimits()) == m.Models(1, (SUMMARY,))


def test_a_model_that_still_loads_says_so() -> None:
    loading = m.Models(1, (SUMMARY, replace(SUMMARY, name="b", state="loading")))

    assert decode_message(encode_message(loading), WireLimits()) == loading
