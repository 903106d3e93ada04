"""Indirect objects: 'When Mary and John went to the store, John gave a drink to Mary.'

Two things are held out together: a fifth of the pairs of names (Mary and John among them), and a
share of the combinations of opening, verb and gift. A prompt uses a pair and a combination that
training never used.
"""

from itertools import combinations
from random import Random

from nnsight_lab.models.tiny.documents import Document, Prompt, is_held_out
from nnsight_lab.models.tiny.lexicon import GIFTS, NAMES, PLACES

__all__ = ["HELD_OUT_PAIRS", "indirect_object_document", "indirect_object_prompts"]

_OPENINGS = (
    "When {a} and {b} went to the {place}, ",
    "After {a} and {b} arrived at the {place}, ",
    "While {a} and {b} were sitting in the {place}, ",
    "Then {a} and {b} walked to the {place}, and ",
    "One day {a} and {b} met at the {place}, and ",
    "{a} and {b} were at the {place}. ",
    "Before {a} and {b} left the {place}, ",
)
_VERBS = ("gave", "handed", "passed", "offered", "showed", "brought", "threw", "lent", "sold")
_TAILS = (" {io} was happy.", " {io} said thank you to {s}.", " Then {s} went home.", "", "", "")


def _pair(first: str, second: str) -> frozenset[str]:
    return frozenset((first, second))


HELD_OUT_PAIRS = tuple(
    pair
    for pair in combinations(NAMES, 2)
    if is_held_out(" and ".join(sorted(pair)), 0.2) or set(pair) == {"Mary", "John"}
)
_HELD_OUT = frozenset(_pair(*pair) for pair in HELD_OUT_PAIRS)


def _combination_is_held_out(opening: str, verb: str, gift: str) -> bool:
    return is_held_out(f"{opening}|{verb}|{gift}", 0.15)


def _sentence(rng: Random) -> str:
    a, b = rng.sample(NAMES, 2)
    while _pair(a, b) in _HELD_OUT:
        a, b = rng.sample(NAMES, 2)
    opening, verb, gift = rng.choice(_OPENINGS), rng.choice(_VERBS), rng.choice(GIFTS)
    while _combination_is_held_out(opening, verb, gift):
        opening, verb, gift = rng.choice(_OPENINGS), rng.choice(_VERBS), rng.choice(GIFTS)
    giver, receiver = rng.choice(((a, b), (b, a)))
    clause = opening.format(a=a, b=b, place=rng.choice(PLACES))
    tail = rng.choice(_TAILS).format(s=giver, io=receiver)
    return f"{clause}{giver} {verb} {gift} to {receiver}.{tail}"


def indirect_object_document(rng: Random) -> Document:
    """Write one to three such sentences, each with its own two names."""
    return Document(text=" ".join(_sentence(rng) for _ in range(rng.randint(1, 3))))


def indirect_object_prompts(count: int, seed: int = 0) -> tuple[Prompt, ...]:
    """Draw `count` held-out prompts; the rival answer is the name of the giver."""
    rng = Random(f"indirect object {seed}")
    unseen = [
        (opening, verb, gift)
        for opening in _OPENINGS
        for verb in _VERBS
        for gift in GIFTS
        if _combination_is_held_out(opening, verb, gift)
    ]
    prompts = []
    for _ in range(count):
        a, b = rng.sample(rng.choice(HELD_OUT_PAIRS), 2)
        giver, receiver = rng.choice(((a, b), (b, a)))
        opening, verb, gift = rng.choice(unseen)
        clause = opening.format(a=a, b=b, place=rng.choice(PLACES))
        prompts.append(
            Prompt(
                text=f"{clause}{giver} {verb} {gift} to",
                answer=f" {receiver}",
                rival=f" {giver}",
            )
        )
    return tuple(prompts)
