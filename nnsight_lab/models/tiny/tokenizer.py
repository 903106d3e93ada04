"""The tokenizer: one token per known word, bytes for everything else, nothing ever unknown.

A word and the same word after a space are two tokens (' Paris' and 'Paris'), as in GPT-2; the
space is written 'Ġ' in the vocabulary. Encoding then decoding gives back the text exactly. A
begin-of-text token is put in front, as in Llama.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

__all__ = ["BEGIN", "END", "PAD", "build_tokenizer", "save_tokenizer"]

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
# A word, a digit, a run of other signs, spaces: each is looked up as a whole, else byte by byte.
_PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s+(?!\S)|\s"


def _vocabulary(words: Sequence[str]) -> dict[str, int]:
    bytes_ = sorted(ByteLevel.alphabet())
    spaced_signs = [f"Ġ{sign}" for sign in "0123456789\"'(-"]
    known = [PAD, BEGIN, END, *bytes_, *spaced_signs]
    known += [spelling for word in words for spelling in (word, f"Ġ{word}")]
    return {token: index for index, token in enumerate(dict.fromkeys(known))}


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make the tokenizer whose whole words are `words`."""
    # No merges: a piece is either in the vocabulary (ignore_merges looks it up) or falls to bytes.
    vocabulary = _vocabulary(words)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = Steps(
        [
            Split(Regex(_PIECES), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, vocabulary[BEGIN])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    tokenizer.save_pretrained(str(folder))
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    config_file.write_text(json.dumps(config, indent=2) + "\n")
