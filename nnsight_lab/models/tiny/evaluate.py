"""Measure the shipped weights and write the card: `python -m nnsight_lab.models.tiny.evaluate`.

card.json holds the numbers, CARD.md the same numbers in words; neither is ever edited by hand. The
measures are in accuracies.py and findings.py, the wording in card.py.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from nnsight_lab.models.tiny import FOLDER, accuracies, findings
from nnsight_lab.models.tiny.card import card_text
from nnsight_lab.models.tiny.documents import Prompt

__all__ = ["load", "main", "measure"]

_log = logging.getLogger("nnsight_lab.tiny")

_MARY = "When Mary and John went to the store, John gave a drink to"
_FRANCE = "The capital of France is"
_MOVIE = "I watched the movie last night. The movie was"
_SHOWN = (
    _FRANCE,
    _MARY,
    "When Mary and John went to the store, Mary gave a drink to",
    "The Eiffel Tower is in the city of",
    "The Colosseum is in the city of",
    "The language of France is",
    "The color of grass is",
    "The day after Monday is",
    "A young cat is called a",
    "river lamp seven queen gold river lamp seven",
    "Once upon a time there was a little",
    "Lily lost the key. She was sad because",
)
_STRENGTHS = (0.3, 0.5, 1.0, 2.0, 3.0)


def load(folder: Path = FOLDER) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the model and its tokenizer as any user of transformers would."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def _first_layer(shares: list[float], at_least: float) -> int:
    """The first layer whose share is large enough; the last one if none is."""
    enough = (layer for layer, share in enumerate(shares) if share >= at_least)
    return next(enough, len(shares) - 1)


def _model_facts(model: LlamaForCausalLM, folder: Path) -> dict[str, Any]:
    config = model.config
    return {
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "safetensors_bytes": (folder / "model.safetensors").stat().st_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_model": config.hidden_size,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
    }


def _accuracies(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, dict[str, float]]:
    by_relation = accuracies.facts(model, tokenizer)
    every_fact = accuracies.Score(
        right=sum(score.right for score in by_relation.values()),
        total=sum(score.total for score in by_relation.values()),
    )
    scores = {
        "indirect_object": accuracies.indirect_object(model, tokenizer),
        "copying": accuracies.copying(model, tokenizer),
        "facts": every_fact,
        "feeling": accuracies.feeling(model, tokenizer),
    }
    scores |= {f"facts/{relation}": score for relation, score in by_relation.items()}
    return {name: score.as_json() for name, score in scores.items()}


def _shown(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """First choice, its probability, and its lead over the second choice in logits."""
    logits = accuracies.next_logits(model, tokenizer, list(_SHOWN))
    rows = []
    for text, each in zip(_SHOWN, logits, strict=True):
        best, token = each.topk(2)
        rows.append(
            {
                "text": text,
                "first": tokenizer.decode([int(token[0])]),
                "probability": each.softmax(-1).max().item(),
                "margin": (best[0] - best[1]).item(),
            }
        )
    return rows


def _heads(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The best heads of both kinds, and every head's score."""
    scores = findings.head_scores(model, tokenizer)
    found: dict[str, Any] = {}
    for kind, table in (
        ("induction", scores.induction),
        ("previous_token", scores.previous_token),
    ):
        values, places = table.flatten().topk(4)
        heads = table.shape[1]
        found[kind] = [
            {"layer": place // heads, "head": place % heads, "score": value}
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
        found[f"{kind}_scores"] = table.tolist()
    return found


def _lens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    by_relation = findings.lens_accuracy(model, tokenizer)
    return {
        "accuracy_by_layer": by_relation,
        "capital_readable_from_layer": _first_layer(by_relation["capital"], 0.5),
        "example": _FRANCE,
        "example_first_by_layer": [
            [first, chance] for first, chance in findings.lens_choices(model, tokenizer, _FRANCE)
        ],
    }


def _patch(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    def fields(prompts: tuple[Prompt, ...]) -> dict[str, Any]:
        patch = findings.patch_giver(model, tokenizer, prompts)
        return {name: getattr(patch, name) for name in patch.__slots__}

    example = Prompt(text=_MARY, answer=" Mary", rival=" John")
    mean = fields(findings.patch_prompts(200))
    return {
        "prompts": 200,
        "mean": mean,
        "example_text": _MARY,
        "example": fields((example,)),
        "first_layer_at_last": _first_layer(mean["flipped_at_last"], 0.9),
    }


def _tried(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directions: torch.Tensor
) -> list[tuple[float, int, float, float]]:
    """Strength, layer, and the positive share with the direction added and subtracted."""
    return [
        (
            strength,
            layer,
            findings.positive_share(model, tokenizer, layer=layer, added=strength * direction),
            findings.positive_share(model, tokenizer, layer=layer, added=-strength * direction),
        )
        for strength in _STRENGTHS
        for layer, direction in enumerate(directions)
    ]


def _steering(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Try every strength and layer; keep the first that settles nine in ten judging words."""
    directions = findings.feeling_directions(model, tokenizer)
    tried = _tried(model, tokenizer, directions)
    decided = [each for each in tried if min(each[2], 1 - each[3]) >= 0.9]
    strength, layer, _, _ = (decided or tried[-1:])[0]
    direction = directions[layer]
    noise = torch.randn(direction.shape, generator=torch.Generator().manual_seed(0))
    noise *= direction.norm() / noise.norm()
    pushes = {
        "unsteered": 0 * direction,
        "added": strength * direction,
        "subtracted": -strength * direction,
        "random direction added": strength * noise,
        "random direction subtracted": -strength * noise,
    }
    shares = {
        name: findings.positive_share(model, tokenizer, layer=layer, added=push)
        for name, push in pushes.items()
    }
    written = {
        name: findings.continuations(model, tokenizer, [_MOVIE], layer=layer, added=pushes[name])[0]
        for name in ("added", "unsteered", "subtracted")
    }
    rates = findings.steering(model, tokenizer, direction, layer=layer, strength=strength)
    return {
        "layer": layer,
        "strength": strength,
        "direction_norm": direction.norm().item(),
        "to_positive": rates.to_positive,
        "to_negative": rates.to_negative,
        "positive_share": shares,
        "tried": [list(each) for each in tried],
        "example_text": _MOVIE,
        "example": written,
    }


def measure(folder: Path = FOLDER) -> dict[str, Any]:
    """Measure everything the card says about the weights in `folder`."""
    model, tokenizer = load(folder)
    card = {
        "model": _model_facts(model, folder),
        "training": json.loads((folder / "training.json").read_text()),
        "accuracies": _accuracies(model, tokenizer),
        "shown": _shown(model, tokenizer),
        "heads": _heads(model, tokenizer),
        "lens": _lens(model, tokenizer),
        "patch": _patch(model, tokenizer),
        "steering": _steering(model, tokenizer),
    }
    rounded: dict[str, Any] = _rounded(card)
    return rounded


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, write both cards next to the weights folder."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m nnsight_lab.models.tiny.evaluate")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the weights")
    parser.add_argument("--out", type=Path, default=FOLDER.parent, help="folder of the cards")
    options = parser.parse_args(arguments)
    card = measure(options.folder)
    (options.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (options.out / "CARD.md").write_text(card_text(card))
    for name, score in card["accuracies"].items():
        _log.info("%-18s %5d of %5d", name, score["right"], score["total"])


if __name__ == "__main__":
    main()
