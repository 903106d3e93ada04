"""What a researcher finds inside: induction heads, the logit lens, patching, steering.

Each function makes one measurement on held-out prompts with the plain transformers model. How
often the model is right is in accuracies.py; how the results are written up is in card.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_lab.models.tiny.accuracies import next_logits, single_token, token_set
from nnsight_lab.models.tiny.copying import copying_sequences
from nnsight_lab.models.tiny.corpus import corpus_words
from nnsight_lab.models.tiny.documents import Prompt
from nnsight_lab.models.tiny.facts import facts_prompts
from nnsight_lab.models.tiny.indirect_object import indirect_object_prompts
from nnsight_lab.models.tiny.lexicon import NEGATIVE, POSITIVE
from nnsight_lab.models.tiny.residual import edited, last_positions, resid_posts, tokens
from nnsight_lab.models.tiny.reviews import feeling_contexts, neutral_prompts

__all__ = [
    "HeadScores",
    "Patch",
    "Steering",
    "continuations",
    "feeling_directions",
    "head_scores",
    "lens_accuracy",
    "lens_choices",
    "patch_giver",
    "patch_prompts",
    "positive_share",
    "steering",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadScores:
    """Mean attention on a repeated random sequence, [layer, head]."""

    induction: Tensor
    previous_token: Tensor


@torch.no_grad()
def head_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 50
) -> HeadScores:
    """Score each head on fresh random words said twice.

    Induction: from a token of the second pass to the token after its first occurrence.
    Previous token: from each token of the first pass to the one before it.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        induction, previous = [], []
        for once in copying_sequences(count, corpus_words(), seed=1):
            batch = tokens(tokenizer, [f"{once} {once}"])
            length = (batch["input_ids"].shape[1] - 1) // 2
            patterns = torch.stack(model(**batch, output_attentions=True).attentions)[:, 0]
            # Positions 1..length are the first pass (0 is the begin token).
            second = torch.arange(length + 2, 2 * length + 1)
            induction.append(patterns[:, :, second, second - length + 1].mean(-1))
            first = torch.arange(2, length + 1)
            previous.append(patterns[:, :, first, first - 1].mean(-1))
    finally:
        model.set_attn_implementation(before)
    return HeadScores(
        induction=torch.stack(induction).mean(0), previous_token=torch.stack(previous).mean(0)
    )


@torch.no_grad()
def _lens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Final norm and unembedding on the last position of every layer, [layer, batch, d_vocab]."""
    batch = tokens(tokenizer, texts)
    last = resid_posts(model, batch)[:, torch.arange(len(texts)), last_positions(batch)]
    lens: Tensor = model.lm_head(model.model.norm(last))
    return lens


def lens_choices(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str
) -> list[tuple[str, float]]:
    """Per layer, the first choice of the logit lens at the last position and its probability."""
    chances, chosen = _lens(model, tokenizer, [text])[:, 0].softmax(-1).max(-1)
    words = [str(tokenizer.decode([token])) for token in chosen.tolist()]
    return list(zip(words, chances.tolist(), strict=True))


def lens_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, list[float]]:
    """Per relation, the share of facts whose answer the lens puts first, layer by layer."""
    found: dict[str, list[float]] = {}
    for relation, prompts in facts_prompts().items():
        answers = torch.tensor([single_token(tokenizer, prompt.answer) for prompt in prompts])
        chosen = _lens(model, tokenizer, [prompt.text for prompt in prompts]).argmax(-1)
        found[relation] = (chosen == answers).float().mean(-1).tolist()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Logit of the receiver minus logit of the giver: before, and after each layer's patch."""

    before: float
    at_giver: list[float]
    at_last: list[float]
    flipped_at_giver: list[float]
    flipped_at_last: list[float]


def _differences(logits: Tensor, answers: Tensor, rivals: Tensor) -> Tensor:
    each = torch.arange(len(answers))
    return logits[each, answers] - logits[each, rivals]


def _giver_positions(batch: dict[str, Tensor], rivals: Tensor) -> Tensor:
    """Where the giver is named the second time: the last occurrence, [batch]."""
    positions = torch.arange(batch["input_ids"].shape[1])
    return torch.where(batch["input_ids"] == rivals[:, None], positions, -1).amax(1)


def patch_giver(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: tuple[Prompt, ...]
) -> Patch:
    """Patch resid_post from the run in which the other person gives.

    The two runs differ in one token, the second naming of the giver. One position of one layer is
    carried over: that token, or the last one. The prompts must not begin their giver bare.
    """
    clean = tokens(tokenizer, [prompt.text for prompt in prompts])
    answers = torch.tensor([single_token(tokenizer, prompt.answer) for prompt in prompts])
    rivals = torch.tensor([single_token(tokenizer, prompt.rival) for prompt in prompts])
    each, givers = torch.arange(len(prompts)), _giver_positions(clean, rivals)
    swapped = {name: value.clone() for name, value in clean.items()}
    swapped["input_ids"][each, givers] = answers
    donor, last = resid_posts(model, swapped), last_positions(clean)

    def after(layer: int, positions: Tensor) -> Tensor:
        def carry_over(resid_post: Tensor) -> Tensor:
            resid_post = resid_post.clone()
            resid_post[each, positions] = donor[layer, each, positions]
            return resid_post

        with torch.no_grad(), edited(model, layer, carry_over):
            return _differences(model(**clean).logits[each, last], answers, rivals)

    with torch.no_grad():
        before = _differences(model(**clean).logits[each, last], answers, rivals)
    at_giver = [after(layer, givers) for layer in range(len(donor))]
    at_last = [after(layer, last) for layer in range(len(donor))]
    return Patch(
        before=before.mean().item(),
        at_giver=[difference.mean().item() for difference in at_giver],
        at_last=[difference.mean().item() for difference in at_last],
        flipped_at_giver=[(difference < 0).float().mean().item() for difference in at_giver],
        flipped_at_last=[(difference < 0).float().mean().item() for difference in at_last],
    )


def patch_prompts(count: int) -> tuple[Prompt, ...]:
    """Held-out indirect-object prompts, for patching."""
    return indirect_object_prompts(count, seed=1)


def feeling_directions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200
) -> Tensor:
    """Mean resid_post of pleased minus displeased contexts, last position, [layer, d_model]."""
    means = []
    for pleased in (True, False):
        batch = tokens(tokenizer, list(feeling_contexts(pleased, count, seed=1)))
        each = torch.arange(count)
        means.append(resid_posts(model, batch)[:, each, last_positions(batch)].mean(1))
    return means[0] - means[1]


@torch.no_grad()
def continuations(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    *,
    layer: int,
    added: Tensor,
    new_tokens: int = 12,
) -> list[str]:
    """Continue `texts` greedily with `added` [d_model] on every position of resid_post."""
    batch = tokens(tokenizer, texts, padding_side="left")
    with edited(model, layer, lambda resid_post: resid_post + added):
        ids = model.generate(**batch, max_new_tokens=new_tokens, do_sample=False)
    new = ids[:, batch["input_ids"].shape[1] :]
    return [str(tokenizer.decode(each, skip_special_tokens=True)) for each in new]


@torch.no_grad()
def positive_share(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    layer: int,
    added: Tensor,
    count: int = 40,
) -> float:
    """Of the chance that the next word judges, the share that judges well: 0.5 is undecided.

    The mean over held-out neutral prompts, with `added` [d_model] on every position.
    """
    good, bad = token_set(tokenizer, POSITIVE), token_set(tokenizer, NEGATIVE)
    with edited(model, layer, lambda resid_post: resid_post + added):
        chances = next_logits(model, tokenizer, list(neutral_prompts(count))).softmax(-1)
    likes, dislikes = chances[:, good].sum(-1), chances[:, bad].sum(-1)
    return float((likes / (likes + dislikes)).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Share of neutral prompts that continue as pushed, and that judge so without a push."""

    layer: int
    strength: float
    to_positive: float
    to_negative: float


def _sign(text: str) -> int:
    """1 if the text has positive adjectives only, -1 if negative ones only, else 0."""
    words = set(text.replace(".", " ").replace("!", " ").split())
    good, bad = bool(words & set(POSITIVE)), bool(words & set(NEGATIVE))
    return int(good) - int(bad)


def steering(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    direction: Tensor,
    *,
    layer: int,
    strength: float,
    count: int = 40,
) -> Steering:
    """Push held-out neutral prompts both ways along `direction` [d_model]; read 12 new tokens."""
    shares = {}
    for way in (1, -1):
        added = way * strength * direction
        prompts = list(neutral_prompts(count))
        written = continuations(model, tokenizer, prompts, layer=layer, added=added)
        shares[way] = sum(_sign(text) == way for text in written) / count
    return Steering(layer=layer, strength=strength, to_positive=shares[1], to_negative=shares[-1])
