"""A model's state and its queue on the wire: said only where there is something to say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import decode_message, encode_message
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.limits import WireLimits
from tests.wire.talk import SUMMARY


def test_a_model_that_is_ready_travels_as_it_always_did() -> None:
    text = encode_message(m.Models(1, (SUMMARY,)))

    assert "state" not in json.loads(text)["models"][0]
    assert decode_message(text, WireLimits()) == m.Models(1, (SUMMARY,))


def test_a_model_that_still_loads_says_so() -> None:
    loading = m.Models(1, (SUMMARY, replace(SUMMARY, name="b", state="loading")))

    assert decode_message(encode_message(loading), WireLimits()) == loading


def test_a_queue_is_told_where_it_is_counted() -> None:
    counted = m.Models(1, (SUMMARY, replace(SUMMARY, name="b", running=0, waiting=2)))
    text = encode_message(counted)
    first, second = json.loads(text)["models"]

    assert decode_message(text, WireLimits()) == counted
    assert not {"running", "waiting"} & first.keys()
    assert (second["running"], second["waiting"]) == (0, 2)


@pytest.mark.parametrize("wrong", [-1, 1.0, True, "2", None])
def test_a_count_is_a_whole_number(wrong: object) -> None:
    plain = json.loads(encode_message(m.Models(1, (SUMMARY,))))
    plain["models"][0]["waiting"] = wrong

    with pytest.raises(RemoteProtocolError):
        decode_message(json.dumps(plain), WireLimits())


def test_a_state_of_a_newer_server_is_handed_on() -> None:
    parked = m.Models(1, (SUMMARY, replace(SUMMARY, name="b", state="parked")))

    assert decode_message(encode_message(parked), WireLimits()) == parked


def test_what_a_newer_server_says_beside_a_model_hides_nothing() -> None:
    plain = json.loads(encode_message(m.Models(1, (SUMMARY, replace(SUMMARY, name="b")))))
    plain["models"][1] |= {"adapters": ["x"], "since": 3.5}

    found = decode_message(json.dumps(plain), WireLimits())

    assert found == m.Models(1, (SUMMARY, replace(SUMMARY, name="b")))


@pytest.mark.parametrize("missing", ["name", "layers", "certificate"])
def test_what_must_be_said_of_a_model_must_be_there(missing: str) -> None:
    plain = json.loads(encode_message(m.Models(1, (SUMMARY,))))
    del plain["models"][0][missing]

    with pytest.raises(RemoteProtocolError):
        decode_message(json.dumps(plain), WireLimits())
