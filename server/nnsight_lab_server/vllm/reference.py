"""What Hugging Face says on a few short prompts: every address read, and every address edited.

    reference = reference_of(executor)      # the module is not needed afterwards

vLLM's model is compared with this (`discover.py`). Values are kept as vLLM has them, by rows: the
positions of one prompt, without padding. Edits are of the first prompt, at a few positions, by a
seeded amount of the value's own size; what is kept of them is what they do to the logits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from nnsight_lab.contract import ModelCard, TokenRows
from nnsight_lab.executors.batch import Padded
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.measure import Measured
from nnsight_lab.executors.sites import HookPoint
from nnsight_lab.executors.untouched import evaluating
from nnsight_lab.ir import Address, Dim, ModuleTree, SizeForm, Spec
from nnsight_lab_server.vllm.forms import packed, tensor_spec_of, unpacked
from nnsight_lab_server.vllm.survey import changed

__all__ = ["Reference", "canonical", "delta_of", "edited_positions", "prompts_for", "reference_of"]

_SHORT_WINDOW = 64
_SAID = 3
_COLUMNS = 1024
_EDITS_AT_ONCE = 16
_MOVED = 1e-3
_BATCH, _POS, _ROWS = Dim(SizeForm.BATCH), Dim(SizeForm.POS), Dim(SizeForm.BATCH_POS)


@dataclass(frozen=True)
class Reference:
    """The values of one model on a few prompts.

    values: by address, one tensor `[pos, …]` for each prompt; twins of a name are left out.
    unfit: addresses whose value is not one tensor with a row for each position, and why.
    columns: which logits are kept. logits: those of each prompt, `[pos, column]`.
    edited: the logits of the first prompt after an edit of the address.
    moves: for each address, which others hold something else after an edit of it.
    text: the last prompt and a few tokens the model goes on with. said: the values on it.
    """

    card: ModelCard
    prompts: tuple[tuple[int, ...], ...]
    values: Mapping[Address, tuple[torch.Tensor, ...]]
    unfit: Mapping[Address, str]
    columns: torch.Tensor
    logits: tuple[torch.Tensor, ...]
    edited: Mapping[Address, torch.Tensor]
    moves: Mapping[Address, frozenset[Address]]
    text: tuple[int, ...]
    said: Mapping[Address, torch.Tensor]

    @property
    def said_tokens(self) -> int:
        """How many tokens of the text the model chose."""
        return len(self.text) - len(self.prompts[-1])


def canonical(tree: ModuleTree, address: Address) -> Address:
    """The one address that stands for all those that hold the same tensor of the same call."""
    if address.port == "inputs" and tree.by_address[address].spec is not None:
        into = Address(address.path, "input", address.call)
        if into in tree.by_address and tensor_spec_of(tree.by_address[address].spec) is not None:
            address = into
    return tree.one_name.get(address, address)


def edited_positions(length: int) -> tuple[int, ...]:
    """Where a prompt of that length is edited: near its beginning, and at its end."""
    return (1, length - 1)


def delta_of(address: Address, values: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What is added to an address: seeded by its name, of the size of what it holds."""
    first = values[0]
    shape = (len(edited_positions(len(first))), *first.shape[1:])
    draw = torch.Generator().manual_seed(zlib.crc32(str(address).encode()))
    noise = torch.randn(shape, generator=draw)
    size = first.float().std() if first.numel() > 1 else first.float().abs().max()
    return noise * (size if bool(size > 0) else 1.0)


def reference_of(executor: LocalExecutor) -> Reference:
    """Run the module on the prompts, plain and edited."""
    card = executor.card()
    prompts = _prompts(card, _window(executor))
    measured = executor.measured_for(TokenRows(prompts[:1]))
    rows, unfit = _fit_addresses(measured.tree)
    forward = _Forward(executor, measured)
    seen = [forward.values(prompt, rows) for prompt in prompts]
    values = {
        address: tuple(each[address] for each, _ in seen)
        for address in rows
        if all(address in each for each, _ in seen)
    }
    size = seen[0][1].shape[-1]
    draw = torch.Generator().manual_seed(0)
    columns = torch.randperm(size, generator=draw)[:_COLUMNS].sort().values
    edited, moves = forward.edited(prompts[0], values, columns)
    logits = tuple(logits[:, columns] for _, logits in seen)
    text = forward.gone_on(prompts[-1], min(_SAID, (card.context or 64) - len(prompts[-1])))
    said, _ = forward.values(text, values)
    return Reference(card, prompts, values, unfit, columns, logits, edited, moves, text, said)


def _window(executor: LocalExecutor) -> int:
    """How many positions the model's local attention sees; 0 when it has none."""
    config: Any = getattr(executor.module, "config", None)
    return int(getattr(config.get_text_config(), "sliding_window", None) or 0) if config else 0


def prompts_for(executor: LocalExecutor) -> tuple[tuple[int, ...], ...]:
    """The prompts a model is compared on."""
    return _prompts(executor.card(), _window(executor))


def _prompts(card: ModelCard, window: int) -> tuple[tuple[int, ...], ...]:
    """Random ids. Where the window is short, one prompt is longer than it."""
    draw = torch.Generator().manual_seed(5)
    longest = window + 3 if 0 < window <= _SHORT_WINDOW else 0
    lengths = [min(length, card.context or length) for length in (max(longest, 7), 5)]
    ids = [torch.randint(1, card.vocab, (length,), generator=draw) for length in lengths]
    return tuple(tuple(map(int, row)) for row in ids)


def _fit_addresses(tree: ModuleTree) -> tuple[list[Address], dict[Address, str]]:
    """Addresses that hold one tensor by rows, each once; of the others, why not."""
    fit: dict[Address, None] = {}
    unfit: dict[Address, str] = {}
    for address, site in tree.by_address.items():
        spec = tensor_spec_of(site.spec)
        if address.port == "pattern":
            continue
        if spec is None:
            unfit[address] = f"it holds {_short(site.spec)}, which is not one tensor"
        elif not _is_by_rows(spec.dims):
            unfit[address] = f"{_short(spec)} has no row for each position of the prompt"
        else:
            fit[canonical(tree, address)] = None
    return [address for address in fit if address not in unfit], unfit


def _short(spec: Spec) -> str:
    text = str(spec)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_by_rows(dims: tuple[Dim, ...]) -> bool:
    rest = dims[2:] if dims[:2] == (_BATCH, _POS) else dims[1:] if dims[:1] == (_ROWS,) else None
    return rest is not None and all(dim.form is SizeForm.FIXED for dim in rest)


class _Forward:
    """Forward passes of one module that are listened to at every address."""

    def __init__(self, executor: LocalExecutor, measured: Measured) -> None:
        self._module = executor.module
        self._measured = measured
        self._takes_positions = "position_ids" in signature(executor.module.forward).parameters

    def values(
        self, prompt: tuple[int, ...], addresses: Iterable[Address]
    ) -> tuple[dict[Address, torch.Tensor], torch.Tensor]:
        """What each address holds on a prompt, by rows; and the logits."""
        found: dict[Address, torch.Tensor] = {}
        at = self._points(addresses)

        def on_point(point: HookPoint, value: Any) -> Any:
            for address in at[point]:
                tensor = self._tensor(address, value)
                if tensor is not None:
                    found[address] = self._by_rows(address, tensor).to("cpu", copy=True)
            return value

        logits = self._run((prompt,), set(at), on_point)
        return found, logits[0].to("cpu")

    def gone_on(self, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        """A prompt and the tokens the model thinks likeliest after it."""
        for _ in range(tokens):
            logits = self._run((prompt,), set(), lambda _, value: value)
            prompt = (*prompt, int(logits[0, -1].argmax()))
        return prompt

    def edited(
        self,
        prompt: tuple[int, ...],
        values: Mapping[Address, tuple[torch.Tensor, ...]],
        columns: torch.Tensor,
    ) -> tuple[dict[Address, torch.Tensor], dict[Address, frozenset[Address]]]:
        """The logits after an edit of each address, and which addresses it moves.

        Several edits are made at once, in the rows of one batch.
        """
        addresses = list(values)
        found: dict[Address, torch.Tensor] = {}
        moved: dict[Address, set[Address]] = {address: set() for address in addresses}
        at = self._points(addresses)
        for begin in range(0, len(addresses), _EDITS_AT_ONCE):
            chunk = addresses[begin : begin + _EDITS_AT_ONCE]
            row = {address: number for number, address in enumerate(chunk)}

            def on_point(point: HookPoint, value: Any, row: dict[Address, int] = row) -> Any:
                for address in at[point]:
                    for edited in self._moved(address, value, values[address][0], list(row)):
                        moved[edited].add(address)
                for address in at[point]:
                    if address in row:
                        delta = delta_of(address, values[address])
                        value = self._with_edit(address, value, row[address], delta, len(prompt))
                return value

            logits = self._run((prompt,) * len(chunk), set(at), on_point)
            kept = logits[:, :, columns.to(logits.device)].to("cpu")
            found.update({address: kept[number].clone() for address, number in row.items()})
        return found, {address: frozenset(others) for address, others in moved.items()}

    def _moved(
        self, address: Address, value: Any, plain: torch.Tensor, edits: list[Address]
    ) -> list[Address]:
        """Which of the edits in the rows of a batch have changed what is there."""
        tensor = self._tensor(address, value)
        if tensor is None:
            return []
        each = self._each_prompt(address, tensor, len(plain)).to("cpu", torch.float32)
        if each.shape != (len(edits), *plain.shape):
            return []
        apart = (each - plain.float()).abs().flatten(1).amax(1)
        far = apart > _MOVED * plain.float().abs().max()
        return [edits[int(number)] for number in far.nonzero().flatten()]

    def _each_prompt(self, address: Address, tensor: torch.Tensor, length: int) -> torch.Tensor:
        """`[batch, pos, …]`, also of what holds the positions of all prompts in one axis."""
        spec = tensor_spec_of(self._spec(address))
        flat = spec is not None and spec.dims[0] == _ROWS
        return tensor.unflatten(0, (-1, length)) if flat else tensor

    def _points(self, addresses: Iterable[Address]) -> dict[HookPoint, list[Address]]:
        at: dict[HookPoint, list[Address]] = {}
        for address in addresses:
            at.setdefault(self._measured.bindings[address].point, []).append(address)
        return at

    def _spec(self, address: Address) -> Spec:
        return self._measured.tree.by_address[address].spec

    def _tensor(self, address: Address, value: Any) -> torch.Tensor | None:
        held = unpacked(self._measured.bindings[address].take(value), self._spec(address))
        return held.detach() if isinstance(held, torch.Tensor) else None

    def _by_rows(self, address: Address, tensor: torch.Tensor) -> torch.Tensor:
        spec = tensor_spec_of(self._spec(address))
        assert spec is not None, "chosen because it holds one tensor"
        return tensor if spec.dims[0] == _ROWS else tensor[0]

    def _with_edit(
        self, address: Address, value: Any, row: int, delta: torch.Tensor, length: int
    ) -> Any:
        tensor = self._tensor(address, value)
        if tensor is None:
            return value
        new = tensor.clone()
        rows = self._each_prompt(address, new, length)
        places = list(edited_positions(length))
        rows[row, places] = changed(rows[row, places], delta)
        return self._measured.bindings[address].put(value, packed(new, self._spec(address)))

    def _run(
        self,
        prompts: tuple[tuple[int, ...], ...],
        points: set[HookPoint],
        on_point: Callable[[HookPoint, Any], Any],
    ) -> torch.Tensor:
        """The logits of a forward pass in which some points are listened to."""
        host = TorchHost(self._module)
        given = Padded(TokenRows(prompts), 0, host.device, positions=self._takes_positions).prompt()
        with torch.no_grad(), evaluating(self._module), host.attached(points, on_point):
            output = self._module(**given, use_cache=False)
        logits = output[0] if isinstance(output, tuple) else output.logits
        assert isinstance(logits, torch.Tensor), "a language model gives logits"
        return logits.detach()
