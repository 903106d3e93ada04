"""In a vLLM worker, before it serves: what every module of its model holds, and what edits do.

    worker.lab_survey_begin()          # then one request of a few tokens
    surveys = read_surveys(worker.lab_survey_end())

    worker.lab_probe_begin(edits)      # then one request for each edit, all of the same prompt
    logits = read_logits(worker.lab_probe_end())

Used by `certify.py` and `probe.py`, while nobody else's request runs. Hooks stand only from
a beginning to its end. What comes back is plain bytes: JSON, and tensors in the safetensors form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save

from nnsight_lab_server.vllm.forms import Form, Point, Stage, Term, form_from_plain
from nnsight_lab_server.vllm.ranks import gathered, largest, ranks
from nnsight_lab_server.vllm.standing import is_attention, is_here, stand

__all__ = [
    "Edit",
    "Held",
    "Survey",
    "SurveyWorker",
    "changed",
    "edits_to_bytes",
    "merged",
    "read_logits",
    "read_surveys",
    "tensors_in",
]

_DEPTH = 3
_STAGES: tuple[Stage, ...] = ("before", "after")


@dataclass(frozen=True, slots=True)
class Held:
    """What was at one point: a tensor at each way into it.

    attention: whether the module is an attention layer of vLLM's, which is given q, k and v.
    parted: the tensors of which each worker holds a part; here they are whole.
    stage: which stage of a pipeline has it.
    """

    point: Point
    attention: bool
    tensors: Mapping[Term, torch.Tensor]
    parted: frozenset[Term] = frozenset()
    stage: int = 0

    @property
    def nested(self) -> Any:
        """The tensors in dicts, for a form to take from."""
        if () in self.tensors:
            return self.tensors[()]
        top: dict[str | int, Any] = {}
        for way, tensor in self.tensors.items():
            inner = top
            for step in way[:-1]:
                inner = inner.setdefault(step, {})
            inner[way[-1]] = tensor
        return top


@dataclass(frozen=True, slots=True)
class Survey:
    """One forward pass: points in the order they came, and the logits of every row.

    ids: the tokens of the rows.
    """

    rows: int
    ids: tuple[int, ...]
    held: tuple[Held, ...]
    logits: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Edit:
    """Something added to an address at some positions of the prompt; of ids, one taken off.

    delta: `[len(positions), *form.shape]`.
    """

    form: Form
    positions: tuple[int, ...]
    delta: torch.Tensor

    def made(self, held: Any, first_row: int) -> Any:
        """What is held, edited for the request whose rows begin there."""
        rows = torch.tensor([first_row + position for position in self.positions])
        value = self.form.take(held)
        rows = rows.to(value.device)
        return self.form.put(held, rows, changed(value[rows], self.delta))


def changed(value: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """A value with an edit made; the same rule is followed on Hugging Face."""
    if value.is_floating_point():
        return value + delta.to(value)
    return torch.where(value > 0, value - 1, value + 1)


def tensors_in(held: Any, rows: int, way: Term = ()) -> Iterator[tuple[Term, torch.Tensor]]:
    """Every tensor in what is held that has an axis as long as there are rows; also vectors."""
    if isinstance(held, torch.Tensor):
        if rows in held.shape or held.dim() == 1:
            yield way, held
    elif len(way) >= _DEPTH:
        return
    elif isinstance(held, tuple | list):
        for place, item in enumerate(held):
            yield from tensors_in(item, rows, (*way, place))
    elif isinstance(held, Mapping):
        for key, item in held.items():
            if isinstance(key, str):
                yield from tensors_in(item, rows, (*way, key))


def _rows_of_step(args: Any, kwargs: Any) -> int:
    """How many rows the forward pass of a step has: those of the positions it is given."""
    positions = kwargs.get("positions", args[1] if len(args) > 1 else None)
    assert isinstance(positions, torch.Tensor), "vLLM's models are given positions"
    return int(positions.shape[-1])


def _ids_of_step(args: Any, kwargs: Any) -> tuple[int, ...]:
    ids = kwargs.get("input_ids", args[0] if args else None)
    return tuple(map(int, ids)) if isinstance(ids, torch.Tensor) else ()


def _without_compiled_code() -> None:
    """Let vLLM run this step's modules one by one; hooks are not in what it has compiled."""
    from vllm.forward_context import get_forward_context

    get_forward_context().skip_compiled = True


@dataclass
class _Watching:
    """The hooks of one survey."""

    model: Any
    found: list[Survey] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _rows: int = 0
    _ids: tuple[int, ...] = ()
    _held: list[Held] = field(default_factory=list)

    def begin(self) -> None:
        for path, module in self.model.named_modules():
            for stage in _STAGES:
                listener = self._listener(Point(stage, path), is_attention(module))
                self._stack.callback(stand(self.model, Point(stage, path), listener))

    def end(self) -> bytes:
        self._stack.close()
        return _surveys_to_bytes(self.found)

    def _listener(self, point: Point, attention: bool) -> Callable[[Any], None]:
        def listen(held: Any) -> None:
            if point == Point("before", ""):
                self._rows, self._held = _rows_of_step(*held), []
                self._ids = _ids_of_step(*held)
                _without_compiled_code()
            self._note(point, held, attention=attention)
            if point == Point("after", ""):
                self._finish(held)

        return listen

    def _note(self, point: Point, value: Any, *, attention: bool) -> None:
        if self._rows:
            seen = {way: _of_all(tensor) for way, tensor in tensors_in(value, self._rows)}
            # A copy: what follows may compute in place.
            copies = {way: whole.detach().to("cpu", copy=True) for way, (whole, _) in seen.items()}
            parted = frozenset(way for way, (_, in_parts) in seen.items() if in_parts)
            self._held.append(Held(point, attention, copies, parted))

    def _finish(self, output: Any) -> None:
        rows, self._rows = self._rows, 0  # what computes the logits is no part of the pass
        logits = self.model.compute_logits(output) if isinstance(output, torch.Tensor) else None
        logits = None if logits is None else logits.detach().to("cpu", copy=True)
        self.found.append(Survey(rows, self._ids, tuple(self._held), logits))


def _of_all(tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """A tensor of all workers together, and whether each has a part of it only."""
    if ranks() == 1 or not tensor.is_floating_point():  # ids are everybody's
        return tensor, False
    side_by_side = gathered(tensor)
    same = all(torch.equal(part, tensor) for part in side_by_side.chunk(ranks(), -1))
    (differs,) = largest([float(not same)])
    return (side_by_side, True) if differs else (tensor, False)


@dataclass
class _Probing:
    """The hooks of some edits, each made in a request of its own with the same prompt."""

    model: Any
    length: int
    columns: torch.Tensor
    edits: list[Edit]
    logits: list[torch.Tensor] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _now: list[Edit] = field(default_factory=list)
    _next: int = 0

    def begin(self) -> None:
        points = {edit.form.point for edit in self.edits if edit.form.point.stage != "logits"}
        self._stand(Point("before", ""), self._enter)
        for point in points:
            self._stand(point, partial(self._edited, point))
        self._stand(Point("after", ""), self._leave)

    def _stand(self, point: Point, listener: Callable[[Any], Any]) -> None:
        if not is_here(self.model, point.path):
            return
        self._stack.callback(stand(self.model, point, listener))

    def end(self) -> bytes:
        self._stack.close()
        logits = torch.cat(self.logits) if self.logits else torch.empty(0)
        return _to_bytes({}, {"logits": logits})

    def _enter(self, held: Any) -> None:
        # The requests are alike, so it does not matter which rows are whose.
        count = _rows_of_step(*held) // self.length
        _without_compiled_code()
        self._now = self.edits[self._next : self._next + count]
        self._next += count

    def _edited(self, point: Point, held: Any) -> Any:
        for number, edit in enumerate(self._now):
            if edit.form.point == point:
                held = edit.made(held, number * self.length)
        return held

    def _leave(self, output: Any) -> None:
        if not self._now or not isinstance(output, torch.Tensor):
            return
        now, self._now = self._now, []
        logits = self.model.compute_logits(output)
        for number, edit in enumerate(now):
            if edit.form.point.stage == "logits":
                logits = edit.made(logits, number * self.length)
        columns = self.columns.to(logits.device)
        kept = logits[: len(now) * self.length, columns].detach().to("cpu", copy=True)
        self.logits.append(kept.unflatten(0, (len(now), self.length)))


class SurveyWorker:
    """What a worker must have to be looked at; part of the class vLLM's worker is extended with."""

    model_runner: Any
    _lab_survey: _Watching | _Probing | None = None

    def lab_survey_begin(self) -> None:
        """From here on, forward passes are watched."""
        self._lab_survey = _Watching(self.model_runner.model)
        self._lab_survey.begin()

    def lab_survey_end(self) -> bytes:
        """Until here; gives what was seen (`read_surveys`)."""
        return self._lab_end()

    def lab_probe_begin(self, edits: bytes) -> None:
        """From here on, each request has one of the edits made (`edits_to_bytes`)."""
        plain, tensors = _from_bytes(edits)
        made = [
            Edit(form_from_plain(form), tuple(positions), tensors[f"delta.{number}"])
            for number, (form, positions) in enumerate(plain["edits"])
        ]
        model = self.model_runner.model
        self._lab_survey = _Probing(model, plain["length"], tensors["columns"], made)
        self._lab_survey.begin()

    def lab_probe_end(self) -> bytes:
        """Until here; gives the logits of each request (`read_logits`)."""
        return self._lab_end()

    def _lab_end(self) -> bytes:
        assert self._lab_survey is not None, "begun before it is ended"
        ended, self._lab_survey = self._lab_survey, None
        return ended.end()


def edits_to_bytes(edits: list[Edit], length: int, columns: torch.Tensor) -> bytes:
    """Edits of prompts of `length`; columns: which of the logits are wanted."""
    plain = {
        "length": length,
        "edits": [[edit.form.to_plain(), list(edit.positions)] for edit in edits],
    }
    deltas = {f"delta.{number}": edit.delta for number, edit in enumerate(edits)}
    return _to_bytes(plain, {"columns": columns, **deltas})


def read_logits(data: bytes) -> torch.Tensor:
    """The logits after each edit, `[edit, pos, column]`."""
    return _from_bytes(data)[1]["logits"]


def _surveys_to_bytes(surveys: list[Survey]) -> bytes:
    tensors: dict[str, torch.Tensor] = {}
    plain = []
    for survey in surveys:
        held = []
        for each in survey.held:
            ways = []
            for way, tensor in each.tensors.items():
                ways.append([list(way), f"t{len(tensors)}"])
                tensors[f"t{len(tensors)}"] = tensor
            parted = [list(way) for way in each.parted]
            held.append([list(each.point), each.attention, ways, parted, each.stage])
        logits = None
        if survey.logits is not None:
            logits = f"t{len(tensors)}"
            tensors[logits] = survey.logits
        plain.append({"rows": survey.rows, "ids": survey.ids, "held": held, "logits": logits})
    return _to_bytes({"surveys": plain}, tensors)


def read_surveys(data: bytes) -> list[Survey]:
    """The forward passes that were watched."""
    plain, tensors = _from_bytes(data)
    return [
        Survey(
            survey["rows"],
            tuple(survey["ids"]),
            tuple(
                Held(
                    Point(*point),
                    attention,
                    {tuple(way): tensors[name] for way, name in ways},
                    frozenset(map(tuple, parted)),
                    stage,
                )
                for point, attention, ways, parted, stage in survey["held"]
            ),
            None if survey["logits"] is None else tensors[survey["logits"]],
        )
        for survey in plain["surveys"]
    ]


def merged(seen: Sequence[bytes]) -> bytes:
    """The same forward passes as the stages of a pipeline saw them, as one."""
    stages = [read_surveys(data) for data in seen]
    passes = []
    for each in zip(*stages, strict=True):
        held = [
            replace(found, stage=stage)
            for stage, survey in enumerate(each)
            for found in survey.held
        ]
        passes.append(replace(each[0], held=tuple(held), logits=each[-1].logits))
    return _surveys_to_bytes(passes)


def _to_bytes(plain: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bytes:
    head = json.dumps(plain).encode()
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return len(head).to_bytes(8, "little") + head + save(apart)


def _from_bytes(data: bytes) -> tuple[Any, dict[str, torch.Tensor]]:
    begin = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:begin]), load(data[begin:])
