"""What each value of a program is called: as the user called it, where that is known."""

from __future__ import annotations

import ast
import builtins
import keyword
import re

from nnsight_lab.ir import Apply, Call, Constant, Graph, LocalCall, Node, Read, Ref, Weight
from nnsight_lab.ir.nodes import has_value

__all__ = ["Names"]

_OURS = frozenset(
    "model module args kwargs output saved hooks device functions torch run whole parts query key "
    "value pattern input_ids attention_mask position_ids inputs attention_hooks at_qkv at_pattern constant copied "
    "with_item first_input with_first_input apart silent itertools base64 copy contextmanager "
    "sys DATA MODEL".split()
)  # fmt: skip


class Names:
    """Names that are free, given out one by one."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {*_OURS, *keyword.kwlist, *dir(builtins)}
        self._wanted = {**_assigned(graph), **_saved(graph)}
        self.of: dict[int, str] = {}
        self._kept_free = set(self._wanted.values())

    def free(self, wanted: str, *, given: bool = False) -> str:
        """A name that nothing has yet: `wanted`, or with a number.

        given: the user gave it; other names keep clear of those.
        """
        plain = re.sub(r"\W+", "_", wanted).strip("_") or "value"
        if plain[0].isdigit():
            plain = f"_{plain}"
        name, count = plain, 1
        while name in self._taken or (not given and name in self._kept_free):
            count += 1
            name = f"{plain}_{count}"
        self._taken.add(name)
        return name

    def wanted(self, id: int) -> bool:
        """Whether the user gave the node's value a name."""
        return id in self._wanted

    def give(self, node: Node) -> str:
        """The name of a node's value."""
        if node.id not in self.of:
            wanted = self._wanted.get(node.id)
            self.of[node.id] = (
                self.free(wanted, given=True) if wanted else self.free(self.plain(node))
            )
        return self.of[node.id]

    def plain(self, node: Node) -> str:
        """A name for what nobody named: where it was read, or how it was made."""
        match node:
            case Read(address=address, invoke=invoke):
                rows = "" if invoke is None else f"_of_{invoke}"
                return f"{address}{rows}"
            case Weight(path=path, name=name):
                return f"{path}.{name}"
            case Constant(slider=range):
                return "tensor" if range is None else range.name
            case Apply(path=path):
                return path.rpartition(".")[2] or "model_again"
            case LocalCall(function=function):
                return f"{function}_gave"
            case Call(op="lab.assign" | "lab.set_item", args=(Ref(id=id), *_)):
                base = re.sub(r"(_edited)?(_\d+)?$", "", self.of.get(id, "value"))
                return f"{base}_edited"
            case Call(op="operator.getitem"):
                return "part"
            case Call(op=op):
                return op.rpartition(".")[2].strip("_")
            case _:
                return type(node).__name__.lower()


def _saved(graph: Graph) -> dict[int, str]:
    """Nodes under the name they are saved by, where that can be a variable."""
    names = ((output.node, output.name) for output in reversed(graph.outputs))
    return {node: name for node, name in names if name.isidentifier() and name != "_"}


def _assigned(graph: Graph) -> dict[int, str]:
    """Nodes under the name of the variable their line assigns: the last one made there."""
    last: dict[tuple[str, int], int] = {}
    for node in graph.nodes:
        if node.where is not None and has_value(node):
            last[node.where.file, node.where.line] = node.id
    found: dict[int, str] = {}
    for id in last.values():
        where = graph[id].where
        name = _target(where.text) if where is not None else None
        if name is not None and not isinstance(graph[id], Constant):
            found[id] = name
    return found


def _target(line: str) -> str | None:
    """The variable of a line such as `h = lm.layers[2].output`."""
    try:
        body = ast.parse(line).body
    except (SyntaxError, ValueError):
        return None
    match body:
        case [ast.Assign(targets=[ast.Name(id=name)])]:
            return name
    return None
