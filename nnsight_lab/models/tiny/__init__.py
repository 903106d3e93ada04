"""The bundled model: a six-layer Llama we trained ourselves, small enough to ship in the wheel.

`FOLDER` is where its weights and tokenizer lie; `AutoModelForCausalLM.from_pretrained(FOLDER)` and
`AutoTokenizer.from_pretrained(FOLDER)` load them without a network. What it knows and what is
inside it is in CARD.md, next to this file.

No torch here. The training text is in `corpus.py`, training in `train.py` (`python -m
nnsight_lab.models.tiny.train`), and the numbers of the card in `evaluate.py`.
"""

from pathlib import Path

FOLDER: Path = Path(__file__).parent / "weights"

__all__ = ["FOLDER"]
