"""A model, or a module of one, as a tree: unfold it, search it, click a name to copy its path.

Modules of a list that are alike stand for one another: `[0] … [31]` is one branch, and what is
copied from inside it is the path of the first. The search and the click need the small handlers
that a notebook runs for outputs of its own kernel; without them the tree still unfolds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from math import prod

from nnsight_lab.ir import Address, ModuleTree
from nnsight_lab.jupyter.reprs.html import COPY, FAINT, LINE, MONO, Markup, code, copied, page, tag
from nnsight_lab.passes.shapes import module_path
from nnsight_lab.tracing.aliases import Aliases
from nnsight_lab.tracing.attached import Attachments

__all__ = ["envoy_html", "in_words", "own_names", "size_in_words", "tree_html"]

_SEARCH = (
    "var f=function(s){return s.toLowerCase().replace(/\\[(\\d+)\\]/g,'.$1').replace(/\\d+/g,'#')},"
    "q=f(this.value),r=this.closest('[data-nnl]'),a=r.querySelectorAll('[data-path]');"
    "a.forEach(function(e){e.hidden=q!==''&&f(e.dataset.path).indexOf(q)<0});"
    "a.forEach(function(e){"
    "if(q===''){if(e.tagName==='DETAILS')e.open=e.dataset.open==='1'}"
    "else if(!e.hidden){for(var p=e.parentElement.closest('[data-path]');p;"
    "p=p.parentElement.closest('[data-path]')){p.hidden=false;p.open=true}}})"
)
"""Shows the branches whose path or kind holds what is typed; any number stands for any other."""

_MOST = 600
"""Branches drawn at most, so that a notebook stays small; the rest is counted."""


def in_words(count: int, what: str) -> str:
    """`1 layer`, `6 layers`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size_in_words(count: float) -> str:
    """How many parameters: `1.6M`."""
    for unit in ("", "k", "M", "B"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit in ("", "k") else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}T"


@dataclass
class _Branches:
    """Draws branches of one tree. head: what a copied path begins with, such as `lm`.

    buffers: paths of tensors of the modules that are no parameters; None where that is not known.
    """

    tree: ModuleTree
    head: str
    standard: bool
    buffers: frozenset[str] | None = None
    left: list[int] = field(default_factory=lambda: [_MOST])

    def __post_init__(self) -> None:
        self.said = lru_cache(None)(self._said)
        self.weight = lru_cache(None)(self._weight)

    def below(self, path: str) -> tuple[str, ...]:
        """Paths directly below: of modules, or of standard names."""
        paths = (f"{path}.{name}".strip(".") for name in self.tree.children(path))
        own = self.tree.by_path
        return tuple(each for each in paths if (each not in own) == self.standard)

    def _said(self, path: str) -> Hashable:
        """All that is drawn of a branch, but for its own name."""
        card = self.tree.by_path.get(path)
        below = tuple((each.rpartition(".")[2], self.said(each)) for each in self.below(path))
        return card and (card.kind, card.weights), tuple(self.ports(path)), below

    def _weight(self, path: str) -> int:
        """How many parameters there are in a branch; with buffers, where those are not known."""
        card, others = self.tree.by_path.get(path), self.buffers or ()
        own = sum(
            prod(dim.factor for dim in spec.dims)
            for name, spec in (card.weights if card else ())
            if f"{path}.{name}".strip(".") not in others
        )
        return own + sum(map(self.weight, self.below(path)))

    def ports(self, path: str) -> Iterator[tuple[str, str]]:
        """What can be read at a path: of a module its output, of a name all but the arguments."""
        for port in self.tree.ports_of.get(path, ()):
            address = Address(path, port)
            site = self.tree.by_address.get(self.tree.one_name.get(address, address))
            if site and port != "inputs" and (self.standard or port == "output"):
                yield port, str(site.spec)

    def groups(self, path: str) -> Iterator[tuple[str, ...]]:
        """The paths below, those of a list that are alike together."""
        for key, paths in groupby(self.below(path), self._group):
            together = tuple(paths)
            yield from [together] if key is not None else zip(together)

    def _group(self, path: str) -> Hashable:
        return ("alike", self.said(path)) if path.rpartition(".")[2].isdigit() else None

    def branch(self, paths: Sequence[str], *, is_open: bool = False) -> Markup:
        """One branch, for one path or for several that are alike."""
        path = paths[0]
        self.left[0] -= 1
        inside = self.inside(path)
        line = self._line(paths)
        if not inside:
            return tag("div", line, data_path=self._found_by(path), style="padding-left: 14px")
        rest = tag("div", *inside, style=f"margin-left: 5px; padding-left: 13px; {_RULE}")
        return tag(
            "details", tag("summary", line, style="cursor: pointer"), rest,
            data_path=self._found_by(path), data_open="1" if is_open else None,
            open="" if is_open else None,
        )  # fmt: skip

    def inside(self, path: str) -> list[Markup]:
        """What a branch holds: values of a standard name, then what is below."""
        found = [self.port(path, *port) for port in self.ports(path)] if self.standard else []
        for paths in self.groups(path):
            if self.left[0] <= 0:
                found.append(tag("div", "… more: print(model), or model.get(path)", style=FAINT))
                break
            found.append(self.branch(paths))
        return found

    def _found_by(self, path: str) -> str:
        card = self.tree.by_path.get(path)
        return f"{self.written(path)} {path} {card.kind if card else ''}"

    def written(self, path: str) -> str:
        """A path as one writes it: `lm.model.layers[0].mlp`."""
        parts = (f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part)
        return self.head + "".join(parts)

    def name(self, path: str, shown: str) -> Markup:
        """A name to click; what is copied is the whole path."""
        return copied(code(shown, "font-weight: 600"), self.written(path))

    def _line(self, paths: Sequence[str]) -> Markup:
        path = paths[0]
        names = [each.rpartition(".")[2] or self.head for each in (paths[0], paths[-1])]
        name = f"[{names[0]}]" if names[0].isdigit() else names[0]
        name += f" … [{names[1]}]" if len(paths) > 1 else ""
        told = [self.kind(path)] + ([f"{len(paths)} alike"] if len(paths) > 1 else [])
        if not self.standard:
            told += [spec for _, spec in self.ports(path)]
            what = "parameters" if self.buffers is not None else "parameters and buffers"
            count = self.weight(path) * len(paths)
            told += [f"{size_in_words(count)} {what}"] if count else []
        note = " · ".join(filter(None, told))
        return tag("span", self.name(path, name), " ", tag("span", note, style=_NOTE))

    def kind(self, path: str) -> str:
        """The class of the module at a path; empty for a name of values only."""
        card = self.tree.by_path.get(module_path(self.tree, path))
        return card.kind if card else ""

    def port(self, path: str, port: str, spec: str) -> Markup:
        """A value that can be read, and its shape."""
        where = f"{path}.{port}".strip(".")
        name, note = self.name(where, f".{port}"), tag("span", spec, style=_NOTE)
        return tag(
            "div", name, " ", note, data_path=self._found_by(where), style="padding-left: 14px"
        )


_RULE = f"border-left: 1px solid {LINE}"
_NOTE = f"{FAINT}; {MONO}"


def _search_box() -> Markup:
    look = (
        "width: 260px; padding: 2px 6px; margin: 4px 0; font-size: 12px; color: inherit; "
        f"background: transparent; border: 1px solid {LINE}; border-radius: 3px"
    )
    return tag(
        "input", type="search", placeholder="find a module: mlp, layers[3], Linear", style=look,
        oninput=_SEARCH, onkeydown="event.stopPropagation()", aria_label="find a module",
    )  # fmt: skip


def own_names(
    tree: ModuleTree, head: str, paths: Iterable[str], aliases: Aliases, attached: Attachments
) -> list[Markup]:
    """The user's own names and modules at these paths; a name is shown where it first stands."""
    branches = _Branches(tree, head, standard=False)
    seen: set[str] = set()
    keys: set[str] = set()
    found: list[Markup] = []
    for path in paths:
        below = [(name, f"= {target}") for name, target in aliases.names_below(tree, path).items()
                 if name not in seen]  # fmt: skip
        seen |= {name for name, _ in below}
        key = module_path(tree, path)
        if key not in keys:
            below += [(name, f"yours, {kind}") for name, kind in attached.kinds(key)]
        keys.add(key)
        for name, told in below:
            where = f"{path}.{name}".strip(".")
            line = (
                branches.name(where, branches.written(where)),
                " ",
                tag("span", told, style=_NOTE),
            )
            found.append(tag("div", *line, data_path=f"{where} {told}", style="padding-left: 14px"))
    return [tag("div", "your names", style=_NOTE), *found] if found else []


def tree_html(
    kind: str,
    tree: ModuleTree,
    head: str,
    *above: str,
    own: Sequence[str] = (),
    buffers: frozenset[str] | None = None,
) -> Markup:
    """A whole model. head: the variable that holds it. above: what is said before the tree.

    own: the lines of the user's own names.
    buffers: paths of what is no parameter; None where that is not known.
    """
    names = _Branches(tree, head, standard=True)
    modules = _Branches(tree, head, standard=False, buffers=buffers)
    parts = [*above, _search_box(), *own]
    standard = names.inside("")
    if any(names.below("")):
        parts += [tag("div", "standard names", style=_NOTE), *standard]
    root = tree.by_path.get("")
    parts.append(tag("div", f"modules{f' of {root.kind}' if root else ''}", style=_NOTE))
    return page(kind, *parts, *modules.inside(""), onclick=COPY)


def envoy_html(tree: ModuleTree, path: str, head: str, own: Sequence[str] = ()) -> Markup:
    """One module of a model: what can be read there, and what is below it."""
    names = _Branches(tree, head, standard=True)
    modules = _Branches(tree, head, standard=False)
    kind = tag("span", names.kind(path), style=_NOTE)
    top = tag("div", names.name(path, names.written(path)), " ", kind)
    # A module under its own path has the standard names' values, too, but none of them below it.
    inside = names.inside(path)
    below = modules.inside(module_path(tree, path))
    return page("module", top, *own, *inside, *below, onclick=COPY)
