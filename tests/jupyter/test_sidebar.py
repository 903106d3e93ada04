"""What the kernel tells the sidebar: rows of runs, of models, of modules; and what it answers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Queued
from nnsight_lab.errors import BadInput, Cancelled
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.jupyter.model_rows import code_for, model_rows, module_rows
from nnsight_lab.jupyter.run_log import RunLog
from nnsight_lab.jupyter.server_watch import ServerWatch
from nnsight_lab.jupyter.sidebar import Sidebar
from nnsight_lab.models.under_way import watching
from tests.server.lab_server import (
    TOKEN,
    GatedEngine,
    Run,
    reads,
    request_for,
    serving,
    tiny_engine,
)
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


@pytest.fixture
def log() -> Iterator[RunLog]:
    kept = RunLog(lambda: ("cell", "execution"), lambda: None)
    with watching(kept.watch):
        yield kept


def test_a_row_says_what_ran_where_and_what_it_cost(lm: nl.LanguageModel, log: RunLog) -> None:
    with lm.trace("The capital"):
        h = lm.layers[1].output.save()
        logits = lm.logits.save()
    _, (row,) = log.rows()

    assert (row["model"], row["prompt"], row["cell"]) == ("tiny", "The capital", "cell")
    assert (row["state"], row["steps"], row["of"]) == ("done", 2, 2)
    assert row["bytes"] == 4 * (h.numel() + logits.numel())
    assert 0 < row["seconds"] < 60


def test_a_generation_counts_its_tokens(lm: nl.LanguageModel, log: RunLog) -> None:
    seen = []
    with watching(lambda run, event: seen.append(log.rows()[1][-1]["steps"])):
        with lm.generate("Once", max_new_tokens=5, eos_token_id=[]) as tracer:
            for _ in tracer.iter[:]:
                lm.logits[:, -1].save()

    assert sorted(seen) == seen
    assert (seen[0], seen[-1]) == (0, 5)
    assert log.rows()[1][-1]["of"] == 5


def test_a_failed_run_says_why(lm: nl.LanguageModel, log: RunLog) -> None:
    @nl.local_fn
    def breaks(value: Any) -> Any:
        raise ValueError("no <such> thing")

    with pytest.raises(Exception, match="no <such> thing"), lm.trace("The capital"):
        breaks(lm.logits).save()
    _, (row,) = log.rows()

    assert row["state"] == "failed"
    assert "no <such> thing" in row["error"]


def test_only_what_has_changed_is_told(lm: nl.LanguageModel, log: RunLog) -> None:
    with lm.trace("a"):
        lm.logits.save()
    seen, first = log.rows()
    with lm.trace("b"):
        lm.logits.save()
    after, second = log.rows(seen)

    assert [row["prompt"] for row in first] == ["a"]
    assert [row["prompt"] for row in second] == ["b"]
    assert log.rows(after)[1] == []


def test_no_more_than_fifty_runs_are_kept(lm: nl.LanguageModel, log: RunLog) -> None:
    for number in range(53):
        with lm.trace(f"{number}"):
            lm.layers[0].output[:, -1, 0].save()
    prompts = [row["prompt"] for row in log.rows()[1]]

    assert prompts == [f"{number}" for number in range(3, 53)]


def test_the_list_keeps_no_model_and_no_graph(log: RunLog) -> None:
    net = nl.wrap(torch.nn.Linear(2, 2))
    with net.trace(torch.ones(1, 2)) as tracer:
        net.output.save()
    logged = log.find(log.rows()[1][0]["id"])
    assert logged is not None
    assert logged.graph() is tracer.run.graph
    assert logged.inputs is None  # tensors of the user's own

    del tracer, net
    gc.collect()
    assert logged.graph() is None
    assert logged.model() is None


def test_the_code_of_each_module_names_it(lm: nl.LanguageModel) -> None:
    rows = module_rows(lm.tree, "lm")
    paths = [row["path"] for row in rows]

    assert {"embed", "layers.2.attn", "model.layers.5.mlp.down_proj", "logits"} <= set(paths)
    assert len(paths) == len(set(paths))
    for row in rows:
        if row["kind"] == "value":  # it has a value only inside a trace
            continue
        named = eval(row["code"], {"lm": lm})
        assert repr(named) == repr(lm.get(row["path"]))
        for port in row["ports"]:
            assert port in dir(named), (row["path"], port)


def test_a_part_that_is_no_name_is_asked_for() -> None:
    assert code_for("lm", "layers.2.mlp") == "lm.layers[2].mlp"
    assert code_for("lm", "heads.a-b") == 'lm.get("heads.a-b")'
    assert code_for("net", "0.weight") == 'net.get("0.weight")'


def test_models_are_listed_once_by_their_first_name(lm: nl.LanguageModel) -> None:
    (row,) = model_rows({"lm": lm, "same": lm, "_hidden": lm, "x": 1})

    assert (row["variable"], row["name"]) == ("lm", "tiny")
    assert "6 layers" in row["about"]


class Comm:
    """The kernel's end of a comm, as ipykernel has it; what is sent on it is kept."""

    comm_id = "1"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.heard: Any = None

    def on_close(self, closed: Any) -> None:
        """Pages of these tests stay open."""

    def on_msg(self, heard: Any) -> None:
        self.heard = heard

    def send(self, data: dict[str, Any]) -> None:
        self.sent.append(data)

    def ask(self, **data: Any) -> dict[str, Any]:
        self.heard({"content": {"data": data}})
        return self.sent[-1]


class Shell:
    """A shell with variables and no kernel."""

    def __init__(self, **variables: Any) -> None:
        self.user_ns = variables


@pytest.fixture
def sidebar(lm: nl.LanguageModel) -> Iterator[Sidebar]:
    made = Sidebar(Shell(lm=lm))
    yield made
    made.close()


@pytest.fixture
def control(sidebar: Sidebar) -> Comm:
    comm = Comm()
    sidebar.opened(comm, {"content": {"data": {"role": "control", "kind": "hello", "ask": 1}}})
    return comm


def test_it_says_whether_it_hears_beside_the_cell(sidebar: Sidebar, control: Comm) -> None:
    assert control.sent == [{"ask": 1, "content": {"beside": False, "known": False}}]
    other = threading.Thread(target=lambda: control.ask(ask=2, kind="hello"))
    other.start()
    other.join()

    assert control.sent[-1]["content"]["beside"] is True


def test_a_run_under_way_is_cancelled_by_its_id(
    lm: nl.LanguageModel, sidebar: Sidebar, control: Comm
) -> None:
    def cancel(run: Any, event: Any) -> None:
        if type(event).__name__ == "Token":
            control.ask(ask=2, kind="cancel", run=run.id)

    with pytest.raises(Cancelled), watching(cancel):
        with lm.generate("Once", max_new_tokens=20, eos_token_id=[]) as tracer:
            for _ in tracer.iter[:]:
                lm.logits[:, -1].save()
    row = sidebar.log.rows()[1][-1]

    assert control.sent[1] == {"ask": 2, "content": {"was_under_way": True}}
    assert row["state"] == "cancelled"
    assert control.ask(ask=3, kind="cancel", run=row["id"])["content"] == {"was_under_way": False}


def test_what_cannot_be_done_is_refused_with_a_next_step(control: Comm) -> None:
    for question in ({"kind": "cancel", "run": "gone"}, {"kind": "modules", "variable": "gone"}):
        answer = control.ask(ask=5, **question)
        assert answer["ask"] == 5
        assert answer["error"]
        assert answer["hint"]


def test_modules_are_answered(lm: nl.LanguageModel, control: Comm) -> None:
    answer = control.ask(ask=2, kind="modules", variable="lm")

    assert answer["content"]["modules"] == module_rows(lm.tree, "lm")


def test_a_run_is_found_or_run_again(lm: nl.LanguageModel, sidebar: Sidebar) -> None:
    with lm.trace("The capital") as tracer:
        lm.logits.save()
    id = sidebar.log.rows()[1][-1]["id"]
    again = sidebar.rerun(id)

    (name,) = tracer.run
    assert torch.equal(again[name], tracer.run[name])
    sidebar.shell.user_ns["mine"] = tracer.run
    assert sidebar.run(id) is tracer.run
    with pytest.raises(BadInput, match="no longer kept"):
        sidebar.run("unknown")


def test_a_page_is_told_everything_once_and_then_what_changes(
    lm: nl.LanguageModel, sidebar: Sidebar
) -> None:
    comm = Comm()
    sidebar.cell_ended()
    with lm.trace("a"):
        lm.logits.save()
    sidebar.opened(comm, {"content": {"data": {"role": "view", "page": "p"}}})
    wait_for(lambda: len(comm.sent) == 1)
    with lm.trace("b"):
        lm.logits.save()
    wait_for(lambda: any(run["prompt"] == "b" for news in comm.sent[1:] for run in news["runs"]))

    assert comm.sent[0]["first"] is True
    assert [model["variable"] for model in comm.sent[0]["models"]] == ["lm"]
    assert [run["prompt"] for run in comm.sent[0]["runs"]] == ["a"]
    assert all("models" not in news for news in comm.sent[1:])


def test_a_page_is_told_of_the_queue_and_no_model_changes() -> None:
    gated = GatedEngine(tiny_engine())
    with serving(("tiny", lambda: gated)) as running, nl.connect(running.url, TOKEN) as lab:
        watch = ServerWatch(lambda: ("lab", lab), lambda: False, lambda: None)
        idle = asked(watch)
        other = running.client()
        executor = RemoteExecutor(other, "tiny")
        first = Run(executor, request_for(reads("logits")))
        assert gated.running.wait(60)
        second = Run(executor, request_for(reads("logits")))
        second.wait_for(Queued)
        busy = asked(watch)
        gated.open()
        first.end()
        second.end()
        wait_until(lambda: asked(watch) == idle, 20, "an empty queue")
        other.close()
    lost = asked(watch)

    assert idle["queue"] == [{"name": "tiny", "state": "ready", "running": 0, "waiting": 0}]
    assert busy["queue"] == [{"name": "tiny", "state": "ready", "running": 1, "waiting": 1}]
    assert busy["models"] == idle["models"]
    assert lost["state"] != "open"
    assert "queue" not in lost


def asked(watch: ServerWatch) -> dict[str, Any]:
    """What a watch finds when it looks."""
    watch._look()
    return watch.row


def wait_for(holds: Any) -> None:
    for _ in range(100):
        if holds():
            return
        threading.Event().wait(0.05)
    pytest.fail("it did not happen in 5 s")
