"""The engines `nnsight-lab serve --engine` knows, and what each means for a model.

transformers   everything the language has, one run at a time
vllm           many runs at a time; no gradients, nothing inside a forward
auto           both: each run goes to vLLM where that can run it, else to transformers
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.settings import Settings
from nnsight_lab_server.config import ServedModel
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.transformers_engine import TransformersEngine, load_transformers
from nnsight_lab_server.engines.vllm_engine import load_vllm
from nnsight_lab_server.vllm.driver import check_arguments
from nnsight_lab_server.vllm.halting import Halt
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["ENGINES", "served_model"]

ENGINES = ("transformers", "vllm", "auto")


def served_model(
    name: str,
    source: str,
    settings: Settings,
    *,
    engine: str = "transformers",
    file: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ServedModel:
    """A model to serve with an engine. file: how vLLM is started. say: is told how far it is.

    Raises:
        NotSupported: no such engine, or one that is not installed, or a file that cannot be read.
    """
    if engine not in ENGINES:
        raise NotSupported(f"No engine {engine!r}.", hint=f"Engines: {', '.join(ENGINES)}.")
    if engine == "transformers":
        return ServedModel(name, partial(load_transformers, name, source, settings))
    if find_spec("vllm") is None:
        raise NotSupported(
            "vLLM is not installed here.",
            hint='pip install "nnsight-lab[server,vllm]", or serve with --engine transformers.',
        )
    options = VllmOptions() if file is None else VllmOptions.from_file(file)
    check_arguments(options)
    halt = Halt()
    if engine == "vllm":
        load = partial(
            load_vllm,
            name,
            source,
            settings,
            options=options,
            say=say,
            certificates=_certificates(),
            halt=halt,
        )
        return ServedModel(name, load, give_up=halt.ask)
    both = _Both(name, source, settings, options, say, halt)
    return ServedModel(name, both.load_vllm, (both.load_transformers,), give_up=halt.ask)


def _certificates() -> Path:
    """The folder of this user's in which certificates are kept from one start to the next."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "nnsight-lab" / "certificates"


class _Both:
    """Two engines of one model, which share the one on Hugging Face."""

    def __init__(
        self,
        name: str,
        source: str,
        settings: Settings,
        options: VllmOptions,
        say: Callable[[str], None],
        halt: Halt,
    ) -> None:
        self._name = name
        self._source = source
        self._settings = settings
        self._options = options
        self._say = say
        self._halt = halt
        self._lock = threading.Lock()
        self._executor: LocalExecutor | None = None
        self._measured = threading.Event()

    def _shared(self) -> LocalExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = load_local(self._source, self._settings)
        return self._executor

    def load_vllm(self) -> Engine:
        """Start vLLM, and compare it with the model on Hugging Face."""
        try:
            return load_vllm(
                self._name,
                self._source,
                self._settings,
                options=self._options,
                say=self._say,
                executor=self._shared,
                certificates=_certificates(),
                halt=self._halt,
            )
        finally:
            self._measured.set()

    def load_transformers(self) -> Engine:
        """The model on Hugging Face, once nobody measures it any more."""
        self._measured.wait()
        self._halt.check()
        return TransformersEngine(self._name, self._shared())
