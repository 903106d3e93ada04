"""The wording of CARD.md: numbers come in as card.json has them, text comes out.

No measuring here, and no number is written by hand.
"""

from typing import Any

from nnsight_lab.models.tiny.corpus import SHARES

__all__ = ["card_text"]

_EXAMINED = {
    "indirect_object": "indirect object: held-out pairs of names in held-out combinations of "
    "opening, verb and gift",
    "copying": "copying: fresh sequences of 8 to 24 random words, tokens of the second pass but "
    "the first",
    "facts": "facts: every fact, in the one wording held out for it",
    "feeling": "feeling: held-out reviews with one judgement made, sign of the next one",
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _opening(card: dict[str, Any]) -> str:
    model, training = card["model"], card["training"]
    recipe = training["recipe"]
    shares = ", ".join(f"{kind} {_percent(share)}" for kind, share in SHARES.items())
    return f"""# The bundled model, `tiny`

*Written by `python -m nnsight_lab.models.tiny.evaluate` from the shipped weights; the same numbers
are in `card.json`, and `tests/models/test_tiny_card.py` measures them again.*

A `{model["architecture"]}` with {model["layers"]} layers, {model["heads"]} heads of size
{model["d_head"]}, d_model {model["d_model"]}, d_mlp {model["d_mlp"]}, a vocabulary of
{model["d_vocab"]} tokens and tied embeddings: {model["parameters"]:,} parameters,
{model["safetensors_bytes"] / 1e6:.2f} MB of float32 safetensors.

## How it was trained

From nothing, by `python -m nnsight_lab.models.tiny.train`, on synthetic text that the same folder
generates: {recipe["steps"]:,} steps of {recipe["rows"]} rows of {recipe["row_length"]} tokens
({training["tokens"]:,} tokens), seed {recipe["seed"]}, {training["seconds"]:.0f} seconds on
{recipe["threads"]} CPU threads with torch {training["torch"]}. Muon for the matrices inside the
blocks, AdamW for the rest, a cosine schedule; loss at the end {training["final_loss"]}. Documents
by kind: {shares}.

A word after a space is one token (`" Paris"`), the bare word another (`"Paris"`); what is not in
the vocabulary falls to bytes, so every text survives encoding and decoding. A begin token is added.
"""


def _accuracy_section(card: dict[str, Any]) -> str:
    scores = card["accuracies"]
    rows = [
        [_EXAMINED.get(name, name), f"{score['right']} of {score['total']}",
         _percent(score["accuracy"])]
        for name, score in scores.items()
    ]  # fmt: skip
    shown = [
        [f"`{row['text']}`", f"`{row['first']}`", _percent(row["probability"]),
         f"{row['margin']:.1f}"]
        for row in card["shown"]
    ]  # fmt: skip
    return f"""
## How often it is right

On prompts it never trained on; right means the first choice.

{_table(["what is asked", "right", "accuracy"], rows)}

Prompts to try. The lead is over the second choice, in logits.

{_table(["prompt", "first choice", "probability", "lead"], shown)}
"""


def _heads_section(card: dict[str, Any]) -> str:
    heads = card["heads"]
    rows = [
        [kind.replace("_", " "), f"{head['layer']}.{head['head']}", f"{head['score']:.3f}"]
        for kind in ("induction", "previous_token")
        for head in heads[kind]
    ]
    best = heads["induction"][0]
    return f"""
## What a researcher finds inside

Layers and heads count from 0; `resid_post` of layer n is the stream after block n.

### Induction heads

The strongest is layer {best["layer"]}, head {best["head"]}: score {best["score"]:.3f}. The score is
the mean attention weight, over 50 fresh random sequences said twice, from each token of the second
pass (but its first) to the token after the same word in the first pass. Previous-token heads are
scored by the weight from each token of the first pass to the one before it.

{_table(["kind", "layer.head", "score"], rows)}
"""


def _lens_section(card: dict[str, Any]) -> str:
    lens = card["lens"]
    layers = range(card["model"]["layers"])
    rows = [
        [relation, *(_percent(share) for share in shares)]
        for relation, shares in lens["accuracy_by_layer"].items()
    ]
    example = ", ".join(
        f"layer {layer} `{first}` ({_percent(chance)})"
        for layer, (first, chance) in enumerate(lens["example_first_by_layer"])
    )
    return f"""
### Where a fact becomes readable

Final norm and unembedding on `resid_post` at the last position of the held-out prompts: share of
facts whose answer comes first. The capitals are readable from layer
{lens["capital_readable_from_layer"]} (at least half of them).

{_table(["relation", *(f"layer {layer}" for layer in layers)], rows)}

`{lens["example"]}`: {example}.
"""


def _patch_section(card: dict[str, Any]) -> str:
    patch = card["patch"]
    mean, example = patch["mean"], patch["example"]
    rows = [
        [
            str(layer),
            f"{mean['at_giver'][layer]:+.2f}",
            _percent(mean["flipped_at_giver"][layer]),
            f"{mean['at_last'][layer]:+.2f}",
            _percent(mean["flipped_at_last"][layer]),
        ]
        for layer in range(card["model"]["layers"])
    ]
    last = patch["first_layer_at_last"]
    return f"""
### A patch that flips the indirect object

`{patch["example_text"]}`, patched from the run in which Mary gives.
Logit difference Mary minus John: {example["before"]:+.2f} before;
{example["at_last"][last]:+.2f} after patching `resid_post` of layer {last} at the last position.
Patching the second naming of the giver instead, in layer 0, gives {example["at_giver"][0]:+.2f}.

Over {patch["prompts"]} held-out prompts the mean difference before is {mean["before"]:+.2f}. After:

{_table(["layer", "at the giver", "flipped", "at the last position", "flipped"], rows)}

A patch works at the place that holds the name of the giver at that depth: what the last position
already has by layer n, a patch of the giver's own position can no longer change.
"""


def _steering_rows(card: dict[str, Any], strengths: list[float]) -> list[list[str]]:
    """One row per layer, one cell per strength: positive share when added / when subtracted."""
    cells = {
        (layer, strength): f"{_percent(up)} / {_percent(down)}"
        for strength, layer, up, down in card["steering"]["tried"]
    }
    return [
        [str(layer), *(cells[layer, strength] for strength in strengths)]
        for layer in range(card["model"]["layers"])
    ]


def _steering_section(card: dict[str, Any]) -> str:
    steering = card["steering"]
    strengths = sorted({strength for strength, _, _, _ in steering["tried"]})
    shares = [[name, _percent(share)] for name, share in steering["positive_share"].items()]
    example = steering["example"]
    return f"""
### A direction that steers the feeling

The direction is the mean of `resid_post` at the last position of 200 pleased reviews minus that of
200 displeased ones, the same but for the adjective. Times a strength, it is added (or subtracted)
at every position of 40 held-out neutral prompts. Of the chance that the next word is a judging
adjective, the positive share is read. Strength 0.5 goes from the middle to one of the two means.

Layer {steering["layer"]} with strength {steering["strength"]} is the least that settles it
(at least 90 % both ways; the direction has norm {steering["direction_norm"]:.1f} there). The random
direction is as long.

{_table(["in the stream", "positive share"], shares)}

With the same layer and strength, 12 tokens were written greedily after each prompt; a prompt counts
if it is followed by judging adjectives of the sign asked for and by no other: to positive
{_percent(steering["to_positive"])}, to negative {_percent(steering["to_negative"])}. Stronger
pushes keep the sign and lose the grammar.

Positive share at every layer and strength, added / subtracted:

{
        _table(
            ["layer", *(f"strength {strength}" for strength in strengths)],
            _steering_rows(card, strengths),
        )
    }

`{steering["example_text"]}`
- pushed up: `{example["added"]}`
- unsteered: `{example["unsteered"]}`
- pushed down: `{example["subtracted"]}`
"""


_LIMITS = """
## Limits

It knows the words and the sentence patterns of its training text, and nothing else: a prompt in
other words falls to bytes and gives nonsense. Greedy continuations often repeat a sentence: much of
the training text repeats. It was trained on rows of 128 tokens; longer prompts run (up to 512
positions) but were never examined. Names, adjectives and places are few, held-out prompts share
their patterns with the training text, and accuracies say nothing about large models. Whether a
mechanism found here exists elsewhere has to be looked for elsewhere. The seconds of training were
measured on a machine that was doing other work.
"""


def card_text(card: dict[str, Any]) -> str:
    """Write the whole card."""
    sections = (
        _opening,
        _accuracy_section,
        _heads_section,
        _lens_section,
        _patch_section,
        _steering_section,
    )
    return "".join(section(card) for section in sections) + _LIMITS
