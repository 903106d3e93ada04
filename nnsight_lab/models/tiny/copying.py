"""Copying: random words, said again. The only way to predict them is to look back.

The first pass of a sequence is left out of the loss: nobody could predict it. Held-out prompts are
sequences from a seed of their own; two sequences never coincide by chance at these lengths.
"""

from collections.abc import Sequence
from random import Random

from nnsight_lab.models.tiny.documents import Document

__all__ = ["SHORTEST", "LONGEST", "copying_document", "copying_sequences"]

SHORTEST, LONGEST = 8, 24
_ODD = "0123456789(){}[]<>$#@%&*+=-_/\\|~^'\"!?;:éüñßçøλжあ中🙂🎉—…"


def copying_document(rng: Random, words: Sequence[str], longest: int = LONGEST) -> Document:
    """Write one random sequence of at most `longest` words two or three times over."""
    sequence = rng.sample(words, rng.randint(SHORTEST // 2, longest))
    if rng.random() < 0.1:
        # Odd characters become byte tokens: this is where the model meets them.
        for place in rng.sample(range(len(sequence)), len(sequence) // 3):
            sequence[place] = "".join(rng.choices(_ODD, k=rng.randint(1, 2)))
    once = " ".join(sequence)
    joint = rng.choices((" ", ". ", ", ", "\n"), weights=(17, 1, 1, 1))[0]
    again = joint.join([once] * (rng.choice((1, 1, 2))))
    return Document(text=once + joint + again, unpredictable=once)


def copying_sequences(count: int, words: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """Draw fresh sequences, each written once: the examiner repeats them."""
    rng = Random(f"copying, held out {seed}")
    lengths = [rng.randint(SHORTEST, LONGEST) for _ in range(count)]
    return tuple(" ".join(rng.sample(words, length)) for length in lengths)
