"""The training text as a whole: how often each kind of document comes, and the words it uses.

The kinds themselves are in facts, indirect_object, copying, reviews and stories; what each holds
out is said there. Nothing here knows about tokens.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import count
from random import Random

from nnsight_lab.models.tiny.copying import LONGEST, copying_document
from nnsight_lab.models.tiny.documents import Document
from nnsight_lab.models.tiny.facts import facts_document
from nnsight_lab.models.tiny.indirect_object import indirect_object_document
from nnsight_lab.models.tiny.lexicon import COMMON_WORDS
from nnsight_lab.models.tiny.reviews import review_document
from nnsight_lab.models.tiny.stories import story_document

__all__ = ["SHARES", "corpus_words", "documents"]

# Share of the documents, by kind.
SHARES = {
    "copying": 0.28,
    "indirect object": 0.24,
    "facts": 0.28,
    "reviews": 0.12,
    "stories": 0.08,
}
_WITHOUT_COPYING = {
    "indirect object": indirect_object_document,
    "facts": facts_document,
    "reviews": review_document,
    "stories": story_document,
}


@cache
def corpus_words() -> tuple[str, ...]:
    """List every word the templates can write, and the common words, in alphabetical order."""
    rng = Random("words")
    words = set(COMMON_WORDS)
    for write in _WITHOUT_COPYING.values():
        for _ in range(6_000):
            words.update(re.findall(r"[A-Za-z]+", write(rng).text))
    return tuple(sorted(words))


def documents(seed: int) -> Iterator[Document]:
    """Write the training text of `seed`, without end.

    Sequences to copy start short and reach their full length after 70,000 documents: with long
    ones from the start, the model needs far more steps to discover that looking back helps.
    """
    rng = Random(f"corpus {seed}")
    words = corpus_words()
    kinds, weights = tuple(SHARES), tuple(SHARES.values())
    for number in count():
        longest = min(LONGEST, 10 + number // 5_000)
        kind = rng.choices(kinds, weights)[0]
        if kind == "copying":
            yield copying_document(rng, words, longest)
        else:
            yield _WITHOUT_COPYING[kind](rng)
