"""Laws of the door: what is open, what needs the token, and what the token leaves behind."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import pytest

from nnsight_lab_server.auth import TokenAuth, new_token
from nnsight_lab_server.engines.base import Engine
from tests.server.lab_server import TOKEN, Serving, serving, tiny_engine


def get(running: Serving, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    is_json = response.getheader("content-type") == "application/json"
    return response.status, json.loads(body) if is_json else {}


def test_whether_it_lives_and_is_ready_anybody_may_ask(lab: Serving) -> None:
    assert get(lab, "/livez") == (200, {"alive": True})
    assert get(lab, "/readyz") == (200, {"ready": True, "models": {"tiny": "ready"}})


def test_it_is_not_ready_while_a_model_loads() -> None:
    go_on = threading.Event()

    def slow() -> Engine:
        assert go_on.wait(60)
        return tiny_engine()

    with serving(("tiny", slow), wait=False) as running:
        loading = get(running, "/readyz")
        alive = get(running, "/livez")[0]
        go_on.set()

    assert loading == (503, {"ready": False, "models": {"tiny": "loading"}})
    assert alive == 200


def test_what_is_served_needs_the_token(lab: Serving) -> None:
    status, body = get(lab, "/models", Authorization=f"Bearer {TOKEN}")

    assert status == 200
    assert [model["name"] for model in body["models"]] == ["tiny"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        refused, error = get(lab, "/models", **headers)
        assert refused == 401
        assert error["error"]["code"] == "auth-failed"


@pytest.mark.parametrize("path", ["/models?token=" + TOKEN, "/nothing", "/ws"])
def test_a_token_in_the_address_opens_nothing(path: str, lab: Serving) -> None:
    assert get(lab, path)[0] in {401, 404}


@pytest.mark.parametrize(
    ("header", "let_in"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer  secret ", True),
        ("Bearer Secret", False),
        ("Bearer secret2", False),
        ("Bearer", False),
        ("secret", False),
        ("Basic secret", False),
        ("", False),
        ("Bearer \udce9", False),
    ],
)
def test_only_the_token_itself_opens(header: str, let_in: bool) -> None:
    assert TokenAuth("secret").allows({"authorization": header}) is let_in


def test_no_header_opens_nothing() -> None:
    assert not TokenAuth("secret").allows({})


@pytest.mark.parametrize("token", ["", "  ", "x" * 5_000])
def test_a_token_that_keeps_nobody_out_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        TokenAuth(token)


def test_the_token_is_not_kept() -> None:
    auth = TokenAuth("secret")

    assert "secret" not in repr(auth) + repr(vars(auth))


def test_a_new_token_is_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}

    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 32
