"""An address as a hook in a program: on which module, and how its value is taken and put back.

The module tree tells it: places of one moment are one hook, so the module whose own input or
output has the moment of a standard name is where that name is met. What no module hands over (q,
k, v and the pattern of most families) is met in the attention interface of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.families.table import (
    Attention,
    FusedProjection,
    InterfaceCall,
    MethodCall,
    TorchCall,
)
from nnsight_lab.ir import Address, DictSpec, ModuleTree, SizeForm, TensorSpec, TupleSpec

__all__ = ["Place", "place_of"]

Stage = Literal["after", "before", "before-any", "attention", "pattern"]
"""Of a module's call, `before-any` where its input may come by keyword; or of the attention."""

_Put = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a program: the stage and module of its hook.

    take: the value, as an expression. put: lines that put another in its place.
    turned: whether what is taken has its axes in another order in memory.
    """

    stage: Stage
    path: str
    call: int
    take: str
    put: _Put
    turned: bool = False


def place_of(address: Address, tree: ModuleTree, attention: Attention | None) -> Place:
    """Where a program meets an address; `attention` says how the family attends.

    Raises:
        NotSupported: no plain hook can stand there.
    """
    site = tree.by_address[address]
    if address.path in tree.by_path and address.port in ("input", "output"):
        return _of_module(address, tree)
    beside = [
        other.address
        for other in tree.sites
        if other.moment == site.moment
        and other.address.path in tree.by_path
        and other.address.port in ("input", "output")
    ]
    if beside:
        own = _of_module(beside[0], tree)
        return _of_port(address, beside[0], own, tree, attention)
    if isinstance(attention, InterfaceCall) and address.port in ("q", "k", "v", "pattern"):
        return _in_attention(address, tree)
    raise _cannot(address, _why(attention))


def _of_module(at: Address, tree: ModuleTree) -> Place:
    """A module's own input or output, as a whole."""
    if at.port == "output":
        return Place("after", at.path, at.call, "output", lambda new: [f"output = {new}"])
    if not tree.children(at.path):
        put: _Put = lambda new: [f"args = ({new}, *args[1:])"]  # noqa: E731 - one of a table
        return Place("before", at.path, at.call, "args[0]", put)
    return Place(
        "before-any",
        at.path,
        at.call,
        "first_input(args, kwargs)",
        lambda new: [f"args, kwargs = with_first_input(args, kwargs, {new})"],
    )


def _of_port(
    address: Address, at: Address, own: Place, tree: ModuleTree, attention: Attention | None
) -> Place:
    """A standard name that is a module's input or output, or a part of it."""
    spec = tree.by_address[at].spec
    match address.port, spec:
        case (("output" | "input" | "neurons" | "pattern"), TensorSpec()):
            return own
        case "output", TupleSpec():
            put: _Put = lambda new: [f"output = ({new}, *output[1:])"]  # noqa: E731
            return Place("after", at.path, at.call, "output[0]", put)
        case "logits", DictSpec():
            return Place(
                "after", at.path, at.call, "output.logits", lambda new: [f"output.logits = {new}"]
            )
        case "z", TensorSpec() if own.stage == "before":
            heads = _heads(address, tree)
            return Place(
                "before",
                at.path,
                at.call,
                f"args[0].unflatten(-1, ({heads}, -1))",
                lambda new: [f"args = ({new}.flatten(-2), *args[1:])"],
            )
        case (("q" | "k" | "v"), TensorSpec()) if isinstance(attention, FusedProjection):
            return _fused(address, at, _heads(address, tree))
    raise _cannot(address, "it is not all of what a module is given or gives")


def _heads(address: Address, tree: ModuleTree) -> int:
    spec = tree.by_address[address].spec
    if isinstance(spec, TensorSpec) and len(spec.dims) == 4:
        axis = spec.dims[2]
        if axis.form is SizeForm.FIXED:
            return axis.factor
    raise _cannot(address, "the number of heads is not known")


def _fused(address: Address, at: Address, heads: int) -> Place:
    """q, k or v of one projection that makes, for each head, first q, then k, then v."""
    split, place = f"output.unflatten(-1, ({heads}, 3, -1))", "qkv".index(address.port)

    def put(new: str) -> list[str]:
        return [
            f"parts = list({split}.unbind(-2))",
            f"parts[{place}] = {new}",
            "output = torch.stack(parts, dim=-2).flatten(-3)",
        ]

    return Place("after", at.path, at.call, f"{split}[..., {place}, :]", put, turned=True)


_ARGUMENTS = {"q": "query", "k": "key", "v": "value"}


def _in_attention(address: Address, tree: ModuleTree) -> Place:
    path = tree.module_of.get(address.path)
    if path is None:
        raise _cannot(address, "its attention module is not known")
    if address.port == "pattern":
        return Place("pattern", path, 0, "pattern", lambda new: [f"pattern = {new}"])
    name = _ARGUMENTS[address.port]
    return Place(
        "attention",
        path,
        0,
        f"{name}.transpose(1, 2)",
        lambda new: [f"{name} = {new}.transpose(1, 2)"],
        turned=True,
    )


def _why(attention: Attention | None) -> str:
    match attention:
        case TorchCall():
            return "this family calls torch's attention inside its own code"
        case MethodCall():
            return "this family attends in a method of its own"
        case _:
            return "no module is given it or gives it in that shape"


def _cannot(address: Address, why: str) -> NotSupported:
    return NotSupported(
        f"{address} cannot be said with plain hooks: {why}.",
        hint="Name the module that makes it by its path, e.g. its q_proj, or print the rest.",
    )
