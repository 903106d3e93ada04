"""A server with the bundled model, started once, and the same model at home to compare with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from tests.server.lab_server import Serving, serving, tiny_engine


@pytest.fixture(scope="session")
def lab() -> Iterator[Serving]:
    """`nnsight-lab serve tiny`, in this process."""
    with serving(("tiny", tiny_engine)) as running:
        yield running


@pytest.fixture
def client(lab: Serving) -> Iterator[LabClient]:
    """A connected client."""
    client = lab.client()
    yield client
    client.close()


@pytest.fixture
def remote(client: LabClient) -> RemoteExecutor:
    """The bundled model, at the end of a websocket."""
    return RemoteExecutor(client, "tiny")


@pytest.fixture(scope="session")
def local() -> LocalExecutor:
    """The bundled model, in this process: what a remote run is compared with."""
    return load_local("tiny")
