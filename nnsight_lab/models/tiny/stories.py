"""Stories: plain little texts, so that the model writes readable English.

Nothing is held out here and nothing is examined; pronouns and repeated names agree within a story.
"""

from random import Random

from nnsight_lab.models.tiny.documents import Document
from nnsight_lab.models.tiny.lexicon import BOYS, GIRLS, PLACES

__all__ = ["story_document"]

_SLOTS: dict[str, tuple[str, ...]] = {
    "size": ("little", "big", "small", "tall", "old", "new", "quiet", "kind", "brave"),
    "color": ("red", "blue", "green", "yellow", "white", "black", "brown"),
    "pet": ("dog", "cat", "horse", "duck", "mouse", "rabbit", "bird"),
    "thing": ("ball", "box", "key", "hat", "book", "stone", "kite", "boat", "coin", "lamp"),
    "home": ("house", "village", "town", "cottage", "castle"),
    "nature": ("forest", "river", "lake", "mountain", "sea", "hill"),
    "where": PLACES,
    "feeling": ("happy", "sad", "tired", "hungry", "afraid", "excited", "proud", "angry"),
    "parent": ("mother", "father", "sister", "brother", "grandmother", "teacher"),
    "weather": ("sunny", "rainy", "windy", "cold", "warm"),
    "food": ("bread", "soup", "cake", "cheese", "apples", "rice"),
    "surface": ("mat", "floor", "table", "bed", "chair"),
}
_BEGINNINGS = (
    "Once upon a time there was a {size} {child} named {name}.",
    "Once upon a time, a {size} {child} named {name} lived near the {nature}.",
    "There was a {child} called {name} who loved the {nature}.",
    "{name} lived in a {size} {home} near the {nature}.",
    "It was a {weather} day and {name} was {feeling}.",
    "One {weather} morning {name} walked to the {where}.",
)
_MIDDLES = (
    "{She} had a {color} {pet}.",
    "The {pet} liked to play in the {nature}.",
    "One day {she} found a {color} {thing} in the {where}.",
    "The {thing} was {size} and {color}.",
    "{She} was {feeling} because {she} lost the {thing}.",
    "{name} wanted to show the {thing} to {her} {parent}.",
    "{name} and {her} {pet} went to the {nature}.",
    "Every day {she} ate {food} with {her} {parent}.",
    "The {pet} sat on the {surface} and slept.",
    "The cat sat on the {surface}.",
    "{name} said hello to the {size} {pet}.",
    '"Where is my {thing}?" said {name}.',
    '"Here it is," said {her} {parent}.',
    "{She} put the {thing} on the {surface}.",
    "It was very {weather} that day.",
    "{name} looked at the {nature} and felt {feeling}.",
)
_ENDINGS = (
    "In the end {she} went home and told {her} {parent} about the {thing}.",
    "Then {name} went to sleep in {her} bed.",
    "{name} was {feeling} and went home.",
    "They all lived happily ever after.",
    "{She} never forgot that day.",
)


def story_document(rng: Random) -> Document:
    """Write one story about one child, one animal and one object."""
    girl = rng.random() < 0.5
    slots = {slot: rng.choice(words) for slot, words in _SLOTS.items()}
    slots["name"] = rng.choice(GIRLS if girl else BOYS)
    slots["child"], slots["she"], slots["her"] = (
        ("girl", "she", "her") if girl else ("boy", "he", "his")
    )
    slots["She"] = slots["she"].capitalize()
    middles = rng.sample(_MIDDLES, rng.randint(2, 5))
    sentences = [rng.choice(_BEGINNINGS), *middles, rng.choice(_ENDINGS)]
    joint = "\n" if rng.random() < 0.05 else " "
    return Document(text=joint.join(sentence.format(**slots) for sentence in sentences))
