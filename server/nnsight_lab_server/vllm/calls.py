"""`VllmCalls`: what a graph may call of the model out of its order, and the weights it may read.

`lm.lm_head(lm.norm(h))` names Hugging Face modules. Their work is done by vLLM's, which take flat
rows, return a bias beside their output, pad the vocabulary and are cut over the workers; here that
is undone. A call is good when it was compared: `check` does it, with values that went through the
Hugging Face module, and says how far off each one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from nnsight_lab.errors import NotSupported, ShapeMismatch
from nnsight_lab_server.vllm.checkpoint import Checkpoint, checkpoint_folder
from nnsight_lab_server.vllm.ranks import largest
from nnsight_lab_server.vllm.routes import Route, close_enough, fitted, likely_routes

__all__ = ["Sample", "VllmCalls", "samples_of"]

Sample = tuple[torch.Tensor, torch.Tensor]
"""What went into a Hugging Face module, and what came out."""

_ELSEWHERE = "Run it on the transformers engine, which can call every module."


class VllmCalls:
    """Modules and parameters of the Hugging Face model, as vLLM's model has them.

    model: vLLM's. config: its `VllmConfig`. `silent` is true while a call of ours is under way:
    hooks then have nothing to hear. Every worker of a parallel model must make the same calls.
    """

    def __init__(self, model: torch.nn.Module, config: Any) -> None:
        self._model = model
        self._config = config
        self._routes: dict[str, Route] = {}
        self._wrong: dict[str, float] = {}
        self._checkpoint: Checkpoint | None = None
        self.silent = False

    @property
    def routes(self) -> dict[str, Route]:
        """Where calls go: those that were found so far."""
        return dict(self._routes)

    def reasons(self, paths: Iterable[str]) -> dict[str, str]:
        """Why those of some modules have no route that have none."""
        return {path: self._reason(path) for path in paths if path not in self._routes}

    def use(self, routes: Mapping[str, Route]) -> None:
        """Take routes that were found earlier, of the same model."""
        self._routes.update(routes)

    def lacking(self, routes: Mapping[str, Route]) -> dict[str, str]:
        """Which routes cannot be gone here, and why not."""
        known = dict(self._model.named_modules())
        why = {
            path: self._why_not(route)
            if route.function is not None or route.path in known
            else "vLLM has none like it"
            for path, route in routes.items()
        }
        return {path: reason for path, reason in why.items() if reason}

    @torch.no_grad()
    def apply(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call one module of the Hugging Face model, on `[…, d]` with any axes before.

        Raises:
            NotSupported: vLLM has no such module, or it was not checked, or found to be wrong.
            ShapeMismatch: it takes another last axis, or ids it has no row for.
        """
        given = [*args, *kwargs.values()]
        if len(given) != 1 or not isinstance(given[0], torch.Tensor):
            raise NotSupported(
                f"On vLLM {path} can be called with one tensor, not with {len(given)} arguments.",
                hint=_ELSEWHERE,
            )
        route = self._route(path)
        reason = self._unfit(route, given[0])
        if reason:
            raise ShapeMismatch(f"{path} {reason}.", hint="Look at the shape of what it is given.")
        return route.picked(self._through(route, given[0]))

    def weight(self, path: str, name: str) -> torch.Tensor:
        """A parameter as Hugging Face has it, in the model's dtype; not to be changed in place.

        Raises:
            NotSupported: it is not in the checkpoint by itself, or is stored quantised.
        """
        return self._weights().read(f"{path}.{name}" if path else name)

    @torch.no_grad()
    def check(self, samples: Mapping[str, Sample]) -> dict[str, float]:
        """How far off a call of each path is, at the most; infinite where there is none.

        Finds the routes as it goes: what `apply` does afterwards is what was measured here.
        """
        return {path: self._measured(path, sample) for path, sample in samples.items()}

    def _measured(self, path: str, sample: Sample) -> float:
        given, expected = sample
        enough = close_enough(expected)
        best: tuple[Route | None, float] = (None, float("inf"))
        good = False
        for route in dict.fromkeys(likely_routes(path, self._model)):
            output = self._tried(route, given)
            found, off = route, float("inf")
            if output is not None and output.shape[:-1] == expected.shape[:-1]:
                rows = output.flatten(0, -2), expected.to(output.device).flatten(0, -2)
                found, off = fitted(route, *rows)
            # The next try may need all workers: were one content and another not, it would wait
            # for ever. So the worst of them decides.
            off, wrong = largest([off, float(off > enough)])
            if off < best[1]:
                best, good = (found, off), not wrong
            # Two activations may be nearly the same, so of those all are tried.
            if good and route.function is None:
                break
        chosen, off = best
        if chosen is not None and good:
            self._routes[path] = chosen
        else:
            self._wrong[path] = off
        return off

    def _tried(self, route: Route, given: torch.Tensor) -> torch.Tensor | None:
        """What a module makes of a value; None where it cannot take it."""
        refused = self._why_not(route) or self._unfit(route, given)
        if largest([float(bool(refused))]) != [0.0]:
            return None
        try:
            output = self._through(route, given)
        except Exception:  # noqa: BLE001 - a seam: a wrong guess may fail in any way
            return None
        return output if output.dim() > 1 else None

    def _route(self, path: str) -> Route:
        route = self._routes.get(path)
        if route is None:
            reason = self._reason(path)
            raise NotSupported(f"On vLLM {path} cannot be called: {reason}.", hint=_ELSEWHERE)
        return route

    def _reason(self, path: str) -> str:
        """Why there is no route to a module."""
        nearest = next(likely_routes(path, self._model), None)
        known = self._why_not(nearest) if nearest is not None else None
        if known:
            return known
        if path not in self._wrong:
            return "it was not compared with Hugging Face's"
        off = self._wrong[path]
        return f"vLLM's is {off:.2g} off" if off < float("inf") else "vLLM has none like it"

    def _unfit(self, route: Route, given: torch.Tensor) -> str | None:
        if route.function is not None:
            return None if given.is_floating_point() else "takes no ids"
        return _unfit(self._model.get_submodule(route.path), given)

    def _why_not(self, route: Route) -> str | None:
        """Why a module of vLLM's cannot be called by itself."""
        if route.function is not None:
            return None
        module = self._model.get_submodule(route.path)
        if type(module).__name__ == "PPMissingLayer":
            return "it is on another stage of the pipeline"
        if any(hasattr(each, "kv_cache_dtype") for each in module.modules()):
            return "it holds attention, which needs the keys of its own request"
        if isinstance(module, torch.nn.ModuleList):
            return "it is a list of modules"
        return None

    def _through(self, route: Route, given: torch.Tensor) -> torch.Tensor:
        """One of vLLM's modules on a value of any leading axes: flat rows in, and back."""
        if route.function is not None:
            return _elementwise(route.function)(given)
        module: Any = self._model.get_submodule(route.path)
        ids = not given.is_floating_point()
        leading = given.shape if ids else given.shape[:-1]
        # A copy: some of vLLM's kernels write over what they are given.
        rows = given.reshape(-1).clone() if ids else given.reshape(-1, given.shape[-1]).clone()
        with self._out_of_order(len(rows)):
            output = _called(module, rows)
        return output.reshape(*leading, output.shape[-1])

    @contextmanager
    def _out_of_order(self, rows: int) -> Iterator[None]:
        """No hook of ours hears it, and vLLM does not count it as a step of the model."""
        from vllm import forward_context as contexts

        was, self.silent = self.silent, True
        try:
            if not contexts.is_forward_context_available():
                with contexts.set_forward_context(None, self._config, num_tokens=rows):
                    contexts.get_forward_context().all_moe_layers = None
                    yield
                return
            context = contexts.get_forward_context()
            # By this list vLLM tells which experts are next; a call of ours must not move it on.
            layers, context.all_moe_layers = context.all_moe_layers, None
            try:
                yield
            finally:
                context.all_moe_layers = layers
        finally:
            self.silent = was

    def _weights(self) -> Checkpoint:
        if self._checkpoint is None:
            model = self._config.model_config
            if model.quantization is not None:
                raise NotSupported(
                    f"The weights of this model are stored quantised ({model.quantization}).",
                    hint=_ELSEWHERE,
                )
            device = next(self._model.parameters()).device
            folder = checkpoint_folder(model)
            self._checkpoint = Checkpoint(folder, model.hf_config, model.dtype, device)
        return self._checkpoint


def _elementwise(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    from transformers.activations import ACT2FN

    found: Callable[[torch.Tensor], torch.Tensor] = (
        torch.clone if name == "identity" else ACT2FN[name]
    )
    return found


def _unfit(module: torch.nn.Module, given: torch.Tensor) -> str | None:
    """Why a module cannot take a value. vLLM's kernels do not look, and read past the end."""
    if not given.is_floating_point():
        table = _named(module, "org_vocab_size", "num_embeddings")
        if table is None:
            return "takes no ids"
        fits = not given.numel() or (int(given.min()) >= 0 and int(given.max()) < table)
        return None if fits else f"takes ids from 0 to {table - 1}"
    if given.dim() < 1:
        return "takes [..., d], not a number"
    width = _width(module)
    if width is None or given.shape[-1] == width:
        return None
    return f"takes [..., {width}], and was given {list(given.shape)}"


def _width(module: torch.nn.Module) -> int | None:
    """How long the last axis is that a module takes; a block's is its first matrix's."""
    if hasattr(module, "org_vocab_size"):
        return _named(module, "embedding_dim")
    # Of a block, the matrix that takes what the block takes; the others take what that one gives.
    matrices = [each for each in module.modules() if _named(each, "input_size", "in_features")]
    first = [each for each in matrices if not getattr(each, "input_is_parallel", False)]
    if matrices:
        return _named((first or matrices)[0], "input_size", "in_features")
    weight = getattr(module, "weight", None)
    is_norm = isinstance(weight, torch.Tensor) and weight.dim() == 1
    return int(weight.shape[0]) if is_norm and weight is not None else None


def _named(module: torch.nn.Module, *names: str) -> int | None:
    found = (getattr(module, name, None) for name in names)
    return next((int(number) for number in found if isinstance(number, int)), None)


def _called(module: Any, rows: torch.Tensor) -> torch.Tensor:
    """What a module gives for all columns, whole, whatever of it this worker holds."""
    from vllm import distributed

    workers = distributed.get_tensor_model_parallel_world_size()
    if getattr(module, "input_is_parallel", False) and workers > 1:
        here = distributed.get_tensor_model_parallel_rank()
        rows = rows.chunk(workers, dim=-1)[here].contiguous()
    if hasattr(module, "org_vocab_size") and rows.is_floating_point():
        output = module.quant_method.apply(module, rows, bias=getattr(module, "bias", None))
        split, vocab = True, int(module.org_vocab_size)
    else:
        output = module(rows)
        split, vocab = getattr(module, "gather_output", True) is False, None
    if isinstance(output, tuple):
        output, bias = output[0], output[1] if len(output) == 2 else None
        # A bias beside the output was left for a later kernel to add.
        output = output + bias if isinstance(bias, torch.Tensor) else output
    if split and workers > 1:
        output = distributed.tensor_model_parallel_all_gather(output)
    whole: torch.Tensor = output if vocab is None else output[..., :vocab]
    return whole


@torch.no_grad()
def samples_of(
    module: torch.nn.Module, tokens: torch.Tensor, paths: Sequence[str]
) -> dict[str, Sample]:
    """What goes into and comes out of modules of the Hugging Face model, on one prompt.

    Only of those that take one tensor and give one: others cannot be called on vLLM.
    """
    found: dict[str, Sample] = {}
    handles = []
    for path in paths:

        def heard(_: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            given = [*args, *kwargs.values()]
            if len(given) == 1 and all(isinstance(each, torch.Tensor) for each in (*given, output)):
                found[path] = (given[0].detach().clone(), output.detach().clone())

        target = module.get_submodule(path)
        handles.append(target.register_forward_hook(heard, with_kwargs=True))
    try:
        module(tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found
