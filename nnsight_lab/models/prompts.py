"""Text, ids and tensors to rows of token ids. What a prompt may be, and what it may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
import torch

from nnsight_lab.contract import Several, TokenRows
from nnsight_lab.errors import BadInput, NotSupported
from nnsight_lab.executors.loading import one_at_a_time

__all__ = ["inputs_of", "rows_of", "tokenizer_from_files", "visible_token"]


def inputs_of(prompt: Any, tokenize: Callable[[Any], TokenRows]) -> TokenRows | Several:
    """A prompt as rows of token ids; a list of such rows as the inputs of a session.

    Raises:
        BadInput: it is neither.
    """
    if isinstance(prompt, TokenRows | Several):
        return prompt
    if isinstance(prompt, list | tuple) and any(isinstance(part, TokenRows) for part in prompt):
        return Several(tuple(p if isinstance(p, TokenRows) else tokenize(p) for p in prompt))
    return tokenize(prompt)


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
        case Mapping():
            rows = _rows_of_mapping(prompt)
        case list() | tuple() if prompt and all(isinstance(item, str) for item in prompt):
            rows = [_encoded(text, tokenizer) for text in prompt]
        case torch.Tensor() | np.ndarray() | list() | tuple() | None:
            rows = _rows_of_ids(prompt)
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
    # Whether a prompt fits is checked, and said, by us: no warning above our own error.
    quiet = {"verbose": False} if "verbose" in signature(tokenizer).parameters else {}
    return tuple(tokenizer(text, **quiet)["input_ids"])


def _rows_of_ids(ids: Any, what: str = "Token ids") -> list[tuple[int, ...]]:
    """One row, or a list of rows that may differ in length."""
    plain = ids.tolist() if isinstance(ids, torch.Tensor | np.ndarray) else ids
    if not isinstance(plain, list | tuple) or not plain:
        rows = [] if plain in (None, [], ()) else [plain]
    elif all(isinstance(row, list | tuple | torch.Tensor | np.ndarray) for row in plain):
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in plain]
    else:
        rows = [plain]
    if not all(isinstance(row, list | tuple) and all(map(_is_whole, row)) for row in rows):
        raise BadInput(
            f"{what} are whole numbers, [pos] or [batch, pos].",
            hint="lm.tokenizer(text) gives such ids; a prompt may also be text or texts.",
        )
    return [tuple(map(int, row)) for row in rows]


def _is_whole(id: Any) -> bool:
    return isinstance(id, int | np.integer)


_KNOWN_FIELDS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


def _rows_of_mapping(given: Mapping[str, Any]) -> list[tuple[int, ...]]:
    unknown = sorted(set(given) - _KNOWN_FIELDS)
    if "input_ids" not in given or unknown:
        what = f"it cannot have {unknown[0]!r}" if unknown else "it needs input_ids"
        raise BadInput(
            f"A mapping is a prompt as a tokenizer gives it; {what}.",
            hint="lm.tokenizer(text) gives one.",
        )
    rows = _rows_of_ids(given["input_ids"])
    if given.get("attention_mask") is None:
        return rows
    masks = _rows_of_ids(given["attention_mask"], "Masks")
    if [len(row) for row in rows] != [len(mask) for mask in masks]:
        raise BadInput(
            "attention_mask has another shape than input_ids.",
            hint="lm.tokenizer(texts) gives both.",
        )
    return [_kept(row, mask) for row, mask in zip(rows, masks, strict=True)]


def _kept(row: tuple[int, ...], mask: tuple[int, ...]) -> tuple[int, ...]:
    """A row without its padding, which stands before or after the prompt."""
    places = [place for place, keep in enumerate(mask) if keep]
    if places and places[-1] - places[0] + 1 != len(places):
        raise BadInput(
            "attention_mask hides positions inside a prompt.",
            hint="Only padding is masked; edit the pattern to hide a position.",
        )
    return tuple(row[place] for place in places)


def visible_token(tokenizer: Any, id: int) -> str:
    """One token as text that can be seen: spaces as `·`, line ends as `↵`, special ones as is.

    A part of a character is shown as its bytes, `F0 9F`.
    """
    if tokenizer is None:
        return str(id)
    raw = tokenizer.convert_ids_to_tokens(id)
    if raw is None:  # the model has more rows than the vocabulary has tokens
        return f"[{id}]"
    if id in tokenizer.all_special_ids:
        return str(raw)
    spaced = raw[:1] in ("▁", "Ġ")
    text = str(tokenizer.decode([id]))
    if "\ufffd" in text:
        return _bytes_of(raw) or text
    if spaced:
        text = " " + text.removeprefix(" ")
    return (text or raw).replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def _bytes_of(raw: str) -> str:
    """The bytes of a token as its vocabulary writes it; empty where it does not say them."""
    if raw.startswith("<0x") and raw.endswith(">"):
        return raw[3:-1]
    known = _bytes_by_letter()
    if not all(letter in known for letter in raw):
        return ""
    spelt = (letter if letter.isascii() else f" {known[letter]:02X} " for letter in raw)
    return " ".join("".join(spelt).replace(f" {0x20:02X} ", "·").split())


@cache
def _bytes_by_letter() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: printable ones as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def tokenizer_from_files(files: Mapping[str, str]) -> Any:
    """A fast tokenizer from its files, or None when there are none. Runs no code from them."""
    if not files:
        return None
    import tempfile
    from pathlib import Path

    try:
        with one_at_a_time:
            from transformers import PreTrainedTokenizerFast
    except ImportError as exc:
        raise NotSupported(
            "A remote model's tokenizer needs transformers.", hint="pip install transformers"
        ) from exc
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
