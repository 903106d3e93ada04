"""Train the bundled model from nothing, on the CPU: `python -m nnsight_lab.models.tiny.train`.

Two runs with the same seed, steps and thread count on one machine give equal weights. The folder
that is written appears whole or not at all. Training needs torch 2.9 or later (Muon); loading the
weights does not. What the model then knows is measured in `evaluate.py`.
"""

import argparse
import json
import logging
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_lab.models.tiny import FOLDER
from nnsight_lab.models.tiny.corpus import corpus_words
from nnsight_lab.models.tiny.rows import batches
from nnsight_lab.models.tiny.tokenizer import build_tokenizer, save_tokenizer

__all__ = ["Recipe", "TrainingRecord", "main", "new_model", "save", "train"]

_log = logging.getLogger("nnsight_lab.tiny")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the weights."""

    steps: int = 3000
    seed: int = 0
    rows: int = 32
    row_length: int = 128
    muon_learning_rate: float = 2e-2
    adam_learning_rate: float = 3e-3
    warmup_steps: int = 80
    weight_decay: float = 0.05
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What happened: shipped as training.json, quoted by the card."""

    recipe: Recipe
    seconds: float
    tokens: int
    final_loss: float
    torch: str


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Make the untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        # The usual 0.02 is for wide models: at this width attention starts flat and stays flat.
        initializer_range=0.08,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    _share_spellings(model, tokenizer)
    return model


def _share_spellings(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Start 'Paris' and ' Paris' from one vector: they are one word, and training is short."""
    vocabulary = tokenizer.get_vocab()
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for token, index in vocabulary.items():
            spaced = vocabulary.get(f"Ġ{token}")
            if spaced is not None:
                embedding[spaced] = embedding[index]


def _pace(recipe: Recipe, step: int) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine fall to a fiftieth."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _own_document(ids: Tensor, begin: int) -> Tensor:
    """Let each token see the earlier ones of its own document only: bool [batch, 1, pos, pos]."""
    document = (ids == begin).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]


def _loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, over the tokens that have a weight."""
    mask = _own_document(ids[:, :-1], model.config.bos_token_id)
    logits = model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).logits
    each = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    kept = weights[:, 1:].flatten()
    return (each * kept).sum() / kept.sum()


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the blocks, AdamW for the embedding and the norms.

    With AdamW alone the induction heads did not form in the time we have.
    """
    inside: list[torch.nn.Parameter] = []
    outside: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        (inside if weight.ndim == 2 and "embed" not in name else outside).append(weight)
    decay = recipe.weight_decay
    return (
        torch.optim.Muon(inside, lr=recipe.muon_learning_rate, weight_decay=decay),
        torch.optim.AdamW(
            outside, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=decay / 5
        ),
    )


def _update(
    model: LlamaForCausalLM,
    optimizers: tuple[torch.optim.Optimizer, ...],
    peaks: tuple[float, ...],
    pace: float,
) -> None:
    """Take one step along the gradients at hand, then forget them."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in zip(optimizers, peaks, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * pace
        optimizer.step()
    model.zero_grad()


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast
) -> tuple[LlamaForCausalLM, TrainingRecord]:
    """Train a new model by `recipe`; the number of threads is set for the whole process."""
    torch.set_num_threads(recipe.threads)
    model = new_model(tokenizer, recipe.seed)
    optimizers = _optimizers(model, recipe)
    peaks = (recipe.muon_learning_rate, recipe.adam_learning_rate)
    source = batches(tokenizer, seed=recipe.seed, rows=recipe.rows, length=recipe.row_length)
    started, average = time.monotonic(), 0.0
    for step in range(recipe.steps):
        loss = _loss(model, *next(source))
        torch.autograd.backward(loss)
        _update(model, optimizers, peaks, _pace(recipe, step))
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0 or step == recipe.steps - 1:
            seconds = time.monotonic() - started
            _log.info("step %d of %d  loss %.4f  %.0f s", step, recipe.steps, average, seconds)
    record = TrainingRecord(
        recipe=recipe,
        seconds=round(time.monotonic() - started, 1),
        tokens=recipe.steps * recipe.rows * recipe.row_length,
        final_loss=round(average, 4),
        torch=torch.__version__,
    )
    return model.eval(), record


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    record: TrainingRecord,
    folder: Path,
) -> None:
    """Write everything into a neighbouring folder, then put it in place of `folder`."""
    fresh, stale = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(str(fresh))
    save_tokenizer(tokenizer, fresh)
    (fresh / "training.json").write_text(json.dumps(asdict(record), indent=2) + "\n")
    # safetensors are written for their owner only; the wheel is read by everyone.
    (fresh / "model.safetensors").chmod(0o644)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train, save."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m nnsight_lab.models.tiny.train")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write the weights to")
    options = parser.parse_args(arguments)
    recipe = Recipe(steps=options.steps, seed=options.seed, threads=options.threads)
    tokenizer = build_tokenizer(corpus_words())
    model, record = train(recipe, tokenizer)
    save(model, tokenizer, record, options.out)
    _log.info("wrote %s after %.0f s", options.out, record.seconds)


if __name__ == "__main__":
    main()
