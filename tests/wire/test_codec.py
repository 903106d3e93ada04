"""Laws of control messages: each is one JSON object, read strictly, refused with a typed error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.errors import LabError, LimitExceeded, ProtocolError
from nnsight_lab.ir import (
    Address,
    DictArg,
    Dim,
    ListArg,
    ModuleSource,
    OpaqueSpec,
    Ref,
    Site,
    SizeForm,
    SourceCall,
    Special,
    TensorSpec,
)
from nnsight_lab.wire import RemoteProtocolError
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import decode_message, encode_message
from tests.wire.talk import LIMITS, SUMMARY

U32 = st.integers(0, 2**32 - 1)
WHOLE = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
ROWS = st.lists(st.lists(U32, max_size=5).map(tuple), max_size=4).map(tuple)
SECONDS = st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3)
ERROR = st.fixed_dictionaries(
    {"code": TEXT, "message": TEXT, "hint": TEXT, "node": st.none() | WHOLE}
)
MODELS = st.lists(
    st.builds(
        m.ModelSummary,
        *(TEXT, TEXT, TEXT, TEXT, TEXT, WHOLE, WHOLE, TEXT, TEXT),
        *(st.none() | WHOLE, st.none() | WHOLE),
    ),
    max_size=3,
).map(tuple)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.builds(Ref, st.integers(0, 9))
    | st.sampled_from([Special("nan"), Special("inf"), Special("-inf")])
)
STRUCTURE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(lambda items: ListArg(tuple(items)))
        | st.lists(st.tuples(TEXT, inner), max_size=3).map(lambda items: DictArg(tuple(items)))
    ),
    max_leaves=8,
)
HEAD = st.builds(
    m.TensorHead,
    U32,
    st.sampled_from(["float32", "bfloat16", "bool"]),
    st.lists(WHOLE, max_size=4).map(tuple),
)
GENERATION = st.builds(
    Generation,
    U32,
    st.floats(0, 10),
    st.none() | U32,
    st.none() | st.floats(0, 1),
    st.none() | WHOLE,
    st.none() | st.lists(U32, max_size=3).map(tuple),
)
PARTS = st.lists(st.builds(TokenRows, ROWS, st.none() | GENERATION), max_size=3).map(tuple)
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
BLOB = st.builds(
    m.BlobHead, DIGEST, st.sampled_from(["float32", "bool"]), st.lists(WHOLE, max_size=4).map(tuple)
)
BLOBS = st.lists(BLOB, max_size=3, unique_by=lambda head: head.digest).map(tuple)
SPEC = st.builds(
    TensorSpec,
    TEXT,
    st.lists(st.builds(Dim, st.sampled_from(SizeForm), WHOLE), max_size=3).map(tuple),
)
SITE = st.builds(
    Site, st.builds(Address, TEXT, TEXT, WHOLE), WHOLE, SPEC | st.builds(OpaqueSpec, TEXT)
)
CALL = st.builds(SourceCall, TEXT, st.booleans(), TEXT, TEXT, WHOLE, TEXT, WHOLE)
SOURCE = st.builds(
    ModuleSource,
    TEXT,
    TEXT,
    TEXT,
    st.lists(CALL, max_size=2).map(tuple),
    st.lists(SITE, max_size=2).map(tuple),
)
MESSAGES: st.SearchStrategy[m.Message] = st.one_of(
    st.builds(m.Hello, WHOLE, TEXTS),
    st.builds(m.ListModels, U32),
    st.builds(m.GetCard, U32, TEXT),
    st.builds(m.GetSource, U32, TEXT, TEXT),
    st.builds(m.Source, U32, SOURCE),
    st.builds(m.Submit, U32, TEXT, WHOLE, PARTS, TEXT, BLOBS),
    st.builds(m.Cancel, U32),
    st.builds(m.Welcome, WHOLE, TEXTS, MODELS, WHOLE, WHOLE),
    st.builds(m.Missing, U32, st.lists(DIGEST, max_size=3).map(tuple)),
    st.builds(m.Models, U32, MODELS),
    st.builds(m.Card, U32, WHOLE),
    st.builds(m.Accepted, U32, U32, TEXT, TEXT),
    st.builds(m.Queued, U32, U32, WHOLE),
    st.builds(m.Started, U32, U32),
    st.builds(m.Saved, U32, U32, TEXT, STRUCTURE, st.lists(HEAD, max_size=3).map(tuple)),
    st.builds(m.Failed, U32, U32, ERROR),
    st.builds(m.Token, U32, U32, U32, st.lists(U32, max_size=4).map(tuple)),
    st.builds(m.Done, U32, U32, SECONDS, WHOLE, WHOLE, st.booleans()),
    st.builds(m.Error, st.none() | U32, ERROR),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(MESSAGES)
def test_a_message_comes_back_equal(message: m.Message) -> None:
    assert decode_message(encode_message(message), LIMITS) == message


@given(MESSAGES, st.data())
def test_a_message_with_a_field_changed_is_read_or_refused(
    message: m.Message, data: st.DataObject
) -> None:
    """Whatever stands in a field: a message or a typed error, never another exception."""
    plain = json.loads(encode_message(message))
    plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(JSON)

    assert read_or_refused(json.dumps(plain))


@given(MESSAGES, st.data())
def test_a_message_with_a_field_more_or_less_is_refused(
    message: m.Message, data: st.DataObject
) -> None:
    more = json.loads(encode_message(message))
    less = dict(more)
    del less[data.draw(st.sampled_from(sorted(set(less) - {"type"})))]

    for plain in ({**more, "extra": 1}, less):
        with pytest.raises(RemoteProtocolError):
            decode_message(json.dumps(plain), LIMITS)


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_a_message_or_a_typed_error(text: str) -> None:
    assert read_or_refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"hello"',
        '{"type": 3}',
        '{"type": "sing"}',
        '{"type": ["hello"]}',
        '{"type": "cancel", "job": NaN}',
        '{"type": "cancel", "job": -1}',
        '{"type": "cancel", "job": 1.0}',
        '{"type": "cancel", "job": true}',
        '{"type": "cancel", "job": 4294967296}',
        '{"type": "cancel", "job": 1, "job": 2}',
        '{"type": "cancel", "job": ' + "9" * 5_000 + "}",
        "[" * 10_000,
        '{"type": "get_card", "ask": 1, "model": "\\ud800"}',
        '{"type": "submit", "job": 1, "model": "m", "graph_bytes": 1, "rows": [["1"]], "key": ""}',
        '{"type": "submit", "job": 1, "model": "m", "graph_bytes": 1, "rows": [[-1]], "key": ""}',
    ],
)
def test_what_is_no_message_is_the_other_sides_fault(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        decode_message(text, LIMITS)

    assert isinstance(refused.value, ProtocolError)
    assert refused.value.code == "protocol-error"


def test_a_message_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(LimitExceeded):
        decode_message("[" * (LIMITS.text_bytes + 1), LIMITS)


def test_the_text_is_one_object_with_the_fields_by_name() -> None:
    """What a client in another language would write."""
    text = encode_message(m.Models(7, (SUMMARY,)))

    assert json.loads(text) == {
        "type": "models",
        "ask": 7,
        "models": [
            {
                "name": "tiny",
                "architecture": "LlamaForCausalLM",
                "dtype": "float32",
                "engine": "transformers",
                "device": "cpu",
                "layers": 6,
                "parameters": 1_600_000,
                "certificate": "",
            }
        ],
    }


def read_or_refused(text: str) -> Any:
    """A message, or the typed error it was refused with."""
    try:
        return decode_message(text, LIMITS)
    except LabError as exc:
        return exc
