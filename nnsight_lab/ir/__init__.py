"""The intervention graph: an experiment as data.

    Address   a place in a model             address.py
    Node      one step of the experiment     nodes.py; its arguments: literals.py
    Graph     nodes, named outputs, version  graph.py; its tensors: constants.py
    text      the numbered text form         text.py
    sliders   constants that may be moved  sliders.py
    codec     bytes and back, bounded        codec.py, plain_nodes.py, plain_args.py, limits.py
    files     the layout of saved experiments  files.py
    said      what a node says, to look up by  said.py
    ops       the names an op may have       ops.py
    tree      a model's modules and sites    tree.py
    source    operations inside a forward    source.py

Standard library only: no torch, no models, no sockets, no notebooks. A graph says what to do,
never what happened; the values of a run live in `nnsight_lab.runtime.values`.
"""

from nnsight_lab.ir.address import Address
from nnsight_lab.ir.graph import SCHEMA, Graph, Output
from nnsight_lab.ir.limits import Limits
from nnsight_lab.ir.literals import DictArg, ListArg, Name, Ref, SliceArg, Special, TensorData
from nnsight_lab.ir.nodes import (
    Apply,
    Block,
    Call,
    Cond,
    Constant,
    Foreach,
    Gradient,
    GradientWrite,
    LocalCall,
    Node,
    NodeId,
    Param,
    Read,
    Skip,
    SliderRange,
    Weight,
    While,
    Write,
)
from nnsight_lab.ir.sliders import Slider
from nnsight_lab.ir.source import (
    ModuleSource,
    SourceCall,
    is_source_port,
    source_address,
    with_sources,
)
from nnsight_lab.ir.tree import (
    MOMENTS_APART,
    RESULT,
    RESULT_MOMENT,
    STEP,
    TOKENS,
    TOKENS_MOMENT,
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
    is_said_by_input,
)

__all__ = [
    "MOMENTS_APART",
    "RESULT",
    "RESULT_MOMENT",
    "SCHEMA",
    "STEP",
    "TOKENS",
    "TOKENS_MOMENT",
    "Address",
    "Apply",
    "Block",
    "Call",
    "Cond",
    "Constant",
    "DictArg",
    "DictSpec",
    "Dim",
    "Foreach",
    "Gradient",
    "GradientWrite",
    "Graph",
    "Limits",
    "ListArg",
    "LocalCall",
    "ModuleCard",
    "ModuleSource",
    "ModuleTree",
    "Name",
    "Node",
    "NodeId",
    "OpaqueSpec",
    "Output",
    "Param",
    "Read",
    "Ref",
    "Site",
    "SizeForm",
    "Skip",
    "SliceArg",
    "Slider",
    "SliderRange",
    "SourceCall",
    "Spec",
    "Special",
    "TensorData",
    "TensorSpec",
    "TupleSpec",
    "is_said_by_input",
    "Weight",
    "While",
    "Write",
    "is_source_port",
    "source_address",
    "with_sources",
]
