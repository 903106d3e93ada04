"""Ready experiments, written on the public API only: each gives data that draws itself.

    lens.py         logit_lens: what each layer would say if it were the last
    attention.py    attention_pattern: where each head of a layer looks
    prompt.py       the prompt they look at
"""

from nnsight_lab.recipes.attention import AttentionPattern, attention_pattern
from nnsight_lab.recipes.lens import LogitLens, logit_lens

__all__ = ["AttentionPattern", "LogitLens", "attention_pattern", "logit_lens"]
