"""A sparse autoencoder of one's own, attached to a layer and put in its place."""

import torch
from nnsight import LanguageModel

from tests.compat.random_models import gpt2, tokenizer


class SAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(32, 64)
        self.decoder = torch.nn.Linear(64, 32)

    def forward(self, hidden):
        return self.decoder(torch.relu(self.encoder(hidden)))


model = LanguageModel(gpt2(), tokenizer=tokenizer())
torch.manual_seed(1)
sae = SAE()
model.transformer.h[1].sae = sae
prompt = "The capital of France is"

with model.trace(prompt):
    hidden = model.transformer.h[1].output
    features = torch.relu(sae.encoder(hidden)).save()
    model.transformer.h[1].output = model.transformer.h[1].sae(hidden)
    logits = model.lm_head.output.save()

with model.trace(prompt):
    acts = torch.relu(sae.encoder(model.transformer.h[1].output))
    acts[:, :, 7] = 10
    model.transformer.h[1].output = sae.decoder(acts)
    clamped = model.lm_head.output.save()

results = {"features": features, "logits": logits, "clamped": clamped}
