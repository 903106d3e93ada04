"""The text form of a graph: one numbered line a node, stable, for errors and snapshots.

    graph, schema 2
      %0 = read layers.2.output                      # line 2
      %1 = const float32[128] 3f2ac01b
      %2 = Tensor.add(%0, %1)                        # line 3
           write layers.2.output <- %2
      %4 = read logits                               # line 4
    save logits = %4

It is for people; the form that is read back is `codec`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnsight_lab.ir.literals import Arg, DictArg, ListArg, SliceArg
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
    blocks_of,
    has_value,
)
from nnsight_lab.ir.sliders import sliders_of

if TYPE_CHECKING:
    from nnsight_lab.ir.graph import Graph

__all__ = ["arg_to_text", "graph_to_text", "node_to_text"]

_COLUMN = 56


def arg_to_text(arg: Arg) -> str:
    """An argument as a person would write it."""
    match arg:
        case SliceArg(start=start, stop=stop, step=step):
            bounds = ["" if part is None else arg_to_text(part) for part in (start, stop, step)]
            return ":".join(bounds[:2] if step is None else bounds)
        case ListArg(items=items):
            return "[" + ", ".join(map(arg_to_text, items)) + "]"
        case DictArg(items=pairs):
            return "{" + ", ".join(f"{key}: {arg_to_text(value)}" for key, value in pairs) + "}"
        case tuple() as items:
            inner = ", ".join(map(arg_to_text, items))
            return f"({inner},)" if len(items) == 1 else f"({inner})"
        case str():
            return repr(arg)
        case e if e is Ellipsis:
            return "..."
        case _:
            return str(arg)


def _call_text(name: str, node: Call | Apply | LocalCall) -> str:
    parts = [arg_to_text(arg) for arg in node.args]
    parts += [f"{key}={arg_to_text(value)}" for key, value in node.kwargs]
    return f"{name}({', '.join(parts)})"


def _index_text(key: Arg) -> str:
    inner = arg_to_text(key)
    return f"[{inner[1:-1] if isinstance(key, tuple) and len(key) > 1 else inner}]"


def _steps_text(steps: Arg) -> str:
    """The way from a value to a view of it: `[:, -1].transpose(0, 1)`."""
    text = ""
    for step in steps if isinstance(steps, tuple) else ():
        match step:
            case ("operator.getitem", (key,), _):
                text += _index_text(key)
            case (str() as op, tuple() as args, _):
                text += f".{op.rsplit('.', 1)[-1]}({', '.join(map(arg_to_text, args))})"
    return text


def _rows_text(invoke: int | None, step: int) -> str:
    """Whose rows, and in which forward pass; nothing for all rows of the first."""
    rows = "" if invoke is None else f" of invoke {invoke}"
    return f"{rows} at step {step}" if step else rows


def _sweep_text(sweep: int) -> str:
    return f" in backward {sweep}" if sweep else ""


def _ids_text(ids: tuple[NodeId, ...]) -> str:
    return "(" + ", ".join(f"%{id}" for id in ids) + ")"


def node_to_text(node: Node) -> str:
    """What a node says, without its number and its line."""
    match node:
        case Constant(slider=SliderRange()):
            return f"slider {next(iter(sliders_of((node,)).values()))}"
        case Constant(value=value):
            return f"const {value.dtype}{list(value.shape)} {value.digest[:8]}"
        case Read(address=address, invoke=invoke, step=step):
            return f"read {address}{_rows_text(invoke, step)}"
        case Write(address=address, value=value, invoke=invoke, step=step):
            return f"write {address}{_rows_text(invoke, step)} <- %{value}"
        case Skip(address=address, value=value, step=step):
            return f"skip {address.path}{_rows_text(None, step)} <- %{value}"
        case Call(op="operator.getitem", args=(base, key)) if not node.kwargs:
            return f"{arg_to_text(base)}{_index_text(key)}"
        case Call(op="lab.assign", args=(base, steps, value)):
            return f"edit {arg_to_text(base)}{_steps_text(steps)} <- {arg_to_text(value)}"
        case Call(op="lab.set_item", args=(base, steps, key, value)):
            place = f"{arg_to_text(base)}{_steps_text(steps)}{_index_text(key)}"
            return f"edit {place} <- {arg_to_text(value)}"
        case Call(op=op):
            return _call_text(op, node)
        case Apply(path=path):
            return _call_text(f"apply {path or 'model'}", node)
        case LocalCall(function=function):
            return _call_text(f"local {function}", node)
        case Gradient(of=of, at=at, sweep=sweep):
            return f"gradient of %{of} at %{at}{_sweep_text(sweep)}"
        case GradientWrite(of=of, at=at, value=value, sweep=sweep):
            return f"gradient of %{of} at %{at}{_sweep_text(sweep)} <- %{value}"
        case Weight(path=path, name=name):
            return f"weight {path}.{name}" if path else f"weight {name}"
        case Param(index=index):
            return f"given {index}"
        case Cond(test=test, inputs=inputs):
            return f"if %{test} given {_ids_text(inputs)}"
        case Foreach(over=over, carry=carry, inputs=inputs):
            return f"for each of %{over} carry {_ids_text(carry)} given {_ids_text(inputs)}"
        case While(carry=carry, inputs=inputs, limit=limit):
            return f"while carry {_ids_text(carry)} given {_ids_text(inputs)} at most {limit}"


def _lines_of(nodes: tuple[Node, ...], indent: str) -> list[str]:
    width = len(str(max(len(nodes) - 1, 0))) + 1
    lines: list[str] = []
    for node in nodes:
        number = f"%{node.id}".rjust(width)
        head = f"{number} =" if has_value(node) else " " * (width + 2)
        line = f"{indent}{head} {node_to_text(node)}"
        if node.where is not None:
            line = f"{line.ljust(_COLUMN)} # line {node.where.line}"
        lines.append(line)
        for name, block in zip(_block_names(node), blocks_of(node), strict=True):
            lines += _block_lines(name, block, indent + " " * (width + 3))
    return lines


def _block_names(node: Node) -> tuple[str, ...]:
    match node:
        case Cond():
            return "then", "else"
        case Foreach():
            return ("do",)
        case While():
            return "as long as", "do"
        case _:
            return ()


def _block_lines(name: str, block: Block, indent: str) -> list[str]:
    gives = f"{indent}  give {_ids_text(block.results)}"
    return [f"{indent}{name}", *_lines_of(block.nodes, indent + "  "), gives]


def graph_to_text(graph: Graph) -> str:
    """The whole graph, one line a node, then what it saves."""
    lines = [f"graph, schema {_schema()}"]
    if graph.invokes:
        lines.append(f"  invokes of {', '.join(map(str, graph.invokes))} rows")
    lines += _lines_of(graph.nodes, "  ")
    lines += [f"save {output.name} = %{output.node}" for output in graph.outputs]
    return "\n".join(lines)


def _schema() -> int:
    from nnsight_lab.ir.codec import SCHEMA

    return SCHEMA
