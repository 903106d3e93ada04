"""The models a server offers: by name, with their engines, states and cards.

Names resolve here and only here; a client never gives a path or a revision.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from nnsight_lab.contract import ModelCard
from nnsight_lab.errors import EngineFailed, ModelNotFound
from nnsight_lab.wire import ModelSummary, encode_card
from nnsight_lab_server.config import ServedModel
from nnsight_lab_server.engines.base import Certified
from nnsight_lab_server.jobs import ModelState, ModelWorker

__all__ = ["Catalogue"]


class Catalogue:
    """One worker per engine of each model."""

    def __init__(self, models: tuple[ServedModel, ...], *, queued: int) -> None:
        self._workers = {
            model.name: tuple(
                ModelWorker(model.name, load, queued=queued) for load in (model.load, *model.others)
            )
            for model in models
        }
        self._models = models
        if len(self._workers) != len(models):
            raise ValueError("two models have one name")
        self._cards: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[ModelWorker]:
        return chain.from_iterable(self._workers.values())

    def start(self) -> None:
        """Begin to load every model."""
        for worker in self:
            worker.start()

    def stop(self) -> None:
        """Cancel all jobs and let every model go; what still loads is given up."""
        for model in self._models:
            model.give_up()
        for worker in self:
            worker.stop()

    @property
    def ready(self) -> bool:
        """Whether every model can take jobs."""
        return all(worker.state is ModelState.READY for worker in self)

    def states(self) -> dict[str, str]:
        """The state of each model, by name."""
        return {name: _state(workers).value for name, workers in self._workers.items()}

    def workers(self, name: str) -> tuple[ModelWorker, ...]:
        """The engines of a model, ready or not, in the order they are asked.

        Raises:
            ModelNotFound: no model of that name is served; the nearest is offered.
        """
        found = self._workers.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._workers, 1, 0.4)
            nearest = f"Nearest: {near[0]!r}. " if near else ""
            served = ", ".join(map(repr, self._workers))
            raise ModelNotFound(
                f"No model {name[:200]!r} on this server.", hint=f"{nearest}Served: {served}."
            )
        return found

    def find(self, name: str) -> tuple[ModelWorker, ModelCard]:
        """The worker and card of the engine of a model that can do most.

        Raises:
            ModelNotFound: no model of that name is served; the nearest is offered.
            EngineFailed: it is still loading, or could not be loaded.
        """
        worker = self.workers(name)[-1]
        if worker.state is not ModelState.READY or worker.engine is None:
            raise EngineFailed(
                f"The model {name!r} is {worker.state.value}.", hint="Try again in a while."
            )
        return worker, worker.engine.card()

    def card_bytes(self, name: str) -> bytes:
        """The encoded card of a model that is ready. Raises as `find`."""
        _, card = self.find(name)
        if name not in self._cards:
            self._cards[name] = encode_card(card)
        return self._cards[name]

    def summaries(self) -> tuple[ModelSummary, ...]:
        """The models, each in one line; of one that has not loaded, its name, state and queue."""
        return tuple(
            _counted(_summary(name, workers), workers) for name, workers in self._workers.items()
        )


def _state(workers: tuple[ModelWorker, ...]) -> ModelState:
    """The state of a model: ready, when every engine of it is."""
    states = (worker.state for worker in workers)
    return next((state for state in states if state is not ModelState.READY), ModelState.READY)


def _counted(summary: ModelSummary, workers: tuple[ModelWorker, ...]) -> ModelSummary:
    """With the runs of all clients: how many, and nothing else of them."""
    counts = [worker.counts() for worker in workers]
    running, waiting = (sum(each) for each in zip(*counts, strict=True))
    return replace(summary, running=running, waiting=waiting)


def _summary(name: str, workers: tuple[ModelWorker, ...]) -> ModelSummary:
    # By the last a model is described; while that is ready, it can be used.
    state = ModelState.READY if workers[-1].state is ModelState.READY else _state(workers)
    loaded = [each for each in workers if each.engine is not None]
    able = [each for each in loaded if each.state is ModelState.READY] or loaded
    engines = [each.engine for each in able if each.engine is not None]
    if not engines:
        return ModelSummary(name, "", "", "", "", 0, 0, state=state.value)
    cards = [engine.card() for engine in engines]
    card = cards[-1]
    said = [engine.certificate for engine in engines if isinstance(engine, Certified)]
    return ModelSummary(
        name=name,
        architecture=card.architecture,
        dtype=card.dtype,
        engine=", ".join(each.capabilities.engine for each in cards),
        device=card.capabilities.device,
        layers=card.layers,
        parameters=card.parameters,
        certificate="; ".join(map(str, filter(None, said))),
        state=state.value,
    )
