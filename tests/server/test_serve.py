"""Laws of starting a server: safe by default, names that resolve, a line to paste."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nnsight_lab.errors import LabError, NotSupported, ServerError
from nnsight_lab_server.serve import ServeOptions, bind, serve, served_models, server_config


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "lab.example.org"])  # noqa: S104
def test_an_open_port_needs_a_chosen_token(host: str) -> None:
    said: list[str] = []

    with pytest.raises(NotSupported, match="token"):
        serve(ServeOptions(("tiny",), host=host, port=0), said.append)
    assert said == []


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(NotSupported, match="token"):
        serve(ServeOptions(("tiny",), port=0, token=" "), lambda _: None)  # noqa: S106


def test_a_taken_port_is_said_to_be_taken() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError) as refused:
            bind("127.0.0.1", port)
    assert "--port 0" in refused.value.hint


def test_small_messages_are_not_held_back() -> None:
    """Asyncio switches Nagle's algorithm off only where the protocol is named."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_model_that_is_not_there_ends_the_server_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(LabError) as failed:
        serve(ServeOptions((str(tmp_path / "missing" / "model"),), port=0), lambda _: None)
    assert failed.value.code == "model-not-found"


def test_models_are_named_by_bundle_folder_or_wish(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    options = ServeOptions(("tiny", str(folder), "small=tiny", "meta-llama/Llama-3.2-1B"))

    names = [model.name for model in served_models(options)]

    assert names == ["tiny", "my-model", "small", "meta-llama/Llama-3.2-1B"]


@pytest.mark.parametrize("models", [("tiny", "tiny"), ("a=x", "a=y"), ()])
def test_two_models_cannot_have_one_name(models: tuple[str, ...]) -> None:
    with pytest.raises(NotSupported, match="name"):
        served_models(ServeOptions(models))


def test_an_unknown_engine_is_refused_with_the_known() -> None:
    with pytest.raises(NotSupported) as refused:
        served_models(ServeOptions(("tiny",), engine="abacus"))
    assert "transformers" in refused.value.hint


def test_the_settings_are_the_servers_limits() -> None:
    options = ServeOptions(("tiny",))

    limits = server_config(options, "token").limits

    assert limits.wire.graph_bytes == options.settings.message_bytes
    assert limits.wire.chunk_bytes == options.settings.chunk_bytes
