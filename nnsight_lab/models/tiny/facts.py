"""Facts: 'The capital of France is Paris', each said in several ways.

For every fact one way of saying it is held out: the model trains on the others and is examined on
that one. The triples are in lexicon.py.
"""

from random import Random
from zlib import crc32

from nnsight_lab.models.tiny.documents import Document, Prompt
from nnsight_lab.models.tiny.lexicon import FACTS

__all__ = ["facts_document", "facts_prompts", "held_out_template"]

# Templates that end in the answer: the only ones a prompt can be cut from.
_FORWARD: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {s} is {o}.",
        "The capital city of {s} is {o}.",
        "In {s}, the capital is {o}.",
        "The government of {s} sits in {o}.",
        "Visitors to the capital of {s} arrive in {o}.",
    ),
    "language": (
        "The language of {s} is {o}.",
        "People in {s} speak {o}.",
        "The official language of {s} is {o}.",
        "Children in {s} learn to read {o}.",
        "In {s}, most newspapers are printed in {o}.",
    ),
    "continent": (
        "{s} is a country in {o}.",
        "The continent of {s} is {o}.",
        "On the map, {s} is part of {o}.",
        "Travelers who visit {s} go to {o}.",
        "The land of {s} lies in {o}.",
    ),
    "landmark": (
        "{s} is in the city of {o}.",
        "{s} is located in {o}.",
        "You can visit {s} in {o}.",
        "Tourists who want to see {s} travel to {o}.",
        "To find {s}, go to {o}.",
    ),
    "color": (
        "The color of {s} is {o}.",
        "Everyone can see that {s} is {o}.",
        "A child would paint {s} in {o}.",
        "When I think of {s}, I think of the color {o}.",
        "In the picture, {s} looks {o}.",
    ),
    "young": (
        "A young {s} is called a {o}.",
        "The baby of a {s} is a {o}.",
        "When a {s} has a baby, it is a {o}.",
        "Every {s} was once a {o}.",
        "People call the child of a {s} a {o}.",
    ),
    "sound": (
        "The {s} says {o}.",
        "The sound of a {s} is {o}.",
        "When a {s} is happy, it says {o}.",
        "At night we heard the {s} say {o}.",
        "In the song, the {s} goes {o}.",
    ),
    "day": (
        "The day after {s} is {o}.",
        "After {s} comes {o}.",
        "If today is {s}, then tomorrow is {o}.",
        "Once {s} is over, it will be {o}.",
        "Today is {s} and tomorrow is {o}.",
    ),
}
_BACKWARD: dict[str, tuple[str, ...]] = {
    "capital": ("{o} is the capital of {s}.", "{o} is a city in {s}."),
    "language": ("{o} is a language of {s}.",),
    "continent": ("In {o} there is a country called {s}.",),
    "landmark": ("{o} is famous for {s}.",),
    "color": ("Something {o} is {s}.",),
    "young": ("The {o} will be a {s}.",),
    "sound": ("The one who says {o} is the {s}.",),
    "day": ("The day before {o} is {s}.",),
}

# The prompts every reader tries first are examined, never trained on.
_SHOWN_FIRST = {("capital", "France"): 0, ("landmark", "the Eiffel Tower"): 0}


def held_out_template(relation: str, subject: str) -> int:
    """Choose which way of saying this fact the model never trains on."""
    chosen = crc32(f"{relation}|{subject}".encode()) % len(_FORWARD[relation])
    return _SHOWN_FIRST.get((relation, subject), chosen)


def _fill(template: str, subject: str, answer: str) -> str:
    sentence = template.format(s=subject, o=answer)
    return sentence[0].upper() + sentence[1:]


def _fact_sentence(rng: Random) -> str:
    relation = rng.choices(tuple(FACTS), weights=[len(FACTS[name]) for name in FACTS])[0]
    subject, answer = rng.choice(FACTS[relation])
    held = held_out_template(relation, subject)
    templates = [way for index, way in enumerate(_FORWARD[relation]) if index != held]
    if rng.random() < 0.12:
        templates = list(_BACKWARD[relation])
    return _fill(rng.choice(templates), subject, answer)


def facts_document(rng: Random) -> Document:
    """Write one to five unrelated facts."""
    return Document(text=" ".join(_fact_sentence(rng) for _ in range(rng.randint(1, 5))))


def facts_prompts() -> dict[str, tuple[Prompt, ...]]:
    """List, per relation, every fact in the one wording that training never used."""
    prompts: dict[str, tuple[Prompt, ...]] = {}
    for relation, triples in FACTS.items():
        prompts[relation] = tuple(
            Prompt(
                text=_fill(
                    _FORWARD[relation][held_out_template(relation, subject)], subject, answer
                ).removesuffix(f" {answer}."),
                answer=f" {answer}",
            )
            for subject, answer in triples
        )
    return prompts
