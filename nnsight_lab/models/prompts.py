"""Text, ids and tensors to rows of token ids. What a prompt may be, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import BadInput, NotSupported

__all__ = ["rows_of", "tokenizer_from_files", "visible_token"]


def rows_of(prompt: Any, tokenizer: Any) -> TokenRows:
    """A prompt as rows of token ids.

    prompt: text; a list of texts; token ids (a list, a list of lists, or a tensor `[pos]` or
        `[batch, pos]`); or a mapping with `input_ids` and perhaps `attention_mask`.

    Raises:
        BadInput: it is empty, or none of these.
    """
    match prompt:
        case str():
            rows = [_encoded(prompt, tokenizer)]
        case torch.Tensor():
            rows = _rows_of_tensor(prompt)
        case Mapping():
            rows = _rows_of_mapping(prompt)
        case Sequence() if prompt and all(isinstance(item, str) for item in prompt):
            rows = [_encoded(text, tokenizer) for text in prompt]
        case Sequence() if prompt and all(isinstance(item, int) for item in prompt):
            rows = [tuple(prompt)]
        case Sequence() if prompt and all(isinstance(item, Sequence) for item in prompt):
            rows = [tuple(int(id) for id in row) for row in prompt]
        case Sequence() | None if not prompt:
            rows = []
        case _:
            raise BadInput(
                f"A {type(prompt).__name__} is not a prompt.",
                hint="Give text, a list of texts, or token ids.",
            )
    if not rows or not all(rows):
        raise BadInput("The prompt is empty.", hint="Give the model at least one token.")
    return TokenRows(tuple(rows))


def _encoded(text: str, tokenizer: Any) -> tuple[int, ...]:
    if tokenizer is None:
        raise BadInput(
            "This model has no tokenizer, so it cannot read text.",
            hint="Pass tokenizer= when you load the model, or give token ids.",
        )
    if not text:
        return ()
    return tuple(tokenizer(text)["input_ids"])


def _rows_of_tensor(ids: torch.Tensor) -> list[tuple[int, ...]]:
    if ids.dtype.is_floating_point or ids.dim() not in (1, 2):
        raise BadInput(
            f"Token ids are whole numbers [pos] or [batch, pos], not {ids.dtype}{list(ids.shape)}.",
            hint="lm.tokenizer(text, return_tensors='pt') gives such ids.",
        )
    return [tuple(row) for row in (ids if ids.dim() == 2 else ids[None]).tolist()]


def _rows_of_mapping(given: Mapping[str, Any]) -> list[tuple[int, ...]]:
    if "input_ids" not in given:
        raise BadInput("A mapping needs input_ids.", hint="lm.tokenizer(text) gives one.")
    ids = torch.as_tensor(given["input_ids"])
    rows = _rows_of_tensor(ids)
    mask = given.get("attention_mask")
    if mask is None:
        return rows
    kept = _rows_of_tensor(torch.as_tensor(mask))
    return [
        tuple(id for id, keep in zip(row, keeps, strict=True) if keep)
        for row, keeps in zip(rows, kept, strict=True)
    ]


def visible_token(tokenizer: Any, id: int) -> str:
    """One token as text that can be seen: spaces as `·`, line ends as `↵`, special ones as is."""
    if tokenizer is None:
        return str(id)
    raw = str(tokenizer.convert_ids_to_tokens(id))
    if id in tokenizer.all_special_ids:
        return raw
    spaced = raw[:1] in ("▁", "Ġ")
    text = tokenizer.decode([id])
    if spaced:
        text = " " + text.removeprefix(" ")
    return (text or raw).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def tokenizer_from_files(files: Mapping[str, str]) -> Any:
    """A fast tokenizer from its files, or None when there are none. Runs no code from them."""
    if not files:
        return None
    import tempfile
    from pathlib import Path

    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError as exc:
        raise NotSupported(
            "A remote model's tokenizer needs transformers.", hint="pip install transformers"
        ) from exc
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
