"""NNsight, LanguageModel and TransformersModel: a model here, and the same one on a lab's server.

`remote=True` opens a block on the server that `CONFIG` names; anything else runs in this process.
Weights are loaded when they are first needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Self

import torch

from nnsight_lab.compat.edits import EditBlock
from nnsight_lab.compat.envoy import Envoy
from nnsight_lab.compat.prompts import generation_options, prompt_of
from nnsight_lab.compat.settings import settings_now
from nnsight_lab.compat.shared import Shared
from nnsight_lab.compat.tracers import Tracer
from nnsight_lab.errors import BadInput, NotSupported
from nnsight_lab.models.lab import connect
from nnsight_lab.models.language_model import LanguageModel as LabLanguageModel
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.wrap import wrap
from nnsight_lab.passes.shapes import module_path
from nnsight_lab.tracing.envoy import path_of
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["Generator", "LanguageModel", "NNsight", "TransformersModel"]


class NNsight(Envoy):
    """Any torch module: `NNsight(net)`; its modules are attributes."""

    def __init__(self, module: torch.nn.Module, *, rename: Any = None) -> None:
        self._begin()
        self._here: TracedModel | None = wrap(module, rename=rename)

    def _begin(self) -> None:
        self._where = ""
        self._shared = Shared()
        self._unpacks: Any = None
        self._paths: dict[str, None] | None = None

    @property
    def _root(self) -> NNsight:
        return self

    @property
    def shared(self) -> Shared:
        """What this model has in common with its edited copies."""
        return self._shared

    def lab_model(self) -> TracedModel:
        """The package's own model, in this process."""
        assert self._here is not None, "set when it was made"
        return self._here

    def torch_module(self) -> torch.nn.Module:
        """The torch module in this process."""
        found: torch.nn.Module = self.lab_model().module
        return found

    @property
    def _model(self) -> torch.nn.Module:
        return self.torch_module()

    def module_paths(self) -> dict[str, None]:
        """Every module's path, in order."""
        if self._paths is None:
            named = self.torch_module().named_modules(remove_duplicate=False)
            self._paths = dict.fromkeys(path for path, _ in named)
        return self._paths

    def as_envoy(self, found: Any) -> Envoy:
        """An envoy of the package's own as one of these."""
        opened = self.shared.opened()
        model = self.lab_model() if opened is None else opened.model
        return Envoy(self, module_path(model.tree, path_of(found)))

    def is_here(self) -> bool:
        """Whether the torch module is in this process by now."""
        return self._here is not None

    # Blocks

    @one_frame
    def trace(self, *inputs: Any, trace: bool = True, **named: Any) -> Any:
        """Record the `with` block, and run the model on these inputs when it ends."""
        model: Any = self._for_a_block(named)
        if not trace:
            with model.trace(*inputs, **named):
                found = model.output.save()
            return found
        return Tracer(self.shared, model, model.trace(*inputs, **named))

    @one_frame
    def scan(self, *inputs: Any, **named: Any) -> Tracer:
        """Record the `with` block, and give the shapes of what it saves."""
        model: Any = self._for_a_block(named)
        return Tracer(self.shared, model, model.scan(*inputs, **named))

    @one_frame
    def session(self, **named: Any) -> Tracer:
        """Several traces as one run."""
        model = self._for_a_block(named)
        return Tracer(self.shared, model, model.session())

    def _for_a_block(self, named: dict[str, Any]) -> TracedModel:
        """The model that a block is to be recorded on; takes what says so out of `named`."""
        for name in ("backend", "tracer_cls", "fn"):
            if named.pop(name, None) is not None:
                raise NotSupported(
                    f"{name}= is not part of nnsight_lab.",
                    hint="trace, generate and scan are the calls there are.",
                ).at(user_line())
        if named.pop("blocking", True) is False:
            raise NotSupported(
                "A block waits for its run; blocking=False is not part of nnsight_lab.",
                hint="Run the block in a thread of your own.",
            ).at(user_line())
        remote = named.pop("remote", False)
        opened = self.shared.opened()
        if opened is not None:
            return opened.model
        return self._there() if remote is True else self.lab_model()

    def _there(self) -> TracedModel:
        raise NotSupported(
            "A server runs its own models, not a module of this process.",
            hint="Leave out remote=True, or use LanguageModel with the name of a served model.",
        ).at(user_line())

    # Edits

    def edit(self, *, inplace: bool = False, **named: Any) -> EditBlock:
        """Record edits that every later trace begins with."""
        return EditBlock(self, inplace=inplace)

    def clear_edits(self) -> None:
        """Forget the edits of this model."""
        self.lab_model().clear_edits()

    def with_lab_model(self, model: TracedModel) -> Self:
        """This model once more, on another of the package's own."""
        twin = type(self).__new__(type(self))
        for name, value in vars(self).items():
            object.__setattr__(twin, name, value)
        object.__setattr__(twin, "_here", model)
        return twin

    def unpack_once(self, tracer: Any) -> None:
        """Let `as (tracer, edited)` take this model apart, once."""
        self._unpacks = tracer

    def __iter__(self) -> Iterator[Any]:
        tracer, self._unpacks = self._unpacks, None
        return super().__iter__() if tracer is None else iter((tracer, self))


class LanguageModel(NNsight):
    """A causal language model: a name, a folder, or a module with `tokenizer=`.

    dispatch: load the weights now; otherwise when they are first needed. Other options go to
    `from_pretrained`: `dtype`, `device_map`, `attn_implementation`.
    """

    def __init__(
        self,
        model: Any,
        *args: Any,
        dispatch: bool = False,
        tokenizer: Any = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        rename: Any = None,
        task: str = "text-generation",
        **options: Any,
    ) -> None:
        self._begin()
        if task != "text-generation":
            raise NotSupported(
                f"The task {task!r} is not part of nnsight_lab.",
                hint="nl.wrap(module) traces any torch module.",
            ).at(user_line())
        options.pop("automodel", None)
        if "torch_dtype" in options:
            options["dtype"] = options.pop("torch_dtype")
        self._given = (model, {"tokenizer": tokenizer, "rename": rename, **options})
        self._here = None
        self._far: LabLanguageModel | None = None
        self._tokenizer_kwargs = tokenizer_kwargs or {}
        if dispatch or not isinstance(model, str):
            self.dispatch()

    def dispatch(self) -> None:
        """Load the weights, if they are not here."""
        if self._here is None:
            model, options = self._given
            device, options = _device_of(options)
            self._here = LabLanguageModel(model, settings=settings_now(), **options)
            if device is not None:
                self.torch_module().to(device)

    def lab_model(self) -> TracedModel:
        """The package's own model, in this process; loads it."""
        self.dispatch()
        return super().lab_model()

    def _there(self) -> TracedModel:
        if self._far is None:
            name = self._given[0]
            if not isinstance(name, str):
                raise BadInput(
                    "A server is asked for a model by name; this one was given as a module.",
                    hint='LanguageModel("name") with a name that nnsight.status() lists.',
                ).at(user_line())
            self._far = connect(settings=settings_now()).model(name)
        return self._far

    def module_paths(self) -> dict[str, None]:
        """Every module's path, in order; a server's tree where no weights are here."""
        opened = self.shared.opened()
        there = self._far if opened is None else opened.model
        if self._here is not None or there is None:
            return super().module_paths()
        return dict.fromkeys(card.path for card in there.tree.modules)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        found = (self._here or self._far or self.lab_model()).tokenizer
        for name, value in self._tokenizer_kwargs.items():
            setattr(found, name, value)
        return found

    @property
    def generator(self) -> Any:
        """What a generation gives, by its older name: `model.generator.output`."""
        return Generator(self)

    @one_frame
    def trace(self, *inputs: Any, trace: bool = True, **named: Any) -> Any:
        """Record the `with` block, and run the model on a prompt when it ends."""
        model: Any = self._for_a_block(named)
        given = prompt_of(inputs, named)
        if not trace:
            with model.trace(**given):
                found = model.output.save()
            return found
        return Tracer(self.shared, model, model.trace(**given))

    @one_frame
    def scan(self, *inputs: Any, **named: Any) -> Tracer:
        """Record the `with` block, and give the shapes of what it saves."""
        model: Any = self._for_a_block(named)
        return Tracer(self.shared, model, model.scan(**prompt_of(inputs, named)))

    @one_frame
    def generate(self, *inputs: Any, trace: bool = True, **named: Any) -> Any:
        """Record the `with` block, and generate from a prompt when it ends."""
        model: Any = self._for_a_block(named)
        options = generation_options(named)
        given = prompt_of(inputs, named)
        if not trace:
            with model.generate(**given, **options) as tracer:
                found = tracer.result.save()
            return found
        return Tracer(self.shared, model, model.generate(**given, **options))


def _device_of(options: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """`device_map` as one device, where `accelerate` is not there to split a model."""
    asked = options.get("device_map")
    if not isinstance(asked, str) or find_spec("accelerate") is not None:
        return None, options
    kept = {name: value for name, value in options.items() if name != "device_map"}
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return asked, kept


class Generator:
    """`model.generator`: what came of a generation."""

    def __init__(self, model: LanguageModel) -> None:
        self._of = model

    @property
    @one_frame
    def output(self) -> Any:
        """The ids, prompt included; `tracer.result` is the same."""
        return self._of.opened_for("generator.output").tracer.result

    @property
    def streamer(self) -> Any:
        """Refused: see `model.tokens`."""
        raise NotSupported(
            "model.generator.streamer is not part of nnsight_lab.",
            hint="In a loop over tracer.iter[:], model.tokens are the ids sampled at that step.",
        ).at(user_line())


class TransformersModel(LanguageModel):
    """The name of 0.8 for `LanguageModel`."""
