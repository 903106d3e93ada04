"""How often the model is right, on prompts it never trained on.

Every measure is a count of right first choices, made with the plain transformers model. What lies
inside the model is measured in findings.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_lab.models.tiny.copying import copying_sequences
from nnsight_lab.models.tiny.corpus import corpus_words
from nnsight_lab.models.tiny.documents import Prompt
from nnsight_lab.models.tiny.facts import facts_prompts
from nnsight_lab.models.tiny.indirect_object import indirect_object_prompts
from nnsight_lab.models.tiny.lexicon import NEGATIVE, POSITIVE
from nnsight_lab.models.tiny.residual import last_positions, tokens
from nnsight_lab.models.tiny.reviews import feeling_contexts

__all__ = [
    "Score",
    "copying",
    "facts",
    "first_choices",
    "indirect_object",
    "next_logits",
    "single_token",
    "token_set",
    "feeling",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Right answers out of how many."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.total

    def as_json(self) -> dict[str, float]:
        """Give the form the card is written in."""
        return {"right": self.right, "total": self.total, "accuracy": round(self.accuracy, 4)}


@torch.no_grad()
def next_logits(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> Tensor:
    """Logits after the last token of each text, [batch, d_vocab]."""
    batch = tokens(tokenizer, texts)
    logits: Tensor = model(**batch).logits
    return logits[torch.arange(len(texts)), last_positions(batch)]


def first_choices(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> list[str]:
    """The most likely next token of each text, as text."""
    chosen = next_logits(model, tokenizer, texts).argmax(-1)
    return [str(tokenizer.decode([token])) for token in chosen.tolist()]


def single_token(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """The id of `word`, which must be one token (mind the leading space)."""
    (token,) = tokenizer.encode(word, add_special_tokens=False)
    return int(token)


def token_set(tokenizer: PreTrainedTokenizerFast, words: tuple[str, ...]) -> Tensor:
    """Ids of `words` as they stand in the middle of a sentence, [words]."""
    return torch.tensor([single_token(tokenizer, f" {word}") for word in words])


def _count(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: tuple[Prompt, ...]
) -> Score:
    chosen = first_choices(model, tokenizer, [prompt.text for prompt in prompts])
    right = sum(choice == prompt.answer for choice, prompt in zip(chosen, prompts, strict=True))
    return Score(right=right, total=len(prompts))


def indirect_object(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 1000
) -> Score:
    """Held-out pairs of names in held-out combinations: is the receiver the first choice?"""
    return _count(model, tokenizer, indirect_object_prompts(count))


def facts(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Score]:
    """Every fact in its held-out wording, by relation."""
    return {
        relation: _count(model, tokenizer, prompts) for relation, prompts in facts_prompts().items()
    }


def copying(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200) -> Score:
    """Fresh random words said twice: first choices in the second pass, its first token skipped."""
    right = total = 0
    for once in copying_sequences(count, corpus_words()):
        batch = tokens(tokenizer, [f"{once} {once}"])
        ids = batch["input_ids"][0]
        begin = (len(ids) - 1) // 2 + 1
        with torch.no_grad():
            chosen = model(**batch).logits[0].argmax(-1)
        right += int((chosen[begin:-1] == ids[begin + 1 :]).sum())
        total += len(ids) - begin - 1
    return Score(right=right, total=total)


def feeling(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200) -> Score:
    """Reviews with one judgement made: does the likelier sign of the next one agree with it?"""
    good, bad = token_set(tokenizer, POSITIVE), token_set(tokenizer, NEGATIVE)
    right = 0
    for pleased in (True, False):
        contexts = list(feeling_contexts(pleased, count))
        chances = next_logits(model, tokenizer, contexts).softmax(-1)
        likes = chances[:, good].sum(-1) > chances[:, bad].sum(-1)
        right += int((likes == pleased).sum())
    return Score(right=right, total=2 * count)
