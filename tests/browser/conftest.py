"""One JupyterLab for the folder, a Chromium a file, and a notebook a test."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="make test installs it")

from playwright.sync_api import Browser, sync_playwright

from tests.support.jupyter_lab import CHROMIUM_FLAGS, JupyterServer, NotebookPage

Open = Callable[..., NotebookPage]


def chromium() -> str | None:
    """Where the system's Chromium is; NNSIGHT_LAB_CHROMIUM says where else."""
    return os.environ.get("NNSIGHT_LAB_CHROMIUM") or shutil.which("chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no Chromium these tests are skipped, and say what to install."""
    if chromium() is None:
        here = Path(__file__).parent
        skipped = pytest.mark.skip(reason="no chromium: apt install chromium fonts-dejavu")
        for item in items:
            if here in item.path.parents:
                item.add_marker(skipped)


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A running JupyterLab."""
    server = JupyterServer.start(tmp_path_factory.mktemp("jupyter"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium. For a file only: its driver's event loop would disturb other tests."""
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_notebook(
    browser: Browser, jupyter: JupyterServer, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens notebooks; after the test, none of them may have complained or looked outside."""
    opened: list[NotebookPage] = []
    name = re.sub(r"\W+", "-", request.node.name).strip("-")

    def open_one(*cells: str) -> NotebookPage:
        page = NotebookPage.open(browser, jupyter, f"{name}-{len(opened)}", list(cells))
        opened.append(page)
        return page

    yield open_one
    for page in opened:
        page.close()
    for page in opened:
        page.check()


@pytest.fixture(scope="module")
def shared(
    browser: Browser, jupyter: JupyterServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """A notebook for all tests of a file, with the extension loaded and the bundled model as `lm`."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    page = NotebookPage.open(browser, jupyter, f"shared-{name}", [READY])
    page.run(0)
    yield page
    page.close()
    page.check()


READY = """import torch
import nnsight_lab as nl
%load_ext nnsight_lab
lm = nl.LanguageModel("tiny")
"""


@pytest.fixture
def notebook(open_notebook: Open) -> NotebookPage:
    """A notebook with the extension loaded and the bundled model as `lm`."""
    page = open_notebook(READY)
    page.run(0)
    return page
