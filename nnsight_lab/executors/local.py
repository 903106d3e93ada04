"""LocalExecutor: runs graphs on a torch module in this process.

Hooks stand only where the graph reads or writes, and are removed afterwards even on error. A run
stops the model after the last moment it needs. What one forward pass gives and takes is in
`listen.py`, the passes of a generation in `generate.py`.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

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
    Several,
    Started,
    TokenRows,
)
from nnsight_lab.errors import BadInput, EngineFailed, LabError
from nnsight_lab.executors.batch import Padded
from nnsight_lab.executors.certify import certified
from nnsight_lab.executors.decoding import measured_decoding
from nnsight_lab.executors.families import NameReport, names_in_tree
from nnsight_lab.executors.generate import Decoder, Decoding, padding_of, stop_ids_of
from nnsight_lab.executors.given import not_a_language_model, shape_key, small_sizes
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.listen import Enough, Listener
from nnsight_lab.executors.loading import load_model, tokenizer_files
from nnsight_lab.executors.measure import Measured, measure
from nnsight_lab.executors.source_measure import Passes, SourceBook
from nnsight_lab.executors.turns import in_turn
from nnsight_lab.executors.untouched import (
    evaluating,
    silent_run,
    untouched,
    without_data,
    without_traces,
)
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from nnsight_lab.kernels.tensors import dtype_name
from nnsight_lab.passes import (
    Part,
    Stages,
    check_graph,
    check_inputs,
    followed_parts,
    last_positions,
    paths_with_source,
    schedule,
)
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab.runtime import Interleaver
from nnsight_lab.settings import Settings

__all__ = ["LocalExecutor", "load_local"]

_PLANS_KEPT = 64


class _Plan(NamedTuple):
    """A graph laid along a run. logits: of how many positions the model is told to make them."""

    schedule: Schedule
    logits: dict[str, int]


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
        self._plans: OrderedDict[Any, _Plan] = OrderedDict()
        self._cancelled: set[str] = set()
        self._one_at_a_time = threading.RLock()
        self._planning = threading.Lock()
        self._decoding: Measured | None = None
        self._card: ModelCard | None = None
        self._names: NameReport | None = None
        takes = inspect.signature(module.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._picks_logits = language and "logits_to_keep" in takes

    def card(self) -> ModelCard:
        """The model described; measures it on first use."""
        if self._card is None:
            self._card = self._make_card()
        return self._card

    def _make_card(self) -> ModelCard:
        first = next(self.module.parameters(), torch.empty(0))
        features = {"trace", "apply", "gradient", "source", "local", "local_fn"} | (
            {"tokens"} if self._language else set()
        )
        tree = self.measured_for(TokenRows(((0,),))).tree if self._language else ModuleTree(())
        features |= {"generate"} if self._decoding else set()
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
            decode=self._decoding.tree if self._decoding else None,
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
        return self.measured_for(inputs).tree

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        """What the forward of one module calls, measured when it is first asked for.

        Raises:
            AddressNotFound: there is no such module.
            NotSupported: its forward never runs, or calls no torch function itself.
        """
        measured = self.measured_for(inputs)
        if self._sources.knows(measured, path):  # without waiting for a run to end
            return self._sources.source(measured, path, [])
        with self._one_at_a_time, self._small_passes(inputs) as passes:
            return self._sources.source(measured, path, passes)

    def _with_sources(
        self, graph: Graph, inputs: Sequence[TokenRows | ModuleInputs], measured: list[Measured]
    ) -> list[Measured]:
        """What was measured of each part, with the operations inside modules the graph names."""
        paths = paths_with_source(graph)
        if not paths:
            return measured
        for path, node in paths.items():
            try:
                for part in inputs:
                    self.source_of(path, part)
            except LabError as exc:
                exc.node = node.id
                raise exc.at(node.where)
        return [self._sources.extended(each, paths) for each in measured]

    @contextmanager
    def _small_passes(self, inputs: Inputs) -> Iterator[Passes]:
        """Forward passes to watch the inside of modules in; they leave nothing behind."""
        if isinstance(inputs, TokenRows):
            sizes = small_sizes(self._config_number("max_position_embeddings"))
            # The last has the size of the first and other tokens: what differs depends on those.
            runs = [(size, self._small_run(*size)) for size in sizes]
            with self._evaluating():
                yield [*runs, (sizes[0], self._small_run(*sizes[0], first=11))]
            return
        assert isinstance(inputs, ModuleInputs), "one trace's"
        with untouched(self.module):
            yield [((1, 1), silent_run(self.module, inputs))]

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end; never raises, ends with `Done` or `Failed`."""
        begun = time.perf_counter()
        try:
            check_inputs(self.card(), request.inputs)
            inputs = request.inputs
            given = inputs.parts if isinstance(inputs, Several) else (inputs,)
            bases = [self.measured_for(part) for part in given]
            measured = self._with_sources(request.graph, given, bases)
            stages = Stages(tuple(map(self._part, given, measured)))
            plan = self._plan(request, bases, stages)
            emit(Accepted())
            with in_turn(self._one_at_a_time, lambda: request.id in self._cancelled):
                waited = time.perf_counter()
                emit(Started())
                steps, all_ended = self._carry_out(request, measured, plan, stages, emit)
        except LabError as exc:
            emit(Failed(exc))
        except Exception as exc:  # noqa: BLE001 - a seam: a model's own code may raise anything
            failure = EngineFailed(
                f"{self.name} stopped: {type(exc).__name__}: {exc}",
                hint="Try fewer or shorter prompts, or call the model by itself on the same input.",
            )
            failure.__cause__ = exc
            emit(Failed(failure))
            del failure  # the cause knows this frame, which must not know the cause
        else:
            ended = time.perf_counter()
            seconds = {"wait": waited - begun, "run": ended - waited}
            emit(Done(seconds, steps=steps, ended=all_ended))
        finally:
            self._cancelled.discard(request.id)

    def cancel(self, run_id: str) -> None:
        """Stop a run at the next module it reaches."""
        self._cancelled.add(run_id)

    def _part(self, inputs: TokenRows | ModuleInputs, measured: Measured) -> Part:
        decode = self._decoding.tree if self._decoding and isinstance(inputs, TokenRows) else None
        return Part(inputs, measured.tree, decode)

    def _plan(self, request: RunRequest, bases: list[Measured], stages: Stages) -> _Plan:
        """How to run a graph: found out once for all runs on inputs of one size."""
        prompts = (part.inputs for part in stages.parts if isinstance(part.inputs, TokenRows))
        apart = bool(request.graph.invokes)
        # Of tensors, what was measured tells them.
        shapes = tuple(shape_key(rows, each_row=apart) for rows in prompts)
        # The operations a plan needs follow from its graph, so what they were added to tells plans apart.
        key = (request.graph.quick_key, tuple(map(id, bases)), shapes)
        with self._planning:
            plan = self._plans.get(key)
        if plan is not None:
            return plan
        check_graph(request.graph, stages, request.inputs)
        plan = _Plan(schedule(request.graph, stages), self._logits_needed(request.graph, stages))
        with self._planning:
            self._plans[key] = plan
            while len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def _carry_out(
        self,
        request: RunRequest,
        measured: list[Measured],
        how: _Plan,
        stages: Stages,
        emit: Emit,
    ) -> tuple[int, bool]:
        """Make the forward passes; gives how many there were, and whether every text ended."""
        plan = how.schedule
        host = TorchHost(
            self.module,
            measured[0].tree.module_of,
            cancelled=lambda: request.id in self._cancelled,
        )
        saved: Callable[[str, Any], None] = lambda name, value: emit(Saved(name, value))  # noqa: E731
        # Its graph, whose sliders may stand elsewhere than in the one that was planned.
        run = Interleaver(plan, host, saved, request.functions, request.graph)
        listener = Listener(run, plan, stages, lambda: request.id in self._cancelled)
        begins, made, ended = 0, 0, False
        followed = followed_parts(request.graph, stages) if plan.gradients else frozenset()
        with torch.set_grad_enabled(bool(plan.gradients)), self._evaluating():
            run.begin()
            for number, (part, places) in enumerate(zip(stages.parts, measured, strict=True)):
                torch.set_grad_enabled(number in followed)  # the block around sets it back
                if part.generates:
                    model = self._decoder(host, places)
                    text = Decoding(model, part, plan, stages, run, listener, emit, begins)
                    text.go()
                    made, ended = made + text.steps, text.ended
                else:
                    hearing = listener.attached(host, places, begins, let_go=True)
                    with hearing as heard, suppress(Enough):
                        if heard:
                            self._call_model(part.inputs, host.device, **how.logits)
                    run.end(begins)
                    made, ended = made + 1, False
                begins += part.passes
        return made, ended

    def _decoder(self, host: TorchHost, measured: Measured) -> Decoder:
        assert self._decoding is not None, "checked with the inputs"
        return Decoder(
            self.module,
            host,
            measured,
            self._decoding,
            pad=self._padding,
            end_pad=padding_of(self.module),
            stop_ids=stop_ids_of(self.module),
            vocab=self._config_number("vocab_size"),
            takes_positions=self._takes_positions,
            picks_logits=self._picks_logits,
        )

    def _evaluating(self) -> AbstractContextManager[None]:
        """A language model runs without dropout; one that is being trained goes on training."""
        return evaluating(self.module) if self._language else nullcontext()

    def _logits_needed(self, graph: Graph, stages: Stages) -> dict[str, int]:
        """Tell the model of how many last positions the logits are needed, where it takes that."""
        if not self._picks_logits or len(stages.parts) > 1:
            return {}
        last = last_positions(graph, stages.parts[0].tree)
        return {} if last is None else {"logits_to_keep": last}

    def _call_model(
        self, inputs: TokenRows | ModuleInputs, device: torch.device, **options: int
    ) -> None:
        match inputs:
            case TokenRows():
                batch = Padded(inputs, self._padding, device, positions=self._takes_positions)
                self.module(**batch.prompt(), use_cache=False, **options)
            case ModuleInputs(args=args, kwargs=kwargs):
                self.module(*args, **kwargs)

    @property
    def _padding(self) -> int:
        return getattr(self.tokenizer, "pad_token_id", None) or 0

    def measured_for(self, inputs: Inputs) -> Measured:
        """The same sites, with how each is reached in the module."""
        key: Any = "tokens"
        if isinstance(inputs, ModuleInputs):
            key = (shape_key(inputs), self.module.training)
        if key not in self._measured:
            with self._one_at_a_time:
                if key not in self._measured:
                    self._measured[key] = self._measure(inputs)
        return self._measured[key]

    def _measure(self, inputs: Inputs) -> Measured:
        if isinstance(inputs, ModuleInputs):
            return self._measure_module(inputs)
        sizes = small_sizes(self._config_number("max_position_embeddings"))
        runs = {size: self._small_run(*size) for size in sizes}
        try:
            with self._evaluating():
                measured, self._names = certified(self.module, runs)
                self._decoding = measured_decoding(
                    self.module,
                    measured,
                    vocab=self._config_number("vocab_size"),
                    context=self._config_number("max_position_embeddings"),
                    positions=self._takes_positions,
                )
        except LabError:
            raise
        except Exception as exc:  # a seam: any module refuses tokens in its own way
            raise not_a_language_model(self.module, exc) from exc
        return measured

    def _small_run(self, batch: int, pos: int, first: int = 1) -> Callable[[], None]:
        vocab = self._config_number("vocab_size") or pos + 1
        row = tuple(place % vocab for place in range(first, first + pos))
        rows = TokenRows((row,) * batch)
        return lambda: self._call_model(rows, TorchHost(self.module).device)

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
