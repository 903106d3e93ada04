"""`lm.layers[2].attn.q`: names to addresses. An envoy stands for a module, real or standard.

Attribute access walks the module tree; a port (`output`, `input`, `q`, `pattern`, …) inside a
trace is a recorded value. Standard names come first, then the model's own modules below them, so
`lm.layers[2].self_attn` works as well as `lm.layers[2].attn`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nnsight_lab.errors import AddressNotFound, GraphError, LabError, OpNotAllowed, SourceLine
from nnsight_lab.ir import TOKENS, Address, ModuleSource, ModuleTree
from nnsight_lab.passes.refusals import not_served
from nnsight_lab.passes.shapes import module_path, weight_meta
from nnsight_lab.tracing.aliases import Aliases
from nnsight_lab.tracing.attached import Attached, Attachments
from nnsight_lab.tracing.module_source import SourceEnvoy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.repeats import Calls
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["Envoy", "path_of"]


class Envoy:
    """A module of a model, by path or standard name; `tree` and `recorder` come from the model.

    tree: gives the module tree. recorder: gives the open recording, or None outside a trace.
    aliases: the user's own names for modules. call: which call of the module in one forward pass.
    attached: the user's own modules, shared by all envoys of a model. source: gives what the
    forward of the module at a path calls.
    """

    def __init__(
        self,
        path: str,
        tree: Callable[[], ModuleTree],
        recorder: Callable[[], Recorder | None],
        aliases: Aliases | None = None,
        *,
        call: int = 0,
        attached: Attachments | None = None,
        source: Callable[[str], ModuleSource] | None = None,
    ) -> None:
        vars(self).update(
            _path=path,
            _tree=tree,
            _recorder=recorder,
            _aliases=aliases or Aliases(),
            _call=call,
            _attached=Attachments() if attached is None else attached,
            _source_of=source,
        )

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        tree = self._tree()
        if name in self._ports(tree):
            return self._open(name).places.read(self._address(name))
        own = self._attached.get(self._key, name)
        if own is not None:
            return Attached(own, f"{self._path}.{name}".strip("."), self._recorder)
        child = self._child(tree, name)
        if child is not None:
            return child
        if weight_meta(tree, self._path, name) is not None:
            return self._open(name).weight(self._path, name)
        if name == "source":
            return self._source(tree)
        raise self._unknown(tree, name)

    @one_frame
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, torch.nn.Module):
            self._attach(name, value)
            return
        if weight_meta(self._tree(), self._path, name) is not None:
            raise OpNotAllowed(
                f"{self._path}.{name} is a parameter of the model; a trace does not edit those.",
                hint="Edit the module's output.",
            )
        if name not in self._ports(self._tree()):
            raise self._unknown(self._tree(), name)
        self._open(name).places.write(self._address(name), value)

    @one_frame
    def __delattr__(self, name: str) -> None:
        if not self._attached.remove(self._key, name):
            raise self._unknown(self._tree(), name)

    def _attach(self, name: str, module: torch.nn.Module) -> None:
        """`lm.layers[2].sae = sae`: from then on `lm.layers[2].sae(h)` is part of a trace."""
        taken = {*self._names(self._tree()), *object.__dir__(self)}
        if name in taken - set(self._attached.names(self._key)):
            raise OpNotAllowed(
                f"{self._path or 'The model'} has a {name!r} of its own.",
                hint="Attach your module under another name.",
            ).at(user_line())
        self._attached.add(self._key, name, module)

    @property
    def _key(self) -> str:
        """The one path of this module, by which what is attached to it is kept."""
        return module_path(self._tree(), self._path)

    @one_frame
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module on recorded values, out of its order; the model's own pass goes on."""
        return self._open("").apply(self._path, args, kwargs)

    @one_frame
    def skip(self, value: Any) -> None:
        """Do not run this module: its output is `value`, a tensor or what else it would give.

        The value must be there before the module is due. Nothing inside it may be read; its
        output may, and be edited.
        """
        self._open("skip").skips.skip(self._path, self._call, value)

    @property
    @one_frame
    def calls(self) -> list[Envoy]:
        """This module once for each time it runs in one forward pass: `net.shared.calls[1].output`.

        Raises:
            AddressNotFound: the forward pass does not run it. Of a wrapped module it is known
                inside a trace only.
        """
        tree = self._tree()
        count = _calls_of(tree, self._path)
        if not count:
            raise AddressNotFound(
                f"{self._path or 'The model'} is not known to run.",
                hint="Ask inside a trace, and for a module that the forward pass calls.",
            ).at(user_line())
        return Calls(self._path, [self._at_call(self._path, call) for call in range(count)])

    def _at_call(self, path: str, call: int) -> Envoy:
        other = Envoy.__new__(Envoy)
        vars(other).update(vars(self), _path=path, _call=call)
        return other

    def _address(self, port: str) -> Address:
        if not self._call:
            return Address(self._path, port)
        # A standard name means the first call.
        return Address(module_path(self._tree(), self._path), port, self._call)

    @one_frame
    def __getitem__(self, index: int | str | slice) -> Any:
        """A module of a list, by number or dotted path; a slice gives a list of them."""
        tree = self._tree()
        if isinstance(index, str):
            return self.get(index)
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        count = len(self)
        place = index + count if index < 0 else index
        child = self._child(tree, str(place)) if 0 <= place < count else None
        if child is None:
            raise AddressNotFound(
                f"No module {self._path or 'model'}[{index}]: it has {count}, 0 to {count - 1}."
                if count
                else f"{self._path or 'The model'} is not a list of modules.",
                hint=f"Use {self._path}[{count - 1}] or [-1] for the last." if count else "",
            ).at(user_line())
        return child

    @one_frame
    def get(self, path: str) -> Envoy:
        """The module at a dotted path below this one, whatever its name."""
        found = self
        for part in path.split("."):
            child = found._child(found._tree(), part)
            if child is None:
                raise found._unknown(found._tree(), part)
            found = child
        return found

    def __len__(self) -> int:
        tree = self._tree()
        length: int = tree.lengths.get(module_path(tree, self._path), 0)
        return length

    def __iter__(self) -> Iterator[Envoy]:
        tree = self._tree()
        found = [self._child(tree, str(index)) for index in range(len(self))]
        return iter([child for child in found if child is not None])

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), "source", *self._names(self._tree())]

    def __repr__(self) -> str:
        tree = self._tree()
        card = tree.by_path.get(module_path(tree, self._path))
        name = f"{self._path or 'model'}{f'.calls[{self._call}]' if self._call else ''}"
        lines = [f"{name}  ({card.kind if card else 'standard name'})"]
        count = _calls_of(tree, self._path)
        if count > 1 and not self._call:
            lines.append(f"  runs {count} times: .calls[0] … .calls[{count - 1}]")
        for port in self._ports(tree):
            site = tree.by_address[_one(tree, Address(self._path, port))]
            lines.append(f"  .{port}: {site.spec}")
        lines += [f"  .{name}" for name in self._child_names(tree) if not name.isdigit()]
        lines += [f"  .{name}: yours, {kind}" for name, kind in self._attached.kinds(self._key)]
        aliases = self._aliases.names_below(tree, self._path)
        lines += [f"  .{name} = {target}" for name, target in aliases.items()]
        if len(self):
            lines.append(f"  [0] … [{len(self) - 1}]")
        return "\n".join(lines)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = next(arg for arg in args if isinstance(arg, cls))
        raise given.as_value()

    def as_value(self) -> GraphError:
        """The refusal of a module where a value is meant."""
        name = self._path or "model"
        return GraphError(
            f"{name} is a module, not a value.", hint=f"Its value is {name}.output."
        ).at(user_line())

    def _open(self, name: str) -> Recorder:
        recorder: Recorder | None = self._recorder()
        if recorder is None:
            dotted = f"{self._path}.{name}".strip(".")
            raise GraphError(
                f"{dotted} has a value only inside a trace.",
                hint="with model.trace(prompt): … = model.… .save()",
            ).at(user_line())
        return recorder

    def _source(self, tree: ModuleTree) -> SourceEnvoy:
        if module_path(tree, self._path) not in tree.by_path:
            raise AddressNotFound(
                f"{self._path} is a name for values, not a module with a forward of its own.",
                hint="print(model) shows the modules.",
            )
        if self._source_of is None:
            raise self._unknown(tree, "source")
        return SourceEnvoy(self._path, self._source_of(module_path(tree, self._path)), self._open)

    def _ports(self, tree: ModuleTree) -> tuple[str, ...]:
        return tree.ports_of.get(self._path, ())

    def _child(self, tree: ModuleTree, name: str) -> Envoy | None:
        for base in (self._path, module_path(tree, self._path)):
            path = f"{base}.{name}" if base else name
            if path in tree.known_paths:
                return self._at_call(path, self._call_of(tree, path))
        target = self._aliases.target(tree, self._path, name)
        return None if target is None else self._at_call(target, self._call_of(tree, target))

    def _call_of(self, tree: ModuleTree, child: str) -> int:
        """Which call of a module below this one belongs to this call."""
        if self._call and _calls_of(tree, child) != _calls_of(tree, self._path):
            raise AddressNotFound(
                f"{child} runs {_calls_of(tree, child)} time(s), {self._path}"
                f" {_calls_of(tree, self._path)}.",
                hint=f"Count its own calls: model.{child}.calls[0].",
            ).at(user_line())
        own: int = self._call
        return own

    def _child_names(self, tree: ModuleTree) -> tuple[str, ...]:
        own = tree.children(self._path)
        return tuple(dict.fromkeys((*own, *tree.children(module_path(tree, self._path)))))

    def _names(self, tree: ModuleTree) -> list[str]:
        own = self._attached.names(self._key)
        below = (name for name in self._child_names(tree) if not name.isdigit())
        aliases = self._aliases.names_below(tree, self._path)
        card = tree.by_path.get(module_path(tree, self._path))
        weights = (name for name, _ in (card.weights if card else ()))
        return list(dict.fromkeys((*self._ports(tree), *below, *weights, *aliases, *own)))

    def _unknown(self, tree: ModuleTree, name: str) -> LabError:
        refused = not_served(tree, self._address(name))
        if refused is not None:
            return refused.at(user_line())
        near = difflib.get_close_matches(name, self._names(tree), 1, 0.6)
        here = self._path or "the model"
        where: SourceLine | None = user_line()
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {_listed(self._names(tree))}."
        if name in _NOT_NEEDED:
            hint = _NOT_NEEDED[name]
        if name == TOKENS.port and not self._path:
            hint = "with lm.generate(prompt, max_new_tokens=n): has the sampled ids of each step."
        if name in _STANDARD and tree.reaches(Address("", "logits")):
            hint += " print(lm.names) says which standard names this model lacks, and why."
        said = f"{here} has no module or value {name!r}."
        if name == "save":
            hint = f"A module has a value to save: {f'{self._path}.output'.strip('.')}.save()."
        path = module_path(tree, self._path)
        runs = any(tree.reaches(Address(path, port)) for port in ("input", "output"))
        if name in ("input", "output") and path in tree.by_path and not runs:
            said = f"The forward pass never reaches {here}, so it has no {name}."
            hint = "On these inputs the model does not call that module; read one that it calls."
        return AddressNotFound(said, hint=hint, where=where)


def path_of(envoy: Envoy) -> str:
    """The module path or standard name an envoy stands for; `""` is the model itself."""
    path: str = object.__getattribute__(envoy, "_path")
    return path


_STANDARD = frozenset(
    "embed layers input output attn q k v z pattern mlp neurons norm lm_head".split()
)
"""Names most models have, so that a model without one is asked for it."""


_NOT_NEEDED = {
    "barrier": "A value of one invoke may be used in another without a barrier.",
    "next": "for step in tracer.iter[:]: goes over the forward passes of a generation.",
}
"""Verbs that users of other libraries try, and what does the same here."""


def _one(tree: ModuleTree, address: Address) -> Address:
    if address in tree.by_address:
        return address
    return tree.one_name.get(address, address)


def _calls_of(tree: ModuleTree, path: str) -> int:
    """How many times a module runs in one forward pass."""
    return tree.calls.get(module_path(tree, path), 0)


def _listed(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown or "no parts"


def _module_as_value(self: Envoy, *_: Any) -> Any:
    raise self.as_value()


for _operator in ("add", "sub", "mul", "truediv", "matmul", "pow", "iadd", "isub", "imul"):
    setattr(Envoy, f"__{_operator}__", one_frame(_module_as_value))
