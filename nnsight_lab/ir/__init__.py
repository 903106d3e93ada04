"""The intervention graph: an experiment as data.

    Address   a place in a model             address.py
    Node      one step of the experiment     nodes.py
    Graph     nodes, named outputs, version  graph.py
    text      the numbered text form         text.py
    codec     bytes and back, bounded        codec.py
    ops       the names an op may have       ops.py
    tree      a model's modules and sites    tree.py

Standard library only: no torch, no models, no sockets, no notebooks. A graph says what to do,
never what happened; the values of a run live in `nnsight_lab.runtime.values`.
"""

from nnsight_lab.ir.address import Address
from nnsight_lab.ir.codec import Limits
from nnsight_lab.ir.graph import SCHEMA, Graph, Output
from nnsight_lab.ir.literals import DictArg, ListArg, Name, Ref, SliceArg, Special, TensorData
from nnsight_lab.ir.nodes import Apply, Call, Constant, Gradient, Node, NodeId, Read, Weight, Write
from nnsight_lab.ir.tree import (
    DictSpec,
    Dim,
    ModuleCard,
    ModuleTree,
    OpaqueSpec,
    Site,
    SizeForm,
    Spec,
    TensorSpec,
    TupleSpec,
)

__all__ = [
    "SCHEMA",
    "Address",
    "Apply",
    "Call",
    "Constant",
    "DictArg",
    "DictSpec",
    "Dim",
    "Gradient",
    "Graph",
    "Limits",
    "ListArg",
    "ModuleCard",
    "ModuleTree",
    "Name",
    "Node",
    "NodeId",
    "OpaqueSpec",
    "Output",
    "Read",
    "Ref",
    "Site",
    "SizeForm",
    "SliceArg",
    "Spec",
    "Special",
    "TensorData",
    "TensorSpec",
    "TupleSpec",
    "Weight",
    "Write",
]
