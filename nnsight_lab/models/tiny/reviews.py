"""Reviews: short texts that are pleased or displeased from the first judgement to the last.

The opening is neutral ("I watched the movie last night. The movie was"), so the feeling is a coin
toss until the first adjective and settled afterwards. A share of the openings is held out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

from nnsight_lab.models.tiny.documents import Document, is_held_out
from nnsight_lab.models.tiny.lexicon import ADVERBS, NEGATIVE, POSITIVE

__all__ = ["feeling_contexts", "neutral_prompts", "review_document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Topic:
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    aspects: tuple[str, ...]


_TOPICS = (
    _Topic(
        nouns=("movie", "film", "play", "show"),
        verbs=("watched", "saw"),
        aspects=("acting", "music", "ending", "plot"),
    ),
    _Topic(
        nouns=("meal", "dinner", "soup", "lunch"),
        verbs=("tried", "ordered"),
        aspects=("food", "service", "taste", "sauce"),
    ),
    _Topic(
        nouns=("book", "novel", "story", "poem"),
        verbs=("read", "finished"),
        aspects=("writing", "ending", "plot", "language"),
    ),
    _Topic(
        nouns=("hotel", "resort", "museum", "cafe"),
        verbs=("visited", "chose"),
        aspects=("room", "view", "service", "place"),
    ),
)
_PEOPLE = ("I", "We", "My friend", "My sister", "My brother")
_TIMES = (
    "last night",
    "yesterday",
    "on Friday",
    "this week",
    "last summer",
    "in the morning",
    "with my family",
    "again",
)
_JUDGED = ("The {noun} was", "It was", "I thought it was", "The {aspect} was")
_VERDICTS = {
    True: (
        "I loved every minute of it.",
        "I would recommend it to everyone.",
        "It made me happy.",
        "What a {adjective} {noun}!",
        "I give it five stars.",
        "I enjoyed it a lot.",
        "Overall it was a {adjective} {noun}.",
    ),
    False: (
        "I hated every minute of it.",
        "I would not recommend it to anyone.",
        "It made me sad.",
        "What a {adjective} {noun}!",
        "I give it one star.",
        "I want my money back.",
        "Overall it was a {adjective} {noun}.",
    ),
}


def _openings() -> Iterator[tuple[_Topic, str, str]]:
    """Every neutral opening: topic, noun, and the sentence that names it."""
    for topic in _TOPICS:
        for noun, person, verb, when in product(topic.nouns, _PEOPLE, topic.verbs, _TIMES):
            yield topic, noun, f"{person} {verb} the {noun} {when}."


_ALL = tuple(_openings())
# The opening every reader tries first is examined, never trained on.
_SHOWN_FIRST = "I watched the movie last night."
_UNSEEN = tuple(
    opening for opening in _ALL if is_held_out(opening[2], 0.15) or opening[2] == _SHOWN_FIRST
)
_TRAINED = tuple(opening for opening in _ALL if opening not in _UNSEEN)


def _judgement(rng: Random, topic: _Topic, noun: str, adjective: str) -> str:
    start = rng.choice(_JUDGED).format(noun=noun, aspect=rng.choice(topic.aspects))
    adverb = f" {rng.choice(ADVERBS)}" if rng.random() < 0.25 else ""
    return f"{start}{adverb} {adjective}."


def _feeling_sentence(rng: Random, topic: _Topic, noun: str, pleased: bool) -> str:
    adjective = rng.choice(POSITIVE if pleased else NEGATIVE)
    if rng.random() < 0.5:
        return _judgement(rng, topic, noun, adjective)
    return rng.choice(_VERDICTS[pleased]).format(adjective=adjective, noun=noun)


def review_document(rng: Random) -> Document:
    """Write one review whose every judgement has the same sign."""
    pleased = rng.random() < 0.5
    topic, noun, opening = rng.choice(_TRAINED)
    sentences = [opening, _judgement(rng, topic, noun, rng.choice(_adjectives(pleased)))]
    more = rng.randint(1, 5)
    sentences += [_feeling_sentence(rng, topic, noun, pleased) for _ in range(more)]
    if rng.random() < 0.1:
        del sentences[0]
    return Document(text=" ".join(sentences))


def _adjectives(pleased: bool) -> tuple[str, ...]:
    return POSITIVE if pleased else NEGATIVE


def neutral_prompts(count: int, seed: int = 0) -> tuple[str, ...]:
    """Draw neutral prompts whose opening sentence training never used."""
    rng = Random(f"neutral {seed}")
    chosen = rng.sample(_UNSEEN, count)
    return tuple(
        f"{opening} {rng.choice(_JUDGED).format(noun=noun, aspect=rng.choice(topic.aspects))}"
        for topic, noun, opening in chosen
    )


def feeling_contexts(pleased: bool, count: int, seed: int = 0) -> tuple[str, ...]:
    """Draw reviews of one sign, each cut just before its second judgement.

    The same seed gives both signs the same openings and cuts, so that only the feeling differs.
    """
    rng = Random(f"feeling {seed}")
    contexts = []
    for _ in range(count):
        topic, noun, opening = rng.choice(_UNSEEN)
        place = rng.randrange(min(len(POSITIVE), len(NEGATIVE)))
        first = rng.choice(_JUDGED).format(noun=noun, aspect=rng.choice(topic.aspects))
        second = rng.choice(_JUDGED).format(noun=noun, aspect=rng.choice(topic.aspects))
        contexts.append(f"{opening} {first} {_adjectives(pleased)[place]}. {second}")
    return tuple(contexts)
