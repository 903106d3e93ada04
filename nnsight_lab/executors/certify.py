"""Standard names, checked on the model itself when it loads. A name that fails is not served.

    measured, report = certified(module, runs)

Beside the small forward passes that measure the tree (`measure.py`), three more: one that looks
inside attention, one that does not, one with an edit. They ask of every name its shape; of the
pattern that its rows sum to 1, that no position sees a later one, and that it is what the model
goes by unwatched; of the residual stream that it is handed from block to block and that an edit of
it reaches the logits; of `norm` and `lm_head` that they lead from the last block to the logits.
Nothing stays on the model; a row of the table that does not fit leaves module paths as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from nnsight_lab.errors import LabError
from nnsight_lab.executors.families import (
    NameReport,
    Names,
    Sizes,
    family_of,
    model_type_of,
    names_in_tree,
    names_of,
    sizes_of,
)
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.measure import Measured, measure
from nnsight_lab.executors.sites import HookPoint
from nnsight_lab.ir import Address, Site, TensorSpec

__all__ = ["certified", "without"]

_Runs = Mapping[tuple[int, int], Callable[[], Any]]
_Bad = dict[Address, str]
_Values = dict[Address, torch.Tensor]

_LOGITS = Address("", "logits")


def certified(module: torch.nn.Module, runs: _Runs) -> tuple[Measured, NameReport]:
    """The tree of a language model with the standard names that hold, and what to say of them.

    runs: a forward pass for each of two or more small `(batch, pos)`.
    """
    names = names_of(module)
    problems: list[str] = []
    try:
        measured = measure(module, runs, names.bindings, names.modules)
    except Exception as exc:  # noqa: BLE001 - a seam: a wrong row must not keep a model out
        problems.append(f"standard names do not fit this model: {_line(exc)}")
        names = Names(())
        measured = measure(module, runs)
    bad = _never_reached(measured, names)
    bad |= _wrong_shapes(measured, names, tuple(runs), sizes_of(getattr(module, "config", None)))
    try:
        largest = max(runs, key=lambda size: size[1])
        bad |= _Checks(module, measured, runs[largest]).all(problems, bad)
    except Exception as exc:  # noqa: BLE001 - a seam, as above
        problems.append(f"the values of its names were not checked: {_line(exc)}")
    kept = without(measured, bad)
    family = family_of(module)
    return kept, NameReport(
        type(module).__name__,
        model_type_of(module),
        family.name if family else None,
        tuple(site.address for site in kept.tree.sites if site.address in _addresses(names)),
        (*names.missing, *bad.items()),
        tuple(problems),
        names_in_tree(kept.tree, "").example,
    )


def _line(exc: Exception) -> str:
    text = exc.message if isinstance(exc, LabError) else str(exc)
    return f"{type(exc).__name__}: {[*text.splitlines(), ''][0]}"


def _addresses(names: Names) -> set[Address]:
    return {binding.address for binding in names.bindings}


def without(measured: Measured, bad: Mapping[Address, str]) -> Measured:
    """The same, less some names; the module paths they stood for are themselves again."""
    if not bad:
        return measured
    tree = measured.tree
    sites = tuple(site for site in tree.sites if site.address not in bad)
    pairs = tuple(pair for pair in tree.same_as if pair[1] not in bad)
    bindings = {at: found for at, found in measured.bindings.items() if at not in bad}
    return replace(measured, tree=replace(tree, sites=sites, same_as=pairs), bindings=bindings)


def _never_reached(measured: Measured, names: Names) -> _Bad:
    never = sorted(_addresses(names) - set(measured.bindings))
    return dict.fromkeys(never, "the forward pass does not come by it")


def _wrong_shapes(
    measured: Measured, names: Names, runs: tuple[tuple[int, int], ...], sizes: Sizes
) -> _Bad:
    bad: _Bad = {}
    known = measured.tree.by_address
    for address in sorted(_addresses(names) & set(known)):
        for batch, pos in runs:
            wanted = _expected(address, batch, pos, sizes)
            found = _shape(known[address], batch, pos)
            if (
                found is None
                or len(found) != len(wanted)
                or any(
                    size not in (None, 0, have) for size, have in zip(wanted, found, strict=True)
                )
            ):
                shown = [size or "any" for size in wanted]
                bad[address] = f"it holds {known[address].spec}, where {shown} was expected"
    return bad


def _shape(site: Site, batch: int, pos: int) -> list[int | None] | None:
    if not isinstance(site.spec, TensorSpec):
        return None
    return [dim.size(batch, pos) for dim in site.spec.dims]


def _expected(address: Address, batch: int, pos: int, sizes: Sizes) -> tuple[int | None, ...]:
    """The shape a name must have; None or 0 for an axis nobody promises."""
    match address.path.split(".")[-1], address.port:
        case _, "q" | "z":
            return batch, pos, sizes.heads, sizes.d_head
        case _, "k" | "v":
            return batch, pos, sizes.kv_heads, sizes.d_head
        case _, "pattern":
            return batch, sizes.heads, pos, pos
        case (_, "logits") | ("lm_head", "output"):
            return batch, pos, sizes.d_vocab
        case "embed", "input":
            return batch, pos
        case (_, "neurons") | ("embed" | "lm_head", _):
            return batch, pos, None
        case _:
            return batch, pos, sizes.d_model


class _Checks:
    """The values of standard names in three small forward passes of one model."""

    def __init__(self, module: torch.nn.Module, measured: Measured, run: Callable[[], Any]) -> None:
        self._module = module
        self._measured = measured
        self._run = run
        first = next(module.parameters(), torch.empty(0))
        self._close = 2e-3 if first.dtype in (torch.float32, torch.float64) else 0.1
        named = {pair[0] for pair in measured.tree.standard}
        self._layers = sum(name.startswith("layers.") and name.count(".") == 1 for name in named)

    def all(self, problems: list[str], bad: _Bad) -> _Bad:
        """Names that do not hold, beside those already `bad`; oddities go to `problems`."""
        if not self._layers:
            return {}
        names = [
            binding.address
            for binding in self._measured.bindings.values()
            if binding.address not in bad and self._is_asked(binding.address)
        ]
        patterns = [name for name in names if name.port == "pattern"]
        outside = [name for name in names if name.port != "pattern"]
        seen = self._values([*patterns, *(name for name in outside if name.port == "z")])
        plain = self._values(outside)
        found = self._patterns(patterns, seen, plain)
        problems += self._stream(plain)
        problems += self._lens(plain)
        found |= self._edit(plain, bad)
        return found

    def _is_asked(self, address: Address) -> bool:
        path, port = address.path, address.port
        if port == "inputs":
            return False
        block = path.startswith("layers.") and path.count(".") == 1
        return block or port in ("z", "pattern", "logits") or path in ("norm", "lm_head")

    def _values(
        self, names: Iterable[Address], edit: Mapping[Address, torch.Tensor] | None = None
    ) -> _Values:
        """What some names hold in one forward pass, in single precision on the CPU."""
        found: _Values = {}
        at: dict[HookPoint, list[Address]] = {}
        for name in (*names, *(edit or ())):
            at.setdefault(self._measured.bindings[name].point, []).append(name)

        def on_point(point: HookPoint, value: Any) -> Any:
            for name in at[point]:
                binding = self._measured.bindings[name]
                held = binding.take(value)
                if edit is not None and name in edit:
                    held = held + edit[name].to(held)
                    value = binding.put(value, held)
                found[name] = held.detach().to("cpu", torch.float32, copy=True)
            return value

        with torch.no_grad(), TorchHost(self._module).attached(set(at), on_point):
            self._run()
        return found

    def _patterns(self, names: list[Address], seen: _Values, plain: _Values) -> _Bad:
        bad: _Bad = {}
        for name in names:
            pattern, z = seen[name], Address(name.path, "z")
            if not bool(pattern.isfinite().all()):
                bad[name] = "it has values that are not numbers"
            elif (pattern.sum(-1) - 1).abs().max() > self._close:
                bad[name] = "its rows do not sum to 1"
            elif pattern.triu(1).abs().max() > 0:
                bad[name] = "positions see later positions"
            elif z in seen and self._far(seen[z], plain[z]):
                bad[name] = "the model's own attention goes by another pattern than its eager code"
        return bad

    def _far(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        near = (one - other).norm() <= self._close * other.norm()
        return not bool(near)  # also where a value is not a number

    def _stream(self, plain: _Values) -> list[str]:
        for index in range(self._layers - 1):
            one = plain.get(Address(f"layers.{index}", "output"))
            other = plain.get(Address(f"layers.{index + 1}", "input"))
            if one is None or other is None or not torch.equal(one, other):
                return [f"layers[{index}].output is not what layers[{index + 1}] is given"]
        return []

    def _lens(self, plain: _Values) -> list[str]:
        """Whether the logit lens of the last layer is what the model says."""
        last = plain.get(Address(f"layers.{self._layers - 1}", "output"))
        norm = plain.get(Address("norm", "input")), plain.get(Address("norm", "output"))
        head = plain.get(Address("lm_head", "input")), plain.get(Address("lm_head", "output"))
        logits = plain.get(_LOGITS)
        steps = [
            ("the last layer and norm", last, norm[0]),
            ("norm and lm_head", norm[1], head[0]),
            ("lm_head and the logits", self._scaled(head[1]), logits),
        ]
        if norm[0] is None:
            steps = [("the last layer and lm_head", last, head[0]), steps[-1]]
        return [
            f"there is something between {where}: lm_head(norm(layers[-1].output)) is not the logits"
            for where, one, other in steps
            if one is None or other is None or one.shape != other.shape or self._far(one, other)
        ]

    def _scaled(self, logits: torch.Tensor | None) -> torch.Tensor | None:
        """What the model makes of its unembedding: divided, as in Granite, or capped, as in Gemma."""
        config: Any = self._module.config
        config = config.get_text_config()
        divisor = getattr(config, "logits_scaling", None)
        cap = getattr(config, "final_logit_softcapping", None)
        if logits is not None and divisor:
            logits = logits / divisor
        return logits if logits is None or not cap else (logits / cap).tanh() * cap

    def _edit(self, plain: _Values, bad: _Bad) -> _Bad:
        stream = Address("layers.0", "output")
        if stream in bad or stream not in plain or _LOGITS not in plain:
            return {}
        drawn = torch.randn(plain[stream].shape, generator=torch.Generator().manual_seed(0))
        after = self._values([_LOGITS], {stream: drawn * plain[stream].std()})
        if not torch.equal(after[_LOGITS], plain[_LOGITS]):
            return {}
        reason = "an edit of it does not reach the logits"
        return {Address(f"layers.{index}", "output"): reason for index in range(self._layers)}
