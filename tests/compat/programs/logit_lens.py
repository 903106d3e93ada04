"""The logit lens: the model's own head on every layer, out of its order."""

import torch
from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer

model = LanguageModel(gpt2(), tokenizer=tokenizer())

probabilities = []
with model.trace("The Eiffel Tower is in the city of"):
    for layer in model.transformer.h:
        hidden = model.transformer.ln_f(layer.output)
        logits = model.lm_head(hidden)
        probabilities.append(torch.nn.functional.softmax(logits, dim=-1).save())

together = torch.cat(probabilities)
best, tokens = together.max(dim=-1)
words = [[model.tokenizer.decode(token) for token in row] for row in tokens]

results = {"together": together, "best": best, "tokens": tokens, "words": words}
