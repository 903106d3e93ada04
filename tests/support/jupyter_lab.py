"""A real JupyterLab in a real Chromium: start it, open a notebook, run cells, look at the page.

Everything a test asks the page goes through JupyterLab's own objects (`window.jupyterapp`), which
is far steadier than key presses. The page notes what it asked of the network and what it complained
of; a test ends with `NotebookPage.check`, which allows neither.
"""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import nbformat
from playwright.sync_api import Browser, Locator, Page

from tests.support.waiting import wait_until

__all__ = ["CHROMIUM_FLAGS", "ROOT", "Heard", "JupyterServer", "NotebookPage", "wait_until"]

ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()

_SETTINGS = {
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
"""Every cell is on the page at once, and nothing is asked of the world."""


@dataclass
class JupyterServer:
    """A JupyterLab server on a folder of its own."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    app: str = "jupyterlab"

    @classmethod
    def start(
        cls, folder: Path, *, env: dict[str, str] | None = None, app: str = "jupyterlab"
    ) -> Self:
        """Start one, with its own settings; ready when this returns. app: or `notebook`."""
        work, settings = folder / "work", folder / "settings"
        work.mkdir(parents=True)
        for name, value in _SETTINGS.items():
            path = settings / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        own = {
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")]),
        }
        with (folder / "jupyter.log").open("wb") as log:
            process = subprocess.Popen(
                _command(work, port, app), env=os.environ | own | (env or {}),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        server = cls(f"http://127.0.0.1:{port}", work, process, app)
        wait_until(server._answers, 60, f"JupyterLab; see {folder / 'jupyter.log'}")
        return server

    def address(self, workspace: str, file: str) -> str:
        """Where a notebook is opened."""
        if self.app == "notebook":
            return f"{self.url}/notebooks/{file}"
        return f"{self.url}/lab/workspaces/{workspace}/tree/{file}?reset"

    def _answers(self) -> bool:
        assert self.process.poll() is None, "JupyterLab ended"
        try:
            return httpx.get(f"{self.url}/api", timeout=5).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End the server and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _command(work: Path, port: int, app: str) -> list[str]:
    # Notebook 7 reads its own settings, and lets JupyterLab serve the files of extensions.
    named = "LabApp" if app == "jupyterlab" else "JupyterNotebookApp"
    extensions = f"extra_labextensions_path={ROOT / 'nnsight_lab' / 'labextension'}"
    return [
        sys.executable, "-m", app, "--no-browser", "--ip=127.0.0.1", f"--port={port}",
        "--allow-root", f"--ServerApp.root_dir={work}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
        f"--{named}.expose_app_in_browser=True", "--LabApp.news_url=None",
        f"--LabApp.{extensions}", *([f"--{named}.{extensions}"] if app != "jupyterlab" else []),
    ]  # fmt: skip


@dataclass
class Heard:
    """What a page did beside what it shows: requests to other machines, complaints, traffic."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    frames: list[tuple[float, int]] = field(default_factory=list)
    sent: list[tuple[float, int]] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Note everything from now on. frames, sent: time and bytes of each websocket message."""
        page.on("request", lambda request: self._asked(request.url))
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", self._socket)

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(url)

    def _said(self, kind: str, text: str) -> None:
        # Lab asks for settings and workspaces that are not there yet, and says so.
        if kind == "error" and "404 (Not Found)" not in text:
            self.errors.append(text)

    def _socket(self, socket: Any) -> None:
        socket.on("framereceived", lambda data: self.frames.append((time.monotonic(), len(data))))
        socket.on("framesent", lambda data: self.sent.append((time.monotonic(), len(data))))


_KERNEL_READY = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.status === 'idle' && kernel?.connectionStatus === 'connected';
}"""
_CELL = "window.jupyterapp.shell.currentWidget.content.widgets[index]"
_ENDED = (
    f"index => {_CELL}.model.executionCount !== null && {_CELL}.model.executionState !== 'running'"
)
_RUN = """index => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = index;
    notebook.mode = 'command';
    notebook.deselectAll();
    window.jupyterapp.commands.execute('notebook:run-cell');
}"""
_ADD = """source => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const cells = notebook.model.sharedModel;
    cells.insertCell(cells.cells.length, {cell_type: 'code', source, metadata: {trusted: true}});
    return cells.cells.length - 1;
}"""
_ASK = """async code => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute(
        {code: '', silent: true, store_history: false, user_expressions: {answer: code}});
    const reply = await future.done;
    return reply.content.user_expressions.answer;
}"""


class NotebookPage:
    """A notebook open in a page of its own."""

    def __init__(self, page: Page, heard: Heard, path: Path) -> None:
        self.page = page
        self.heard = heard
        self.path = path

    @classmethod
    def open(
        cls, browser: Browser, server: JupyterServer, name: str, cells: list[str]
    ) -> NotebookPage:
        """Write a notebook of these code cells and open it; its kernel is ready."""
        path = server.folder / f"{name}.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, path)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page, heard = context.new_page(), Heard()
        page.set_default_timeout(30_000)
        heard.listen(page)
        opened = cls(page, heard, path)
        page.goto(server.address(name, path.name))
        opened.ready()
        return opened

    def ready(self) -> None:
        """Wait until the notebook is shown and its kernel answers."""
        self.page.wait_for_selector(".jp-CodeCell", timeout=60_000)
        self.page.wait_for_function(_KERNEL_READY, timeout=60_000)

    # Cells

    def add(self, source: str) -> int:
        """Append a code cell; its index."""
        index: int = self.page.evaluate(_ADD, source)
        return index

    def start(self, index: int) -> None:
        """Begin to run a cell, and do not wait."""
        self.page.evaluate(_RUN, index)

    def wait(self, index: int, seconds: float = 60) -> None:
        """Wait until a cell has run."""
        self.page.wait_for_function(_ENDED, arg=index, timeout=seconds * 1e3)

    def busy(self, index: int) -> bool:
        """Whether a cell has not ended."""
        return not self.page.evaluate(_ENDED, index)

    def run(self, index: int, seconds: float = 60) -> Locator:
        """Run a cell to its end; where its output is."""
        self.start(index)
        self.wait(index, seconds)
        return self.output(index)

    def cell(self, source: str, seconds: float = 60) -> Locator:
        """Append a cell and run it; where its output is. Fails with what the cell raised."""
        index = self.add(source)
        output = self.run(index, seconds)
        raised = [out for out in self.outputs(index) if out["output_type"] == "error"]
        assert not raised, "\n".join(raised[0]["traceback"])
        return output

    def output(self, index: int) -> Locator:
        """The output area of a cell."""
        return self.page.locator(".jp-Notebook-cell").nth(index).locator(".jp-OutputArea").first

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """The outputs of a cell as the notebook keeps them."""
        found: list[dict[str, Any]] = self.page.evaluate(
            f"index => {_CELL}.model.outputs.toJSON()", index
        )
        return found

    def source(self, index: int) -> str:
        """The text of a cell."""
        text: str = self.page.evaluate(f"index => {_CELL}.model.sharedModel.getSource()", index)
        return text

    @property
    def count(self) -> int:
        """How many cells there are."""
        number: int = self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
        )
        return number

    # Beside the cells

    def python(self, expression: str) -> Any:
        """The value of an expression in the kernel, which must be plain data."""
        answer = self.page.evaluate(_ASK, expression)
        assert answer["status"] == "ok", answer
        return ast.literal_eval(answer["data"]["text/plain"])

    def theme(self, *, dark: bool) -> None:
        """Change JupyterLab's theme."""
        name = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        self.page.wait_for_selector(
            f"body[data-jp-theme-light='{str(not dark).lower()}']", state="attached"
        )

    def save(self) -> dict[str, Any]:
        """Save the notebook; what the file holds."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def check(self) -> None:
        """Nothing left the machine, and nothing was complained of."""
        assert self.heard.outside == []
        assert self.heard.errors == []

    def close(self) -> None:
        """Close the page and shut its kernel down."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()"
        )
        self.page.context.close()
