"""What a program must know of a model, told from its card: here or on a server, it is the same."""

from __future__ import annotations

import inspect
from typing import Any

from nnsight_lab.contract import ModelCard
from nnsight_lab.executors.eject.program import PrintedModel
from nnsight_lab.executors.families.table import FAMILIES, Attention
from nnsight_lab.executors.loading import one_at_a_time
from nnsight_lab.ir import ModuleTree
from nnsight_lab.settings import Settings

__all__ = ["printed_model"]


def printed_model(
    card: ModelCard, tree: ModuleTree, tokenizer: Any, module: Any, settings: Settings
) -> PrintedModel:
    """The model of a card, for a program.

    module: the torch module where it is in this process, or None.
    """
    if not card.vocab and "tokens" not in card.capabilities.features:
        return PrintedModel(name=card.name, tree=tree)
    kind = _class_of(card.architecture) if module is None else type(module)
    forward = getattr(kind, "forward", None)
    taken = inspect.signature(forward).parameters if forward is not None else {}
    attends = getattr(getattr(module, "config", None), "_attn_implementation", "sdpa")
    how = "" if attends in ("sdpa", None) else f', attn_implementation="{attends}"'
    return PrintedModel(
        name=card.name,
        tree=tree,
        source=_source(card, settings),
        load=f", dtype=torch.{card.dtype}{how}",
        attention=_attention(kind),
        pad=int(getattr(tokenizer, "pad_token_id", None) or 0),
        positions="position_ids" in taken,
    )


def _source(card: ModelCard, settings: Settings) -> str | None:
    """What `from_pretrained` is given; None for a model that was made in Python, without a name."""
    bundled = settings.bundled.get(card.name)
    if bundled is not None:
        return str(bundled)
    return None if card.name == card.architecture else card.name


def _class_of(architecture: str) -> Any:
    with one_at_a_time:
        import transformers

        return getattr(transformers, architecture, None)


def _attention(kind: Any) -> Attention | None:
    model_type = getattr(getattr(kind, "config_class", None), "model_type", "")
    found = (family for family in FAMILIES if model_type in family.model_types)
    return next((family.attention for family in found), None)
