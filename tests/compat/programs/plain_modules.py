"""Any torch module: reads, edits, gradients, indexing."""

import torch
from nnsight import NNsight

from tests.compat.random_models import mlp

net = NNsight(mlp())
x = torch.linspace(-1, 1, 8).reshape(2, 4)

with net.trace(x):
    first = net[0].output.save()
    out = net.output.save()

with net.trace(x):
    net[1].output[:, 0] = 5
    edited = net.output.save()

with net.trace(x):
    hidden = net[0].output
    loss = net.output.sum()
    with loss.backward():
        grad = hidden.grad.save()

results = {
    "first": first,
    "out": out,
    "edited": edited,
    "grad": grad,
    "count": len(net),
    "plain": net._module(x),
    "weight": net[0].weight,
    "names": [path for path, _ in net.named_modules()],
}
