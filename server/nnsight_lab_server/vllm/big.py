"""`Big`: a model that nobody holds on Hugging Face, only described; and the twin compared for it.

    big = Big(module_on_meta, tokenizer, name)
    big.save_twin(folder)                           # for a vLLM of its own
    told = Told(twin_engine.certificate, twin_engine.callables)
    certificate = big.certified(told, survey)       # survey: of the big model in vLLM, one prompt

The modules, sizes and settings are the big model's own; what was measured is the twin's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.contract import ModelCard
from nnsight_lab.executors.loading import load_weightless, tokenizer_files
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.measure import module_cards
from nnsight_lab.ir import ModuleTree
from nnsight_lab.settings import Settings
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.certificate import Certificate, Entry
from nnsight_lab_server.vllm.comparing import bytes_of, chosen, free_memory
from nnsight_lab_server.vllm.discover import points_in_order
from nnsight_lab_server.vllm.driver import on_gpu
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.layers import alike, layer_kinds
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.survey import Held, Survey
from nnsight_lab_server.vllm.twin import stretched, stretched_calls, twin_model
from nnsight_lab_server.vllm.twin_tree import Vocab, stretched_tree

__all__ = ["PROMPT", "Big", "Told", "too_big_to_hold", "twin_options"]

PROMPT = (1, 2, 3, 4, 5)
"""What the big model in vLLM is surveyed on; only where things are is looked at."""
_OF_THE_MODEL = ("load_format", "revision", "code_revision", "quantization")
"""Arguments of vLLM's about the files of the model, which the twin's are not."""
_OTHERWISE = "vLLM holds something else there than in the small model that was compared"


@dataclass(frozen=True, slots=True)
class Told:
    """What came of comparing the twin: its certificate, and which modules may be called."""

    certificate: Certificate
    callables: Callables


class Big:
    """A model without weights (`module` is on the `meta` device), and its small twin."""

    def __init__(self, module: Any, tokenizer: Any, name: str) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self._name = name
        self._modules = module_cards(module)
        kinds = layer_kinds(self._modules, module.config)
        small = twin_model(module.config, next(module.parameters()).dtype, [*kinds.values()])
        self.twin = LocalExecutor(small, name=f"a small twin of {name}")
        twin_kinds = layer_kinds(module_cards(small), small.config)
        self._like = alike(twin_kinds, kinds)
        sizes = (int(each.config.get_text_config().vocab_size) for each in (small, module))
        self._vocab = Vocab(*sizes)
        self._parts = len(twin_kinds) / max(1, len(kinds))
        self._card: ModelCard | None = None

    @property
    def twin_part(self) -> float:
        """How many layers the twin has for each one of the model."""
        return self._parts

    def save_twin(self, folder: Path) -> None:
        """Write the twin as a checkpoint."""
        module: Any = self.twin.module
        module.save_pretrained(folder)

    def card(self) -> ModelCard:
        """The model as Hugging Face has it."""
        if self._card is None:
            like = self.twin.card()
            decode = None if like.decode is None else self._tree(like.decode)
            text = self.module.config.get_text_config()
            parameters, _ = bytes_of(self.module)
            self._card = replace(
                like,
                name=self._name,
                tree=self._tree(like.tree),
                decode=decode,
                layers=int(text.num_hidden_layers) if like.layers else 0,
                parameters=parameters,
                vocab=self._vocab.big,
                tokenizer=tokenizer_files(self.tokenizer),
            )
        return self._card

    def certified(self, told: Told, survey: Survey) -> Certificate:
        """What was measured of the twin, said of this model. survey: of one prompt, in vLLM."""
        points = points_in_order(survey)
        trees = self.twin.card().tree, self.card().tree
        found = stretched(told.certificate, *trees, points, self._like)
        at = {held.point: held for held in survey.held}
        last = max((held.stage for held in survey.held), default=0)
        entries = (self._confirmed(entry, at, survey.rows, last) for entry in found.entries)
        paths = [card.path for card in self._modules if card.path]
        calls = stretched_calls(told.callables, paths, self._like)
        return replace(found, model=self._name, entries=tuple(entries), calls=calls)

    def _tree(self, of_twin: ModuleTree) -> ModuleTree:
        return stretched_tree(of_twin, self._modules, self._like, self._vocab)

    def _confirmed(self, entry: Entry, at: Mapping[Point, Held], rows: int, last: int) -> Entry:
        """An entry whose form ends at a tensor of the size it says, on its stage of a pipeline."""
        if entry.form is None:
            return entry
        form = _with_vocab(entry.form, self._vocab)
        if form.kind == "logits":
            return replace(entry, form=replace(form, stage=last))
        held = at[form.point]
        if form.kind == "rows" and not _fits(form, held, rows):
            return Entry(entry.address, None, reason=_OTHERWISE)
        return replace(entry, form=replace(form, stage=held.stage))


def too_big_to_hold(name: str, source: str, settings: Settings, options: VllmOptions) -> Big | None:
    """The model described, where it is not to be held on Hugging Face; its weights are not read.

    Raises:
        ModelNotFound: there is no such model.
        NotSupported: no small model can be compared in its place.
    """
    if options.compare == "whole":
        return None
    module, tokenizer = load_weightless(source, settings)
    size = bytes_of(module)
    if chosen(options, *size, free_bytes=free_memory(), on_gpu=on_gpu()) == "whole":
        return None
    dtype = getattr(torch, options.dtype or "", None)  # by vLLM's names, which are torch's
    if isinstance(dtype, torch.dtype):
        for weight in module.parameters():
            weight.data = weight.data.to(dtype)
    return Big(module, tokenizer, name)


def twin_options(options: VllmOptions, part: float) -> VllmOptions:
    """How vLLM is started for a twin that has this part of the layers: on one stage."""
    room = None if options.kv_cache_gib is None else options.kv_cache_gib * part
    given = {name: each for name, each in options.engine.items() if name not in _OF_THE_MODEL}
    return replace(options, pipeline=1, kv_cache_gib=room, engine=given)


def _fits(form: Form, held: Held, rows: int) -> bool:
    try:
        return form.take(held.nested).shape == (rows, *form.shape)
    except (KeyError, IndexError, AssertionError, RuntimeError):
        return False


def _with_vocab(form: Form, vocab: Vocab) -> Form:
    shape = tuple(vocab.big if size == vocab.twin else size for size in form.shape)
    columns = form.columns
    if columns == ((0, vocab.twin),):
        columns = ((0, vocab.big),)
    return replace(form, shape=shape, columns=columns)
