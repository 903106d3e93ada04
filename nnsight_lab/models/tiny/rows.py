"""Documents become rows of tokens: what the training loop reads.

A row begins with a document and is packed with as many as fit; the last one is cut. Each token
carries a weight in the loss: 0 for those nobody could predict.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nnsight_lab.models.tiny.corpus import documents
from nnsight_lab.models.tiny.documents import Document

__all__ = ["batches"]

_CHUNK = 512


def _weighted_tokens(
    tokenizer: PreTrainedTokenizerFast, chunk: list[Document]
) -> Iterator[tuple[list[int], list[float]]]:
    """Give each document's ids (begin and end included) and their weights in the loss."""
    whole = tokenizer([document.text for document in chunk])["input_ids"]
    prefixes = tokenizer([document.unpredictable for document in chunk])["input_ids"]
    for ids, prefix in zip(whole, prefixes, strict=True):
        muted = len(prefix)
        weights = [0.0] * muted + [1.0] * (len(ids) - muted)
        yield [*ids, tokenizer.eos_token_id], [*weights, 1.0]


def _rows(
    tokenizer: PreTrainedTokenizerFast, seed: int, length: int
) -> Iterator[tuple[list[int], list[float]]]:
    source = documents(seed)
    row_ids: list[int] = []
    row_weights: list[float] = []
    while True:
        for ids, weights in _weighted_tokens(tokenizer, list(islice(source, _CHUNK))):
            row_ids += ids
            row_weights += weights
            if len(row_ids) >= length:
                yield row_ids[:length], row_weights[:length]
                row_ids, row_weights = [], []


def batches(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, rows: int, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give (input_ids, weights), each [rows, length], without end."""
    source = _rows(tokenizer, seed, length)
    while True:
        batch = list(islice(source, rows))
        yield torch.tensor([ids for ids, _ in batch]), torch.tensor([w for _, w in batch])
