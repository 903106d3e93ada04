"""Graph to graph, graph to schedule, graph to cost: pure functions, named by what holds after.

    live.py       drop_dead_nodes: every node left serves an output or does something
    stages.py     Stages: the forward passes of a run, and what each can be asked
    schedule.py   schedule: which nodes run at which moment of a run
    refusals.py   places that an engine does not serve, or takes no edit at
    skips.py      modules that do not run: that nothing inside is named
    sweeps.py     backward passes: in which order gradients arrive
    invokes.py    which rows of a batch are an invoke's
    generation.py what a generation may be asked
    positions.py  last_positions: of how many last positions the logits are needed
    by_row.py     writes_by_row: edits that can be made row after row
    padding.py    check_padding: that a graph does not see what fills a batch up
    shapes.py     specs of a module tree as tensors without data
    blocks.py     shapes of branches and loops
    features.py   check_features: whether an engine can do what a graph asks of it
    followed.py   followed_parts: which forward passes a backward pass goes back through
    check.py      check_graph: names, order, shapes and cost, before anything runs or queues
    combine.py    then: a second graph that sees what the first one edited
    sources.py    operations inside modules: whose sources a graph needs

No pass looks at the values of tensors, opens a socket, or knows an executor.
"""

from nnsight_lab.passes.by_row import writes_by_row
from nnsight_lab.passes.check import GraphCost, check_graph, check_inputs
from nnsight_lab.passes.combine import then, with_functions_named
from nnsight_lab.passes.features import check_features
from nnsight_lab.passes.followed import followed_parts
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.passes.padding import check_padding
from nnsight_lab.passes.positions import asks_for_logits, last_positions
from nnsight_lab.passes.schedule import Moment, Schedule, schedule
from nnsight_lab.passes.shapes import meta_of_spec
from nnsight_lab.passes.sources import check_as_measured, paths_with_source, tree_for_graph
from nnsight_lab.passes.stages import Part, Stages

__all__ = [
    "GraphCost",
    "Moment",
    "Part",
    "Schedule",
    "Stages",
    "check_as_measured",
    "check_features",
    "check_graph",
    "check_inputs",
    "check_padding",
    "followed_parts",
    "drop_dead_nodes",
    "asks_for_logits",
    "last_positions",
    "meta_of_spec",
    "paths_with_source",
    "schedule",
    "then",
    "tree_for_graph",
    "writes_by_row",
    "with_functions_named",
]
