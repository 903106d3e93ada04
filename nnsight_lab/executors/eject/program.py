"""The whole program: what it imports, `run(model)`, its tensors, and how to start it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from nnsight_lab import __version__
from nnsight_lab.contract import Inputs, ModuleInputs, Several, TokenRows
from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.eject.expressions import argument, shown
from nnsight_lab.executors.eject.moments import Body, Moments, check_sayable
from nnsight_lab.executors.eject.snippets import IMPORTS, SNIPPETS
from nnsight_lab.executors.families.table import Attention
from nnsight_lab.ir import Graph, LocalCall, ModuleTree, Node, Read, Ref, Write
from nnsight_lab.kernels import from_python, tensor_to_data
from nnsight_lab.passes import drop_dead_nodes, schedule
from nnsight_lab.passes.check import Surroundings, shapes_of
from nnsight_lab.passes.invokes import spans_of

__all__ = ["PrintedModel", "to_python"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedModel:
    """What a program must know of the model it is for.

    tree: its places on these inputs. source: what `from_pretrained` is given, or None when the
    model was made in Python. load: further arguments of it, as Python. attention: how its family
    attends. pad: the id prompts are padded with. positions: whether it takes `position_ids`.
    """

    name: str
    tree: ModuleTree
    source: str | None = None
    load: str = ""
    attention: Attention | None = None
    pad: int = 0
    positions: bool = False


def to_python(graph: Graph, inputs: Inputs, model: PrintedModel, prompt: Any = None) -> str:
    """A program that does what the graph says, with PyTorch's hooks and nothing of ours.

    Raises:
        NotSupported: the graph says something that plain hooks cannot.
    """
    if isinstance(inputs, Several) or (isinstance(inputs, TokenRows) and inputs.generation):
        raise NotSupported(
            "A session or a generation cannot be said in plain PyTorch yet.",
            hint="print(graph) shows the experiment line by line.",
        )
    graph = drop_dead_nodes(graph)
    check_sayable(graph)
    metas = _metas(graph, model.tree, inputs)
    spans = spans_of(graph.invokes, inputs)
    plan = schedule(graph, model.tree)
    moments = Moments(plan, model.tree, model.attention, metas, spans)
    forward = _forward(inputs, model, moments)
    return _Program(graph, model, moments, forward, prompt, bool(plan.gradients)).text()


def _metas(graph: Graph, tree: ModuleTree, inputs: TokenRows | ModuleInputs) -> list[Any]:
    """The shape of each node's value, found as a check before a run finds it."""
    spans = spans_of(graph.invokes, inputs)
    whole = (inputs.batch, inputs.pos) if isinstance(inputs, TokenRows) else (1, 1)

    def surroundings(node: Node) -> Surroundings:
        if isinstance(node, Read | Write) and node.invoke is not None:
            return tree, spans[node.invoke].rows, spans[node.invoke].pos
        return tree, *whole

    return shapes_of(graph, surroundings)[0]


def _forward(inputs: Inputs, model: PrintedModel, moments: Moments) -> tuple[list[str], str]:
    """Lines that make what the model is given, and the call of the model."""
    match inputs:
        case TokenRows():
            return _tokens(inputs, model)
        case ModuleInputs(args=args, kwargs=kwargs):
            return _arguments(args, dict(kwargs), moments)
    raise NotSupported(
        f"Inputs of the kind {type(inputs).__name__} cannot be said in plain PyTorch yet.",
        hint="print(graph) shows the experiment line by line.",
    )


def _tokens(inputs: TokenRows, model: PrintedModel) -> tuple[list[str], str]:
    width = inputs.pos
    padding = [width - len(row) for row in inputs.rows]
    ids = [[model.pad] * pad + list(row) for pad, row in zip(padding, inputs.rows, strict=True)]
    given = {"input_ids": ids}
    if any(padding):
        given["attention_mask"] = [[0] * pad + [1] * (width - pad) for pad in padding]
    if model.positions:
        # A prompt's own first token is at position 0, wherever the padding ends.
        given["position_ids"] = [[max(place - pad, 0) for place in range(width)] for pad in padding]
    lines = ["# Prompts of unequal length are padded on the left."] if any(padding) else []
    for name, rows in given.items():
        lines += _table(name, rows)
    named = ", ".join(f"{name}={name}" for name in given)
    call = f"model({named}, use_cache=False)"
    return lines, call if len(given) < 3 else f"model(\n    {named}, use_cache=False\n)"


def _table(name: str, rows: list[list[int]]) -> list[str]:
    if len(rows) == 1:
        return _wrapped(f"{name} = torch.tensor({rows}, device=device)")
    body = [line for row in rows for line in _wrapped(f"    {row},")]
    return [f"{name} = torch.tensor([", *body, "], device=device)"]


def _wrapped(line: str, end: str = "") -> list[str]:
    """A long line as lines of a readable length; `end` is what goes on to the next."""
    *lines, last = textwrap.wrap(line, 88, subsequent_indent="    ")
    return [*(f"{one}{end}" for one in lines), last]


def _arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], moments: Moments
) -> tuple[list[str], str]:
    names: list[str] = []
    lines: list[str] = []
    constants = moments.statements.constants

    def ref(item: Any) -> Ref | None:
        if not hasattr(item, "untyped_storage"):
            return None
        name = moments.names.free("input_1")
        lines.append(f"{name} = {constants.expression(name, tensor_to_data(item))}")
        names.append(name)
        return Ref(len(names) - 1)

    given = [argument(from_python(arg, ref), names.__getitem__) for arg in args]
    given += [
        f"{key}={argument(from_python(arg, ref), names.__getitem__)}" for key, arg in kwargs.items()
    ]
    return lines, f"model({', '.join(given)})"


class _Program:
    """The parts of one program, put together from the top of the file to its end."""

    def __init__(
        self,
        graph: Graph,
        model: PrintedModel,
        moments: Moments,
        forward: tuple[list[str], str],
        prompt: Any,
        gradients: bool,
    ) -> None:
        self._graph, self._model, self._moments = graph, model, moments
        self._inputs, self._call = forward
        self._prompt = prompt if isinstance(prompt, str) else None
        self._gradients = gradients
        self._needs = set(moments.statements.needs)
        if moments.statements.constants.any_long:
            self._needs.add("constant")
        if any(body.place and body.place.stage in _IN_ATTENTION for body in moments.hooks):
            self._needs.add("attention_hooks")
        self._local = any(isinstance(node, LocalCall) for node in graph.nodes)

    def text(self) -> str:
        """The program."""
        found = {line for name in self._needs for line in IMPORTS.get(name, ())}
        if any(self._counted(body) for body in self._moments.hooks):
            found.add("import itertools")
        plain = sorted(found, key=lambda line: (line.startswith("from"), line))
        imports = "\n".join([*plain, *([""] if plain else []), "import torch"])
        parts = [f'"""{self._title()}"""\n\n{imports}\n']
        parts += [text for name, text in SNIPPETS.items() if name in self._needs]
        parts.append("\n".join(self._run()) + "\n")
        data = self._moments.statements.constants.at_the_end()
        if data:
            parts.append("\n".join(data) + "\n")
        if self._model.source is not None and not self._local:
            parts.append("\n".join(self._main()) + "\n")
        return "\n\n".join(parts)

    def _title(self) -> str:
        saved = ", ".join(output.name for output in self._graph.outputs) or "nothing"
        given = ", functions" if self._local else ""
        lines = [
            f"An experiment on {self._model.name}, as plain PyTorch with hooks.",
            "",
            f"    run(model{given})",
            "",
            f"gives what it saves by name: {saved}.",
        ]
        if self._local:
            lines.append("`functions` holds the local functions it calls, by name.")
        lines += ["", f"Printed by nnsight-lab {__version__}, which it does not need.", ""]
        return "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")

    def _run(self) -> list[str]:
        given = ", functions" if self._local else ""
        grad = "enable_grad" if self._gradients else "no_grad"
        lines = [f"@torch.{grad}()", f"def run(model{given}):"]
        lines += _in(['"""Run the model once, with hooks where the experiment looks or edits."""'])
        body = [f"# {self._prompt!r}"] if self._prompt is not None else []
        body += ["device = next(model.parameters(), torch.empty(0)).device", *self._inputs]
        body += ["saved = {}"]
        crossing = self._moments.crossing()
        if crossing:
            body.append("# Handed from one hook to the next:")
            body += _wrapped(f"{' = '.join(crossing)} = None", " \\")
        if "apart" in self._needs:
            body += ["silent = False", "", *_APART]
        body += self._plain("before")
        for hook in self._moments.hooks:
            body += ["", *self._hook(hook)]
        body += ["", *self._attached(), *self._plain("after"), "return saved"]
        return [*lines, *_in(body)]

    def _plain(self, name: str) -> list[str]:
        """What is computed before or after the model runs."""
        found = [body for body in self._moments.bodies if body.place is None and body.name == name]
        return ["", *found[0].lines] if found else []

    def _counted(self, body: Body) -> bool:
        """Whether the hook's module runs more than once in a forward pass."""
        sites = self._model.tree.sites
        place = body.place
        return place is not None and any(
            site.address.call and site.address.path == place.path for site in sites
        )

    def _hook(self, body: Body) -> list[str]:
        place = body.place
        assert place is not None, "a hook stands somewhere"
        given, back = _SIGNATURES[place.stage]
        lines = [f"def {body.name}({given}):"]
        shared = self._moments.crossing(body)
        head = [f"nonlocal {', '.join(shared)}"] if shared else []
        inside = place.stage in _IN_ATTENTION
        if "apart" in self._needs:
            head += ["if silent:", f"    return {back if inside else 'None'}"]
        first = []
        if self._counted(body):
            first = [f"calls_{body.name} = itertools.count()", ""]
            head += [f"if next(calls_{body.name}) != {place.call}:", "    return None"]
        return [*first, *lines, *_in([*head, *_ended(body, back)])]

    def _attached(self) -> list[str]:
        hooks = [body for body in self._moments.hooks if body.place is not None]
        if not hooks:
            return []
        plain = [self._registered(body) for body in hooks if not _inside(body)]
        lines = ["hooks = [", *_in([f"{one}," for one in plain]), "]"] if plain else []
        call = self._call.split("\n")
        if "attention_hooks" in self._needs:
            lines += [f"at_qkv = {self._table('attention')}"]
            lines += [f"at_pattern = {self._table('pattern')}"]
            call_lines = ["with attention_hooks(model, at_qkv, at_pattern):", *_in(call)]
        else:
            call_lines = call
        if not plain:
            return [*lines, *call_lines]
        remove = ["for hook in hooks:", "    hook.remove()"]
        return [*lines, "try:", *_in(call_lines), "finally:", *_in(remove)]

    def _registered(self, body: Body) -> str:
        assert body.place is not None, "a hook stands somewhere"
        found, stage = self._moments.statements.module(body.place.path), body.place.stage
        if stage == "after":
            return f"{found}.register_forward_hook({body.name})"
        more = ", with_kwargs=True" if stage == "before-any" else ""
        return f"{found}.register_forward_pre_hook({body.name}{more})"

    def _table(self, stage: str) -> str:
        pairs = [
            f"{self._moments.statements.module(body.place.path)}: {body.name}"
            for body in self._moments.hooks
            if body.place is not None and body.place.stage == stage
        ]
        return f"{{{', '.join(pairs)}}}"

    def _main(self) -> list[str]:
        assert self._model.source is not None, "only then is there a way to load it"
        return [
            'if __name__ == "__main__":',
            *_in([
                "from transformers import AutoModelForCausalLM",
                "",
                "model = AutoModelForCausalLM.from_pretrained(",
                *_in([f"{shown(self._model.source)}{self._model.load}"]),
                ").eval()",
                "for name, value in run(model).items():",
                *_in(["print(name, value)"]),
            ]),
        ]  # fmt: skip


_IN_ATTENTION = ("attention", "pattern")
_SIGNATURES = {
    "after": ("module, args, output", "output"),
    "before": ("module, args", "args"),
    "before-any": ("module, args, kwargs", "args, kwargs"),
    "attention": ("query, key, value", "query, key, value"),
    "pattern": ("pattern", "pattern"),
}
"""By stage: what a hook is given, and what it gives back."""
_APART = [
    "def apart(module, *args, **kwargs):",
    '    """Call a module by hand, without waking the hooks below."""',
    "    nonlocal silent",
    "    silent = True",
    "    try:",
    "        return module(*args, **kwargs)",
    "    finally:",
    "        silent = False",
]


def _ended(body: Body, back: str) -> list[str]:
    """The lines of a hook, and what it gives back, if it changes anything or must give something."""
    *lines, last = body.lines or [""]
    if last.startswith(f"{back} = "):
        return [*lines, f"return {last.removeprefix(f'{back} = ')}"]
    gives = body.puts or _inside(body)
    return [*lines, last, f"return {back}"] if gives else [*lines, last]


def _inside(body: Body) -> bool:
    return body.place is not None and body.place.stage in _IN_ATTENTION


def _in(lines: list[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
