"""Graph to graph, graph to schedule, graph to cost: pure functions, named by what holds after.

    live.py       drop_dead_nodes: every node left serves an output or a write
    schedule.py   schedule: which nodes run at which moment of the forward pass
    shapes.py     specs of a module tree as tensors without data
    check.py      check_graph: names, order, shapes and cost, before anything runs or queues
    combine.py    then: a second graph that sees what the first one edited
    sources.py    operations inside modules: whose sources a graph needs

No pass looks at the values of tensors, opens a socket, or knows an executor.
"""

from nnsight_lab.passes.check import GraphCost, check_graph, check_inputs
from nnsight_lab.passes.combine import then
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.passes.schedule import Moment, Schedule, schedule
from nnsight_lab.passes.shapes import meta_of_spec
from nnsight_lab.passes.sources import check_as_measured, paths_with_source, tree_for_graph

__all__ = [
    "GraphCost",
    "Moment",
    "Schedule",
    "check_as_measured",
    "check_graph",
    "check_inputs",
    "drop_dead_nodes",
    "meta_of_spec",
    "paths_with_source",
    "schedule",
    "then",
    "tree_for_graph",
]
