"""What is remembered of the deaths of an engine: long enough to protect it, not for ever."""

from __future__ import annotations

from nnsight_lab.errors import EngineFailed
from nnsight_lab.ir import Address, Graph, Output, Read
from nnsight_lab_server.restarts import Restarts


def graph(layer: int) -> Graph:
    return Graph((Read(id=0, address=Address(f"layers.{layer}", "output")),), (Output("h", 0),))


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_graph_that_was_there_twice_is_refused_for_a_while_and_may_try_again() -> None:
    clock = Clock()
    restarts = Restarts(clock)
    suspect, other = graph(1), graph(2)
    restarts.died([suspect, other])
    assert restarts.refusal(suspect) is None
    restarts.died([suspect, suspect])

    refused = restarts.refusal(suspect)
    assert isinstance(refused, EngineFailed)
    assert "10 minutes" in refused.hint
    assert restarts.refusal(other) is None
    clock.now += 601
    assert restarts.refusal(suspect) is None
    restarts.died([suspect])  # it was not by chance
    assert restarts.refusal(suspect) is not None


def test_a_graph_that_ended_well_is_suspected_no_more() -> None:
    restarts = Restarts(Clock())
    restarts.died([graph(1)])
    restarts.ended_well(graph(1))
    restarts.died([graph(1)])

    assert restarts.refusal(graph(1)) is None
