"""LocalExecutor: runs graphs on a torch module in this process.

Hooks stand only where the graph reads or writes, and are removed afterwards even on error. A run
stops the model after the last moment it needs. Prompts of unequal length are padded on the left,
with positions counted from each prompt's own first token, so a batch gives what single runs give.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from nnsight_lab.contract import (
    Accepted,
    Capabilities,
    Done,
    Emit,
    Failed,
    Inputs,
    ModelCard,
    ModuleInputs,
    RunRequest,
    Saved,
    Started,
    TokenRows,
)
from nnsight_lab.errors import BadInput, Cancelled, EngineFailed, LabError
from nnsight_lab.executors.certify import certified
from nnsight_lab.executors.families import NameReport, names_in_tree
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.loading import load_model, tokenizer_files
from nnsight_lab.executors.measure import Measured, measure
from nnsight_lab.executors.sites import HookPoint
from nnsight_lab.executors.source_measure import Passes, SourceBook
from nnsight_lab.executors.untouched import silent_run, untouched, without_data, without_traces
from nnsight_lab.ir import ModuleSource, ModuleTree, Spec
from nnsight_lab.kernels.infer import map_tensors
from nnsight_lab.kernels.tensors import dtype_name
from nnsight_lab.passes import (
    check_as_measured,
    check_graph,
    check_inputs,
    paths_with_source,
    schedule,
)
from nnsight_lab.passes.invokes import Span, narrowed, spans_of, widened
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab.runtime import Interleaver
from nnsight_lab.runtime.interleaver import Place
from nnsight_lab.settings import Settings

__all__ = ["LocalExecutor", "load_local"]

_SMALL = ((2, 5), (3, 7))
"""Two small (batch, pos), with no factor in common, to learn how axes follow the prompt."""
_SMALLER = ((5, 1), (3, 2))
"""The same for models whose context is shorter than that; of one position, both get one."""
_SCHEDULES_KEPT = 64


class _Enough(BaseException):
    """Raised inside the forward pass when the graph needs nothing further. Never escapes."""


def load_local(name: str, settings: Settings | None = None, **options: Any) -> LocalExecutor:
    """A model by name or folder, ready to run. Raises `ModelNotFound`."""
    module, tokenizer = load_model(name, settings or Settings(), **options)
    return LocalExecutor(module, tokenizer, name=name)


class LocalExecutor:
    """Runs graphs on one torch module. Implements `contract.Executor`.

    module: a Hugging Face causal language model, or any module (`language=False`).
    """

    def __init__(
        self,
        module: torch.nn.Module,
        tokenizer: Any = None,
        *,
        name: str = "",
        language: bool = True,
    ) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.name = name or type(module).__name__
        self._language = language
        self._measured: OrderedDict[Any, Measured] = OrderedDict()
        self._sources = SourceBook(module)
        self._schedules: OrderedDict[Any, Schedule] = OrderedDict()
        self._cancelled: set[str] = set()
        self._one_at_a_time = threading.RLock()
        self._planning = threading.Lock()
        self._card: ModelCard | None = None
        self._names: NameReport | None = None
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters

    def card(self) -> ModelCard:
        """The model described; measures it on first use."""
        if self._card is None:
            self._card = self._make_card()
        return self._card

    def _make_card(self) -> ModelCard:
        first = next(self.module.parameters(), torch.empty(0))
        features = {"trace", "apply", "gradient", "local"} | (
            {"tokens"} if self._language else set()
        )
        tree = self._measured_for(TokenRows(((0,),))).tree if self._language else ModuleTree(())
        return ModelCard(
            name=self.name,
            architecture=type(self.module).__name__,
            dtype=dtype_name(first.dtype),
            tree=tree,
            capabilities=Capabilities("transformers", str(first.device), frozenset(features)),
            layers=len([name for name, _ in tree.standard if name.count(".") == 1]),
            parameters=sum(weight.numel() for weight in self.module.parameters()),
            context=self._config_number("max_position_embeddings"),
            vocab=self._config_number("vocab_size"),
            tokenizer=tokenizer_files(self.tokenizer),
        )

    @property
    def names(self) -> NameReport:
        """Which standard names this model has; checked when it is first measured."""
        tree = self.card().tree
        return self._names or names_in_tree(tree, type(self.module).__name__)

    def _config_number(self, name: str) -> int:
        config: Any = getattr(self.module, "config", None)
        text = config.get_text_config() if self._language and config is not None else None
        return int(getattr(text, name, 0) or 0)

    def tree_for(self, inputs: Inputs) -> ModuleTree:
        """The sites of one forward pass on these inputs. Raises `BadInput` if it has none."""
        return self._measured_for(inputs).tree

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        """What the forward of one module calls, measured when it is first asked for.

        Raises:
            AddressNotFound: there is no such module.
            NotSupported: its forward never runs, or calls no torch function itself.
        """
        measured = self._measured_for(inputs)
        if self._sources.knows(measured, path):  # without waiting for a run to end
            return self._sources.source(measured, path, [])
        with self._one_at_a_time, self._small_passes(inputs) as passes:
            return self._sources.source(measured, path, passes)

    def _with_sources(self, request: RunRequest, measured: Measured) -> Measured:
        """What was measured, with the operations inside modules that the graph names."""
        paths = paths_with_source(request.graph)
        if not paths:
            return measured
        for path, node in paths.items():
            try:
                self.source_of(path, request.inputs)
            except LabError as exc:
                exc.node = node.id
                raise exc.at(node.where)
        return self._sources.extended(measured, paths)

    @contextmanager
    def _small_passes(self, inputs: Inputs) -> Iterator[Passes]:
        """Forward passes to watch the inside of modules in; they leave nothing behind."""
        if isinstance(inputs, TokenRows):
            sizes = self._small_sizes()
            # The last has the size of the first and other tokens: what differs depends on those.
            runs = [(size, self._small_run(*size)) for size in sizes]
            with self._evaluating():
                yield [*runs, (sizes[0], self._small_run(*sizes[0], first=11))]
            return
        with untouched(self.module):
            yield [((1, 1), silent_run(self.module, inputs))]

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end; never raises, ends with `Done` or `Failed`."""
        begun = time.perf_counter()
        try:
            check_inputs(self.card(), request.inputs)
            base = self._measured_for(request.inputs)
            measured = self._with_sources(request, base)
            plan = self._plan(request, measured, id(base))
            emit(Accepted())
            with self._one_at_a_time:
                waited = time.perf_counter()
                emit(Started())
                self._forward(request, measured, plan, emit)
        except LabError as exc:
            emit(Failed(exc))
        except Exception as exc:  # noqa: BLE001 - a seam: a model's own code may raise anything
            failure = EngineFailed(
                f"{self.name} stopped: {type(exc).__name__}: {exc}",
                hint="Try fewer or shorter prompts, or call the model by itself on the same input.",
            )
            failure.__cause__ = exc
            emit(Failed(failure))
        else:
            ended = time.perf_counter()
            emit(Done({"wait": waited - begun, "run": ended - waited}))
        finally:
            self._cancelled.discard(request.id)

    def cancel(self, run_id: str) -> None:
        """Stop a run at the next module it reaches."""
        self._cancelled.add(run_id)

    def _plan(self, request: RunRequest, measured: Measured, base: int) -> Schedule:
        # The operations a plan needs follow from its graph, so what they were added to tells plans apart.
        key = (request.graph.key, base, _shape_key(request.inputs))
        with self._planning:
            plan = self._schedules.get(key)
        if plan is not None:
            return plan
        check_graph(request.graph, measured.tree, request.inputs)
        plan = schedule(request.graph, measured.tree)
        with self._planning:
            self._schedules[key] = plan
            while len(self._schedules) > _SCHEDULES_KEPT:
                self._schedules.popitem(last=False)
        return plan

    def _forward(self, request: RunRequest, measured: Measured, plan: Schedule, emit: Emit) -> None:
        host = TorchHost(self.module, dict(measured.tree.standard))
        run = Interleaver(plan, host, lambda name, value: emit(Saved(name, value)))
        wanted = {
            point: moment for point, moment in measured.moments.items() if moment in plan.moments
        }

        spans = spans_of(request.graph, request.inputs)
        rows = request.inputs
        size = (rows.batch, rows.pos) if isinstance(rows, TokenRows) else (1, 1)

        def part_of(place: Place) -> tuple[Spec, Span, str]:
            assert place.invoke is not None
            site = measured.tree.by_address[place.address]
            return site.spec, spans[place.invoke], str(place.address)

        def on_point(point: HookPoint, value: Any) -> Any:
            if request.id in self._cancelled:
                raise Cancelled("The run was cancelled.")

            def read(place: Place) -> Any:
                held = measured.bindings[place.address].take(value)
                if point.op is not None:
                    check_as_measured(measured.tree.by_address[place.address], held, *size)
                return held if place.invoke is None else narrowed(held, *part_of(place))

            for place, new in run.reach(wanted[point], read):
                binding = measured.bindings[place.address]
                if place.invoke is not None:
                    new = widened(binding.take(value), new, *part_of(place))  # noqa: PLW2901
                value = binding.put(value, new)
            if run.finished:
                raise _Enough
            return value

        with torch.set_grad_enabled(bool(plan.gradients)), self._evaluating():
            run.begin()
            if wanted:
                with host.attached(set(wanted), on_point):
                    self._call_model(request.inputs)
            run.end()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """A language model runs without dropout; one that is being trained goes on training."""
        training = [part for part in self.module.modules() if part.training and self._language]
        for part in training:
            part.training = False
        try:
            yield
        finally:
            for part in training:
                part.training = True

    def _call_model(self, inputs: Inputs) -> None:
        try:
            match inputs:
                case TokenRows():
                    self.module(**self._padded(inputs), use_cache=False)
                case ModuleInputs(args=args, kwargs=kwargs):
                    self.module(*args, **kwargs)
        except _Enough:
            return

    def _padded(self, inputs: TokenRows) -> dict[str, torch.Tensor]:
        """Token ids, and where lengths differ a mask and each prompt's own positions."""
        device = TorchHost(self.module).device
        width = inputs.pos
        pad = getattr(self.tokenizer, "pad_token_id", None) or 0
        ids = [[pad] * (width - len(row)) + list(row) for row in inputs.rows]
        given = {"input_ids": torch.tensor(ids, device=device)}
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in inputs.rows], device=device
        )
        if not bool(mask.all()):
            given["attention_mask"] = mask
        if self._takes_positions:
            # Always given, so that what follows from them is [batch, pos, …] padded or not.
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return given

    def _measured_for(self, inputs: Inputs) -> Measured:
        key: Any = "tokens"
        if isinstance(inputs, ModuleInputs):
            key = (_shape_key(inputs), self.module.training)
        if key not in self._measured:
            with self._one_at_a_time:
                if key not in self._measured:
                    self._measured[key] = self._measure(inputs)
        return self._measured[key]

    def _measure(self, inputs: Inputs) -> Measured:
        if isinstance(inputs, ModuleInputs):
            return self._measure_module(inputs)
        runs = {size: self._small_run(*size) for size in self._small_sizes()}
        with self._evaluating():
            measured, self._names = certified(self.module, runs)
        return measured

    def _small_sizes(self) -> list[tuple[int, int]]:
        context = self._config_number("max_position_embeddings")
        sizes = _SMALL if not context or context >= _SMALL[-1][1] else _SMALLER
        return [(batch, min(pos, context or pos)) for batch, pos in sizes]

    def _small_run(self, batch: int, pos: int, first: int = 1) -> Callable[[], None]:
        vocab = self._config_number("vocab_size") or pos + 1
        row = tuple(place % vocab for place in range(first, first + pos))
        return lambda: self._call_model(TokenRows((row,) * batch))

    def _measure_module(self, inputs: ModuleInputs) -> Measured:
        """Watch a forward pass without data where that works, with the real inputs where not."""
        module = self.module
        # A seam: any module's own code may refuse tensors without data.
        with suppress(Exception), untouched(module):
            return measure(module, {(1, 1): lambda: without_data(module, inputs)})
        try:
            with untouched(module):
                return measure(module, {(1, 1): lambda: without_traces(module, inputs)})
        except Exception as exc:
            raise BadInput(
                f"{self.name} cannot run on these inputs: {[*str(exc).splitlines(), ''][0]}",
                hint=f"Call the module by itself with the same inputs: {self.name}(…).",
            ) from exc


def _shape_key(inputs: Inputs) -> Any:
    """Inputs of the same key reach the same sites with the same shapes."""
    if isinstance(inputs, TokenRows):
        return inputs.batch, inputs.pos

    def shape(tensor: torch.Tensor) -> str:
        return f"{tensor.dtype}{tuple(tensor.shape)}"

    return repr(map_tensors((inputs.args, dict(inputs.kwargs)), shape))
