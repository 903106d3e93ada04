"""What is known of a model before vLLM serves it: measured on Hugging Face, found again in vLLM.

    learned = learn(executor, surveyed)     # executor: the Hugging Face model in this process

The addresses of the card are those the certificate verified; their moments follow vLLM's points.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nnsight_lab.contract import ModelCard
from nnsight_lab.executors.generate import padding_of, stop_ids_of
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab_server.vllm.calling import samples_to_bytes
from nnsight_lab_server.vllm.calls import samples_of
from nnsight_lab_server.vllm.certificate import Certificate, CertificateStore
from nnsight_lab_server.vllm.certify import certified
from nnsight_lab_server.vllm.driver import Driver, Request
from nnsight_lab_server.vllm.reference import reference_of
from nnsight_lab_server.vllm.run import Served
from nnsight_lab_server.vllm.served import served_card, served_forms
from nnsight_lab_server.vllm.survey import merged

__all__ = ["Described", "Learned", "Surveyed", "learn", "learned_from", "samples_for"]

_WAIT_S = 300.0
_SAMPLED = 12


class Described(Protocol):
    """A model on Hugging Face, in this process or only described."""

    module: Any
    tokenizer: Any

    def card(self) -> ModelCard:
        """The model described."""
        ...


@dataclass(frozen=True)
class Learned:
    """What the workers are told of the model, and the certificate it rests on."""

    served: Served
    certificate: Certificate | None = None


def learn(
    executor: LocalExecutor,
    surveyed: Surveyed,
    store: CertificateStore | None = None,
    key: str = "",
) -> Learned:
    """Compare the model in vLLM with the same on Hugging Face, or look up what came of it before."""
    certificate = store.get(key) if store is not None else None
    if certificate is None:
        certificate = certified(reference_of(executor), surveyed)
        if store is not None:
            store.put(key, certificate)
    return learned_from(executor, certificate)


def learned_from(model: Described, certificate: Certificate) -> Learned:
    """What workers are told of a model with this certificate."""
    card = served_card(model.card(), certificate)
    served = Served(
        card=card,
        forms=served_forms(card, certificate),
        stop_ids=stop_ids_of(model.module),
        end_pad=padding_of(model.module),
        pad=getattr(model.tokenizer, "pad_token_id", None) or 0,
    )
    return Learned(served, certificate)


def samples_for(executor: LocalExecutor) -> bytes:
    """What modules on Hugging Face make of one prompt, to compare vLLM's with."""
    card = executor.card()
    length = min(_SAMPLED, card.context or _SAMPLED)
    device = next(executor.module.parameters()).device
    tokens = torch.arange(1, length + 1, device=device)[None] % (card.vocab or length + 1)
    paths = [module.path for module in card.tree.modules if module.path]
    with torch.no_grad():
        return samples_to_bytes(samples_of(executor.module, tokens, paths))


class Surveyed:
    """A driver nobody uses yet, as `probe.SurveyedEngine`. `ended` hears of its requests' ends.

    tensor: how many workers share each layer.
    """

    def __init__(self, driver: Driver, batch_tokens: int | None = None, *, tensor: int = 1) -> None:
        self._driver = driver
        self._tensor = tensor
        self._most = batch_tokens
        self._count = 0
        self._waiting: set[str] = set()
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def ended(self, id: str, error: BaseException | None) -> None:
        """A request has ended."""
        with self._changed:
            self._waiting.discard(id)
            self._error = self._error or error
            self._changed.notify_all()

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of every worker; gives what the last stage of the pipeline returns."""
        stages = self._driver.rpc(method, *args)[:: self._tensor]
        return merged(stages) if method == "lab_survey_end" else stages[-1]

    def forward(self, prompt: tuple[int, ...], *, times: int = 1, tokens: int = 1) -> None:
        """Run a prompt so many times at once, as far as they fit into one step of the engine."""
        at_once = max(1, (self._most or len(prompt) * times) // len(prompt))
        while times > 0:
            self._forward(prompt, min(times, at_once), tokens)
            times -= at_once

    def _forward(self, prompt: tuple[int, ...], times: int, tokens: int) -> None:
        requests = []
        for _ in range(times):
            self._count += 1
            name = f"survey-{self._count}"
            requests.append(Request(name, prompt, tokens, salt=f"{id(self)}-{name}"))
        with self._changed:
            self._error = None
            self._waiting.update(request.id for request in requests)
            self._driver.submit(requests)
            if not self._changed.wait_for(lambda: not self._waiting, _WAIT_S):
                self._error = TimeoutError("vLLM does not answer")
        if self._error is not None:
            raise self._error
