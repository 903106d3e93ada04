"""What running an experiment would do, said before it does: passes, depth, engine, cost."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import prod
from typing import TYPE_CHECKING

from nnsight_lab.contract import Inputs, ModelCard, ModuleInputs, Several, TokenRows
from nnsight_lab.ir import STEP, Graph, ModuleTree, TensorSpec
from nnsight_lab.passes import (
    Part,
    Schedule,
    Stages,
    check_features,
    check_graph,
    schedule,
    tree_for_graph,
)
from nnsight_lab.passes.stages import after
from nnsight_lab.tracing.show import is_shown

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Explanation", "Pass", "explained"]


@dataclass(frozen=True)
class Pass:
    """One trace, or one generation, of what would run.

    rows, pos: of its prompt; 0 where its inputs are no prompt. passes: how many forward passes at
    most. reads, writes: how many places. last: the last place that is needed, "" where the model
    runs to its end. runs, of: how many modules with weights run, of how many. flops: about how
    many floating-point operations, of the model's weights alone; None where that is not known.
    """

    rows: int
    pos: int
    passes: int
    reads: int
    writes: int
    last: str
    runs: int
    of: int
    flops: float | None


@dataclass(frozen=True)
class Explanation:
    """What would run. Prints as lines; nothing has run.

    where, why: the engine, and why that one. saved: names. saved_bytes: of all of them, as far as
    shapes tell. values_bytes: of every value of the graph, if none were dropped.
    """

    model: str
    where: str
    why: str
    parts: tuple[Pass, ...]
    saved: tuple[str, ...]
    saved_bytes: int
    values_bytes: int
    gradients: bool

    @property
    def passes(self) -> int:
        """Forward passes, at most."""
        return sum(part.passes for part in self.parts)

    @property
    def flops(self) -> float | None:
        """About how many floating-point operations; None where a part's are not known."""
        found = [part.flops for part in self.parts]
        return None if None in found else sum(flops for flops in found if flops is not None)

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:<8} {text}" if name else f"{'':<8} {text}" for name, text in self._rows()
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{name}</th>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for name, text in self._rows()
        )
        return f"<table><tbody>{rows}</tbody></table>"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("runs on", f"{self.model}, {self.where}"), ("", self.why)]
        for place, part in enumerate(self.parts):
            name = f"trace {place}" if len(self.parts) > 1 else "passes"
            rows += [(name, _passes(part)), ("stops", _stops(part))]
        if self.gradients:
            rows.append(("then", "a backward pass; activations are kept for it"))
        rows.append(("saves", f"{', '.join(self.saved) or 'nothing'} ({_size(self.saved_bytes)})"))
        flops = "not known" if self.flops is None else f"about {_number(self.flops)}FLOP"
        rows.append(("costs", f"{flops}; the graph's values {_size(self.values_bytes)} in all"))
        return rows


def explained(model: TracedModel, graph: Graph, inputs: Inputs) -> Explanation:
    """What running a graph on these inputs would do.

    Raises:
        LabError: it would be refused; as running it would say.
    """
    card = model.card
    check_features(graph, card)
    given = inputs.parts if isinstance(inputs, Several) else (inputs,)
    stages = Stages(tuple(_part(model, graph, part) for part in given))
    cost = check_graph(graph, stages, inputs)
    plan = schedule(graph, stages)
    local = hasattr(model.executor, "module")
    why = "in this process" if local else f"on the server; {_WHY}"
    return Explanation(
        model.name,
        f"{card.capabilities.engine} on {card.capabilities.device}",
        why,
        tuple(_described(stages, plan, card, place) for place in range(len(given))),
        tuple(output.name for output in graph.outputs if not is_shown(output.name)),
        cost.saved_bytes,
        cost.peak_bytes,
        bool(plan.gradients),
    )


_WHY = "where it serves the model by several engines, it takes the first that can do all of this"


def _part(model: TracedModel, graph: Graph, inputs: TokenRows | ModuleInputs) -> Part:
    executor = model.executor
    tree = tree_for_graph(
        graph, executor.tree_for(inputs), lambda path: executor.source_of(path, inputs)
    )
    return Part(inputs, tree, model.card.decode if isinstance(inputs, TokenRows) else None)


def _described(stages: Stages, plan: Schedule, card: ModelCard, place: int) -> Pass:
    part = stages.parts[place]
    steps = [step for step in range(len(stages)) if stages.at(step).part == place]
    moments = [at for step in steps for at in plan.of_step.get(step, ()) if at != after(step)]
    tree, last = part.tree, max(moments, default=-1)
    # A generation goes on to its tokens; a trace ends with the last place it needs.
    to_the_end = part.generates or (bool(plan.gradients) and not moments)
    end = max((site.moment for site in tree.sites), default=0)
    until = end if to_the_end else last % STEP if moments else -1
    rows, pos = (
        (part.inputs.batch, part.inputs.pos) if isinstance(part.inputs, TokenRows) else (0, 0)
    )
    run, every = _weights(tree, until), _weights(tree, end)
    tokens = rows * (pos + part.passes - 1)
    return Pass(
        rows,
        pos,
        part.passes if moments or part.generates else 0,
        sum(len(plan.moments[at].reads) for at in moments),
        sum(len(plan.moments[at].writes) for at in moments),
        "" if until >= end else _place(tree, until),
        len(run),
        len(every),
        2.0 * sum(run.values()) * tokens if rows else None,
    )


def _weights(tree: ModuleTree, until: int) -> dict[str, int]:
    """How many numbers the matrices of each module have that begins to run by a moment.

    An embedding is looked up, not multiplied with.
    """
    began: dict[str, int] = {}
    for site in tree.sites:
        if site.address.port == "input" and site.address.path in tree.by_path:
            path = site.address.path
            began[path] = min(began.get(path, site.moment), site.moment)
    found = {}
    for path, moment in began.items():
        card = tree.by_path[path]
        if moment <= until and card.weights:
            matrices = (spec for _, spec in card.weights if _is_matrix(spec))
            looked_up = "Embedding" in card.kind
            found[path] = 0 if looked_up else sum(_count(spec) for spec in matrices)
    return found


def _is_matrix(spec: TensorSpec) -> bool:
    return len(spec.dims) > 1


def _count(spec: TensorSpec) -> int:
    return prod(dim.size(1, 1) or 0 for dim in spec.dims)


def _place(tree: ModuleTree, until: int) -> str:
    """The name of the last place at or before a moment, the shortest if it has several."""
    reached = [site for site in tree.sites if site.moment <= until]
    last = max((site.moment for site in reached), default=-1)
    names = (str(site.address) for site in reached if site.moment == last)
    return min(names, key=len, default="before the model begins")


def _passes(part: Pass) -> str:
    if not part.passes:
        return "none: nothing of the model is needed"
    of = f", {part.rows} x {part.pos} tokens" if part.rows else ""
    each = "forward pass" if part.passes == 1 else "forward passes at most"
    return f"{part.passes} {each}{of}; {part.reads} reads, {part.writes} edits"


def _stops(part: Pass) -> str:
    if not part.last:
        return f"at the model's end; all of its {part.of} modules with weights run"
    return f"after {part.last}: {part.runs} of {part.of} modules with weights run"


def _size(count: float) -> str:
    return f"{_number(count)}B" if count >= 1000 else f"{count:.0f} B"


def _number(count: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} P"
