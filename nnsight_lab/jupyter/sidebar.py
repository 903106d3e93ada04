"""The kernel's end of the sidebar: what it tells the labextension, and what it answers.

The page opens two comms. On the *view* comm Python only publishes; on the *control* comm it only
answers, so that JupyterLab's messages are handled on a thread beside a busy cell (a comm is routed
to the shell that published on it last). Nothing is sent before a page has opened them: without the
extension this is a list of runs and nothing else.

    view      {"runs": […], "models": […], "server": {…}}    what has changed, ten times a second
    control   {"ask": 3, "kind": "cancel", "run": id}  →  {"ask": 3, "content": {…}} or an error

Rows of runs are made in `run_log.py`, of models in `model_rows.py`, of the server in
`server_watch.py`. `labextension/src/link.ts` is the other end.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import ExitStack
from typing import Any

from nnsight_lab.errors import BadInput, LabError
from nnsight_lab.jupyter.model_rows import labs_in, model_rows, models_in, module_rows
from nnsight_lab.jupyter.run_log import Cell, LoggedRun, RunLog
from nnsight_lab.jupyter.server_watch import ServerWatch
from nnsight_lab.models.lab import Lab, connect
from nnsight_lab.models.run import Run
from nnsight_lab.models.under_way import watching

__all__ = ["TARGET", "Sidebar", "open_explorer", "register_sidebar", "rerun"]

TARGET = "nnsight_lab.sidebar"
"""The target of both comms: JupyterLab gives each target a thread of its own."""

_EVERY_S = 0.1
_FORGET_S = 300.0
"""A page that was not heard of for so long is gone; those that are there speak once a minute."""


class Sidebar:
    """What one kernel tells every page that shows it."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._views: dict[str, _View] = {}
        self._thread: threading.Thread | None = None
        self._models: list[dict[str, Any]] = []
        self.log = RunLog(self._cell, self._wake.set)
        self.server = ServerWatch(self._lab, lambda: bool(self._views), self._wake.set)
        self._ends = ExitStack()
        self._ends.enter_context(watching(self._watch))

    def close(self) -> None:
        """Watch no more runs, and tell no page of anything."""
        self._ends.close()
        self._views.clear()
        self._wake.set()

    # From the kernel

    def _watch(self, run: Any, event: Any) -> None:
        # A watcher's error would end the run: a row too few is the smaller harm.
        with contextlib.suppress(Exception):
            self.log.watch(run, event)

    def _cell(self) -> Cell:
        """The cell that this thread runs, from the message that asked for it."""
        kernel = getattr(self.shell, "kernel", None)
        parent = kernel.get_parent("shell") if kernel is not None else {}
        cell = (parent.get("metadata") or {}).get("cellId", "")
        return str(cell), str((parent.get("header") or {}).get("msg_id", ""))

    def cell_ended(self, *_: Any) -> None:
        """Look at the variables; on the main thread, since a new model may be measured here."""
        with contextlib.suppress(Exception):
            self._models = model_rows(self.shell.user_ns)
        self._wake.set()
        if self._views:
            self.server.begin()

    def _lab(self) -> tuple[str, Lab] | None:
        """The lab of `%nnl connect`, else the last that a variable holds."""
        labs = labs_in(self.shell.user_ns)
        return list(labs.items())[-1] if labs else None

    def opened(self, comm: Any, message: dict[str, Any]) -> None:
        """A page has opened one of its two comms."""
        role = message["content"]["data"].get("role")
        (self._view_opened if role == "view" else self._control_opened)(comm, message)

    # To the page

    def _view_opened(self, comm: Any, message: dict[str, Any]) -> None:
        name = str(message["content"]["data"].get("page", comm.comm_id))
        with self._lock:
            self._views[name] = _View(comm)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._publish, name="nnsight-lab-sidebar", daemon=True
                )
                self._thread.start()
        comm.on_close(lambda _: self._views.pop(name, None))
        self._wake.set()
        self.server.begin()

    def _publish(self) -> None:
        while True:
            self._wake.wait(_FORGET_S)
            self._wake.clear()
            self._publish_once()
            with self._lock:
                if not self._views:
                    self._thread = None
                    return
            time.sleep(_EVERY_S)

    def _publish_once(self) -> None:
        oldest = time.monotonic() - _FORGET_S
        for name, view in list(self._views.items()):
            if view.heard < oldest:
                self._views.pop(name, None)
            else:
                view.tell(self.log, self._models, self.server.row)

    # Asked by the page

    def _control_opened(self, comm: Any, message: dict[str, Any]) -> None:
        comm.on_msg(lambda said: self._answer(comm, said["content"]["data"]))
        self._answer(comm, message["content"]["data"])

    def _answer(self, comm: Any, data: dict[str, Any]) -> None:
        answers = {
            "hello": self._hello,
            "cancel": self._cancel,
            "modules": self._modules,
            "connect": self._connect,
        }
        try:
            content = answers[str(data.get("kind"))](data)
        except LabError as exc:
            comm.send({"ask": data.get("ask"), "error": exc.message, "hint": exc.hint})
        else:
            comm.send({"ask": data.get("ask"), "content": content})

    def _hello(self, data: dict[str, Any]) -> dict[str, Any]:
        view = self._views.get(str(data.get("page")))
        if view is not None:
            view.heard = time.monotonic()
        beside = threading.current_thread() is not threading.main_thread()
        return {"beside": beside, "known": view is not None}

    def _cancel(self, data: dict[str, Any]) -> dict[str, Any]:
        logged = self.found(str(data.get("run")))
        under_way = logged.under_way
        if under_way is not None:
            under_way.cancel()
        return {"was_under_way": under_way is not None}

    def _modules(self, data: dict[str, Any]) -> dict[str, Any]:
        variable, name = data.get("variable"), data.get("served")
        if name is not None:
            lab = self._lab()
            if lab is None:
                raise BadInput("There is no connected lab.", hint="%nnl connect URL")
            tree = lab[1].client.card(str(name)).tree
            return {"modules": module_rows(tree, "lm")}
        model = models_in(self.shell.user_ns).get(str(variable))
        if model is None:
            raise BadInput(f"{variable} is no model any more.", hint="Run its cell again.")
        return {"modules": module_rows(model.card.tree, str(variable))}

    def _connect(self, data: dict[str, Any]) -> dict[str, Any]:
        """Connect `lab` to a server, unless there is one; the token is of the environment."""
        if self._lab() is None:
            self.shell.user_ns["lab"] = connect(data.get("url") or None)
        self.server.begin()
        return {}

    def found(self, id: str) -> LoggedRun:
        """A run by its id. Raises `BadInput` when it is no longer kept."""
        logged = self.log.find(id)
        if logged is None:
            raise BadInput(f"Run {id[:8]} is no longer kept.", hint="Run its cell again.")
        return logged

    def run(self, id: str) -> Run:
        """The run itself, where a variable or an output still has it; else the same once more."""
        logged = self.found(id)
        graph = logged.graph()
        space = self.shell.user_ns
        if graph is not None:
            for value in [*space.values(), *dict(space.get("Out", {})).values()]:
                if isinstance(value, Run) and value.graph is graph:
                    return value
        return self.rerun(id)

    def rerun(self, id: str) -> Run:
        """The same graph on the same inputs, once more."""
        logged = self.found(id)
        model, graph = logged.model(), logged.graph()
        if model is None or graph is None or logged.inputs is None:
            raise BadInput(
                f"What run {id[:8]} ran is no longer in memory.", hint="Run its cell again."
            )
        return model.run_inputs(graph, logged.inputs, logged.prompt)


class _View:
    """One page: what it was told last."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._runs = 0
        self._told: dict[str, Any] = {}
        self.heard = time.monotonic()

    def tell(self, log: RunLog, models: Any, server: Any) -> None:
        """Send what has changed since the last time."""
        first, since = not self._told, self._runs
        self._runs, runs = log.rows(since)
        now = {"models": models, "server": server}
        news = {name: value for name, value in now.items() if self._told.get(name) != value}
        self._told = now
        if runs or news or first:
            self._comm.send(news | {"runs": runs, "first": first})


class _Sign:
    """Stands among the kernel's comms, and says that the sidebar is there."""

    target_name = TARGET


_sidebar: Sidebar | None = None


def register_sidebar(shell: Any) -> None:
    """Keep a list of the runs of a shell, and wait for a page that asks for it."""
    global _sidebar  # noqa: PLW0603 - one kernel, one sidebar
    if _sidebar is not None or getattr(shell, "kernel", None) is None:
        return
    import comm

    _sidebar = Sidebar(shell)
    manager: Any = comm.get_comm_manager()
    manager.register_target(TARGET, _sidebar.opened)
    # A page that opened a comm nobody knows would be an error in the log, and a kernel that opens
    # one on a page without the extension is one there. So a page looks whether this is listed.
    manager.comms[TARGET] = _Sign()
    shell.events.register("post_run_cell", _sidebar.cell_ended)
    _sidebar.cell_ended()


def _there() -> Sidebar:
    if _sidebar is None:
        raise BadInput("The sidebar is not loaded.", hint="%load_ext nnsight_lab")
    return _sidebar


def rerun(id: str) -> Run:
    """The run of this id once more: what "run again" does for a run that no cell made."""
    return _there().rerun(id)


def open_explorer(id: str) -> None:
    """Display the explorer of the run of this id. Called by the sidebar, in a tab of its own."""
    from IPython.display import display

    run = _there().run(id)
    explore = getattr(run, "explore", None)
    if explore is None:
        display(run)
        print("This version has no explorer; the run itself is above.")  # noqa: T201
        return
    display(explore())
