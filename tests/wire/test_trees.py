"""Laws of model cards: a card comes back equal, and any other bytes are refused with a type."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsight_lab.errors import LimitExceeded
from nnsight_lab.wire import RemoteProtocolError, WireLimits, decode_card, encode_card
from tests.wire.talk import LIMITS, card

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 2**70, 1.5, "x", [], {}, ["tensor"], [["a"]], "\ud800"]
)


def test_a_card_comes_back_equal() -> None:
    assert decode_card(encode_card(card()), LIMITS) == card()


def places(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in plain data."""
    found = [path]
    if isinstance(plain, dict):
        found += [place for key in plain for place in places(plain[key], (*path, key))]
    if isinstance(plain, list):
        found += [place for i, item in enumerate(plain) for place in places(item, (*path, i))]
    return found


def replaced(plain: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(plain) if isinstance(plain, dict) else list(plain)
    copy[path[0]] = replaced(plain[path[0]], path[1:], new)
    return copy


PLAIN = json.loads(encode_card(card()))
PLACES = places(PLAIN)


@given(st.sampled_from(PLACES), ODD)
def test_a_card_with_any_one_thing_changed_is_read_or_refused(
    place: tuple[Any, ...], odd: Any
) -> None:
    with suppress(RemoteProtocolError):
        decode_card(json.dumps(replaced(PLAIN, place, odd)).encode(), LIMITS)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_card_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_card(data, LIMITS)


def test_a_spec_without_a_bottom_is_refused() -> None:
    spec: list[Any] = ["opaque", "x"]
    for _ in range(40):
        spec = ["tuple", [spec]]
    spoiled = replaced(PLAIN, ("tree", "sites", 0, 2), spec)

    with pytest.raises(RemoteProtocolError):
        decode_card(json.dumps(spoiled).encode(), LIMITS)


def test_a_card_over_the_limit_is_not_read() -> None:
    with pytest.raises(LimitExceeded):
        decode_card(encode_card(card()), WireLimits(card_bytes=10))
