"""`nl.connect`: a lab's server, and its models as the same objects one has at home.

A `Lab` holds a connection and no weights. What a model can do is in `language_model.py`; how a
run gets there and back is in `executors/remote.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from nnsight_lab.errors import LabError, ModelNotFound
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.models.at_the_line import at_the_line
from nnsight_lab.settings import Settings
from nnsight_lab.wire import ModelSummary

if TYPE_CHECKING:
    from types import TracebackType

    from nnsight_lab.models.language_model import LanguageModel

__all__ = ["Lab", "LabModel", "LabModels", "connect"]


def connect(
    url: str | None = None, token: str | None = None, *, settings: Settings | None = None
) -> Lab:
    """The lab's server at `url`, connected and let in.

    url, token: as the server printed them; by default `NNSIGHT_LAB_SERVER`, `NNSIGHT_LAB_TOKEN`.

        lab = nl.connect("http://127.0.0.1:8765", token="…")
        lm = lab.model("tiny")

    Raises:
        ServerUnreachable: nothing answers there.
        AuthFailed: the token is missing or wrong.
    """
    settings = settings or Settings.from_environment()
    settings = replace(
        settings,
        server=settings.server if url is None else url,
        token=settings.token if token is None else token,
    )
    try:
        client = LabClient(settings.server, settings.token, settings)
        client.link()
    except LabError as exc:
        raise at_the_line(exc) from exc.__cause__
    return Lab(client, settings)


class LabModel:
    """A served model in one line; `lab.model(name)` is the model itself.

    certificate: of an engine that is not Hugging Face's own, how far it was compared with that.
    state: `ready`, or `loading`, `restarting` or `failed`; of one that has not loaded yet only the
        name is known.
    running, waiting: how many runs of it there were when it was listed, of everybody; None where
        the server does not say.
    """

    def __init__(self, summary: ModelSummary) -> None:
        self.name = summary.name
        self.architecture = summary.architecture
        self.dtype = summary.dtype
        self.engine = summary.engine
        self.device = summary.device
        self.layers = summary.layers
        self.parameters = summary.parameters
        self.certificate = summary.certificate
        self.state = summary.state
        self.running = summary.running
        self.waiting = summary.waiting

    @property
    def queue(self) -> str:
        """Its runs in words, such as `1 running, 2 waiting`; empty where there are none."""
        counts = {"running": self.running, "waiting": self.waiting}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def __repr__(self) -> str:
        queue = f"; {self.queue}" if self.queue else ""
        if not self.architecture:
            return f"<{self.name}: {self.state}{queue}>"
        size = f"{self.parameters / 1e6:.1f}M parameters"
        what = f"{self.architecture}, {self.layers} layers, {size}, {self.dtype}"
        checked = f"; {self.certificate}" if self.certificate else ""
        state = "" if self.state == "ready" else f"; {self.state}"
        return f"<{self.name}: {what}, {self.engine} on {self.device}{checked}{state}{queue}>"


class LabModels(list[LabModel]):
    """The models of a server, printed one a line."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "<no models>"


class Lab:
    """A lab's server. Closes with `close()` or a `with` block; runs open it again."""

    def __init__(self, client: LabClient, settings: Settings) -> None:
        self.client = client
        self._settings = settings

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.client.url

    def models(self) -> LabModels:
        """What is served now, each with its `.name`."""
        try:
            return LabModels(map(LabModel, self.client.models()))
        except LabError as exc:
            raise at_the_line(exc) from exc.__cause__

    def model(
        self, name: str, *, rename: Mapping[str, str | Iterable[str]] | None = None
    ) -> LanguageModel:
        """A served model, to trace with as if it were here.

        rename: names of your own for its modules; the server does not learn of them.

        Raises:
            ModelNotFound: no model of that name is served; the nearest is offered.
            BadInput: a name of yours is taken.
        """
        try:
            return self._model(str(name), rename)
        except LabError as exc:
            raise at_the_line(exc) from exc.__cause__

    def _model(self, name: str, rename: Any) -> LanguageModel:
        from nnsight_lab.models.language_model import LanguageModel

        executor = RemoteExecutor(self.client, name)
        try:
            executor.card()
        except ModelNotFound:
            raise self._not_found(name) from None
        return LanguageModel.from_executor(executor, self._settings, rename=rename)

    def _not_found(self, name: str) -> ModelNotFound:
        names = [model.name for model in self.client.models()]
        near = difflib.get_close_matches(name, names, 1, 0.4)
        nearest = f"Nearest: {near[0]!r}. " if near else ""
        served = ", ".join(map(repr, names)) or "nothing"
        return ModelNotFound(
            f"No model {name!r} at {self.url}.", hint=f"{nearest}Served there: {served}."
        )

    def close(self) -> None:
        """End the connection; runs under way fail with `ConnectionLost`."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Lab at {self.url}>"
