"""The text form of a graph: one numbered line a node, stable, for errors and snapshots.

    graph, schema 1
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
from nnsight_lab.ir.nodes import Apply, Call, Constant, Gradient, Node, Read, Weight, Write

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


def _call_text(name: str, node: Call | Apply) -> str:
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


def _rows_text(invoke: int | None) -> str:
    return "" if invoke is None else f" of invoke {invoke}"


def node_to_text(node: Node) -> str:
    """What a node says, without its number and its line."""
    match node:
        case Constant(value=value):
            return f"const {value.dtype}{list(value.shape)} {value.digest[:8]}"
        case Read(address=address, invoke=invoke):
            return f"read {address}{_rows_text(invoke)}"
        case Write(address=address, value=value, invoke=invoke):
            return f"write {address}{_rows_text(invoke)} <- %{value}"
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
        case Gradient(of=of, at=at):
            return f"gradient of %{of} at %{at}"
        case Weight(path=path, name=name):
            return f"weight {path}.{name}" if path else f"weight {name}"


def graph_to_text(graph: Graph) -> str:
    """The whole graph, one line a node, then what it saves."""
    width = len(str(max(len(graph.nodes) - 1, 0))) + 1
    lines = [f"graph, schema {_schema()}"]
    if graph.invokes:
        lines.append(f"  invokes of {', '.join(map(str, graph.invokes))} rows")
    for node in graph.nodes:
        number = f"%{node.id}".rjust(width)
        head = " " * (width + 2) if isinstance(node, Write) else f"{number} ="
        line = f"  {head} {node_to_text(node)}"
        if node.where is not None:
            line = f"{line.ljust(_COLUMN)} # line {node.where.line}"
        lines.append(line)
    lines += [f"save {output.name} = %{output.node}" for output in graph.outputs]
    return "\n".join(lines)


def _schema() -> int:
    from nnsight_lab.ir.codec import SCHEMA

    return SCHEMA
