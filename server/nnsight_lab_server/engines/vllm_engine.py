"""The engine for many at once: vLLM, with our worker in it, behind the seam of `base.py`.

    load      the model on Hugging Face, for its card; vLLM; what is where in it
    run       rows become requests; what the worker says becomes events       vllm_run.py
    watch     vLLM lives in processes of its own, and may die

One engine serves many runs: their rows share vLLM's batches, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from nnsight_lab.contract import (
    Capabilities,
    Done,
    Emit,
    ModelCard,
    RunRequest,
    Several,
    TokenRows,
)
from nnsight_lab.errors import EngineFailed, NotSupported
from nnsight_lab.executors.loading import resolve_name
from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.ir import Graph, ModuleSource
from nnsight_lab.passes import Stages, check_padding
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.vllm_run import VllmRun, nothing_to_run
from nnsight_lab_server.vllm.big import PROMPT, Big, Told, too_big_to_hold, twin_options
from nnsight_lab_server.vllm.calling import Callables, check_calls
from nnsight_lab_server.vllm.certificate import Certificate, CertificateStore, certificate_key
from nnsight_lab_server.vllm.certify import surveyed_pass
from nnsight_lab_server.vllm.driver import Driver, Ears, on_gpu, start
from nnsight_lab_server.vllm.halting import Halt, once_more
from nnsight_lab_server.vllm.knowing import (
    Described,
    Learned,
    Surveyed,
    learn,
    learned_from,
    samples_for,
)
from nnsight_lab_server.vllm.messages import Message
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.patterns import to_measure, with_patterns
from nnsight_lab_server.vllm.pipeline import check_pipeline
from nnsight_lab_server.vllm.served_bytes import served_to_bytes

__all__ = ["FEATURES", "VllmEngine", "load_vllm"]

_log = logging.getLogger(__name__)
FEATURES = frozenset({"trace", "apply", "tokens", "generate"})
"""What a graph may ask of this engine; gradients and the inside of a forward are not among it."""
_AGAIN = "Run it once more when the model is ready."
_ELSEWHERE = "Serve the model with --engine auto or transformers, or load it in this process."


def load_vllm(
    name: str,
    source: str,
    settings: Settings,
    *,
    options: VllmOptions | None = None,
    say: Callable[[str], None] = lambda _: None,
    executor: Callable[[], LocalExecutor] | None = None,
    certificates: Path | None = None,
    halt: Halt | None = None,
    one_process: bool = False,
) -> Engine:
    """The engine of a model by bundled name, folder or Hugging Face id, served as `name`.

    say: is told how far it is. executor: gives the model on Hugging Face, where somebody else has
    it already. certificates: a folder to keep what was measured in, for the next start.
    halt: asked when it is not wanted any more. one_process: keep vLLM in this process, for tests.

    Raises:
        ModelNotFound: there is no such model.
        EngineFailed: vLLM does not start, or is not as this version of the lab knows it.
    """
    where, _ = resolve_name(source, settings)
    options = options or VllmOptions()
    store = CertificateStore(certificates) if certificates is not None else None
    big = None if executor is not None else too_big_to_hold(name, source, settings, options)
    begin: Callable[[VllmEngine], None]
    if big is not None:
        say(f"{name}: too big to hold twice; a small model of its class is compared instead")
        begin = partial(VllmEngine.begin_by_twin, big=big, store=store)
    else:
        say(f"{name}: loading the Hugging Face model, to compare with")
        held = executor() if executor is not None else load_local(source, settings)
        begin = partial(VllmEngine.begin, executor=held, store=store)

    def started() -> VllmEngine:
        engine = VllmEngine(name, where, options, say=say, halt=halt, one_process=one_process)
        begin(engine)
        return engine

    return once_more(started, lambda: say(f"{name}: it does not answer; starting once more"))


class VllmEngine:
    """Runs graphs on vLLM, many at a time. Implements `Concurrent`, `Restartable`, `Choosy`."""

    def __init__(
        self,
        name: str,
        model: str,
        options: VllmOptions,
        *,
        say: Callable[[str], None] = lambda _: None,
        halt: Halt | None = None,
        one_process: bool = False,
    ) -> None:
        self._name = name
        self._model = model
        self._options = options
        self._say = say
        self._halt = halt or Halt()
        self._one_process = one_process
        self._driver: Driver | None = None
        self._learned: Learned | None = None
        self._surveyed: Surveyed | None = None
        self._card: ModelCard | None = None
        self._callables = Callables()
        self._samples: bytes | None = None
        self._runs: dict[str, VllmRun] = {}
        self._cancelled: set[str] = set()
        self._lost: Callable[[], None] = lambda: None
        self._dead = False
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- from start to end

    def begin(self, executor: LocalExecutor, store: CertificateStore | None = None) -> None:
        """Start vLLM, and learn where in it is what the model on Hugging Face has."""
        with self._starting(executor.card().dtype) as surveyed:
            self._say(f"{self._name}: checking every name against Hugging Face")
            self._learned = learn(executor, surveyed, store, self._key(executor))
            self._samples = samples_for(executor)
            self._install()
            self._measure_patterns(executor, store)

    def begin_by_twin(self, big: Big, store: CertificateStore | None = None) -> None:
        """Start vLLM on a model that nobody holds on Hugging Face, after a small twin of it."""
        dtype = big.card().dtype
        self._options = replace(self._options, dtype=self._options.dtype or dtype)
        key = self._key(big, compare="twin")
        found = store.get(key) if store is not None else None
        told = self._of_twin(big) if found is None else None
        with self._starting(dtype) as surveyed:
            if told is not None:
                self._say(f"{self._name}: looking for every name in it")
                found = big.certified(told, surveyed_pass(surveyed, PROMPT)[0])
                if store is not None:
                    store.put(key, found)
            assert found is not None, "kept from before, or made just now"
            self._learned = learned_from(big, found)
            self._callables = found.calls
            self._install()

    def _of_twin(self, big: Big) -> Told:
        """What comes of comparing the twin, in a vLLM of its own that is gone afterwards."""
        name, options = f"{self._name}, a small twin", twin_options(self._options, big.twin_part)
        with TemporaryDirectory(prefix="lab-twin-") as folder:
            big.save_twin(Path(folder))
            here, halt = self._one_process, self._halt
            twin = VllmEngine(name, folder, options, say=self._say, halt=halt, one_process=here)
            twin.begin(big.twin)
            twin.close()
        assert twin.certificate is not None, "begun just now"
        return Told(twin.certificate, twin._callables)

    @contextmanager
    def _starting(self, dtype: str) -> Iterator[Surveyed]:
        """Start vLLM, for what is to be found out before it serves; closed if that fails."""
        self._options = options = replace(self._options, dtype=self._options.dtype or dtype)
        self._say(f"{self._name}: starting vLLM")
        try:
            self._start()
            assert self._driver is not None, "started just now"
            self._surveyed = Surveyed(self._driver, options.batch_tokens, tensor=options.tensor)
            yield self._surveyed
            self._surveyed = None
        except BaseException:
            self.close()
            raise
        self._say(f"{self._name}: ready")

    def _measure_patterns(self, executor: LocalExecutor, store: CertificateStore | None) -> None:
        """Compare what is made anew of attention, with runs like anybody's."""
        found = self.certificate
        if found is None or not to_measure(found):
            return
        measured = with_patterns(found, executor, self.run)
        if store is not None:
            store.put(self._key(executor), measured)
        self._learned = learned_from(executor, measured)
        self._install()

    def _key(self, model: Described, **more: str) -> str:
        """What a certificate of this model, started this way, is kept by."""
        revision = getattr(getattr(model.module, "config", None), "_commit_hash", None)
        chosen = self._options.arguments("", on_gpu=on_gpu())
        chosen.pop("kv_cache_memory_bytes", None)  # how much is free changes; no number does
        started = {f"vllm.{name}": str(value) for name, value in chosen.items()}
        return certificate_key(self._model, str(revision or ""), **started, **more)

    def restart(self) -> None:
        """Start vLLM once more; what was learned of the model still holds."""
        if self._driver is not None:
            self._driver.close()
        self._start()
        self._install()
        self._dead = False

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` whenever vLLM dies."""
        self._lost = lost

    def close(self) -> None:
        """Stop vLLM."""
        self._fail_all(EngineFailed("The engine was closed.", hint=_AGAIN))
        if self._driver is not None:
            self._driver.close()

    def _start(self) -> None:
        self._halt.check()
        ears = Ears(self._hear, self._ended, self._died)
        self._driver = start(
            self._model, self._options, ears, halt=self._halt, one_process=self._one_process
        )
        lacks = sorted({line for found in self._driver.rpc("lab_selftest") for line in found})
        if lacks:
            raise EngineFailed(
                "This vLLM is not as this version of the lab knows it:\n  " + "\n  ".join(lacks),
                hint='Install the one it was made for: pip install "nnsight-lab[server,vllm]".',
            )

    def _install(self) -> None:
        driver, learned = self._driver, self._learned
        assert driver is not None, "started before"
        assert learned is not None, "learned before"
        options = self._options
        speaker = (options.pipeline - 1) * options.tensor  # the first worker of the last stage
        driver.rpc("lab_install", {"channel": driver.address, "speaker": speaker})
        if self._samples is not None:
            found = driver.rpc("lab_check", self._samples)[speaker]
            self._samples = None
        else:
            found = driver.rpc("lab_able", self._callables.to_plain())[speaker]
        self._callables = Callables.from_plain(found)
        served = replace(learned.served, routes=self._callables.routes)
        driver.rpc("lab_serve", served_to_bytes(served))
        self._card = self._served_card(learned.served.card)

    def _served_card(self, card: ModelCard) -> ModelCard:
        device = "cpu" if not card.capabilities.device.startswith("cuda") else "cuda"
        able = Capabilities("vllm", device, FEATURES & card.capabilities.features)
        context = min(filter(None, (card.context, self._options.context)), default=0)
        # vLLM wants room for one more token than it is asked to compute.
        return replace(card, name=self._name, capabilities=able, context=max(0, context - 1))

    # ---------------------------------------------------------------- what the server asks

    @property
    def concurrency(self) -> int:
        """How many runs at a time."""
        return self._options.concurrency

    @property
    def under_way(self) -> tuple[int, int]:
        """How many runs there are, and how many requests of vLLM's."""
        driver = self._driver
        return len(set(self._runs.values())), 0 if driver is None else driver.under_way

    @property
    def folder(self) -> Path | None:
        """The folder in shared memory that vLLM's processes are given large things in."""
        return None if self._driver is None else self._driver.folder

    def stats(self) -> dict[str, int]:
        """What the first worker says of itself: `runs` under way, `points` listened at, …"""
        assert self._driver is not None, "begun before it is asked"
        found: dict[str, int] = self._driver.rpc("lab_stats")[0]
        return found

    def card(self) -> ModelCard:
        """The model, with the addresses that are verified on vLLM."""
        assert self._card is not None, "begun before it is served"
        return self._card

    @property
    def certificate(self) -> Certificate | None:
        """What was measured of the model, address by address."""
        return self._learned.certificate if self._learned is not None else None

    def source_of(self, path: str) -> ModuleSource:
        """Nothing: what vLLM calls in a forward is not what Hugging Face calls.

        Raises:
            NotSupported: always.
        """
        raise NotSupported(
            f"{self._name} is served by vLLM, which computes the inside of {path or 'the model'} in"
            " its own way; there is no source of it.",
            hint=_ELSEWHERE,
        )

    def check(self, graph: Graph, stages: Stages) -> None:
        """Refuse what would give other numbers here: rows are not padded, texts have an end."""
        check_padding(graph, stages)
        check_calls(graph, self.card().tree, self._callables)
        if self._options.pipeline > 1 and self._learned is not None:
            forms = self._learned.served.forms
            check_pipeline(graph, stages, forms, self._options.pipeline - 1)

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end, on the caller's thread; other runs go on beside it."""
        inputs = request.inputs
        given = inputs.parts if isinstance(inputs, Several) else (inputs,)
        parts = tuple(part for part in given if isinstance(part, TokenRows))
        assert len(parts) == len(given), "admission lets prompts only through"
        if nothing_to_run(request.graph, parts):
            emit(Done({"run": 0.0}, steps=len(parts)))
            return
        # Names of runs are clients'; those of requests must be nobody else's.
        name = uuid4().hex
        assert self._driver is not None, "begun before anything is run"
        staged = self._options.pipeline > 1
        run = VllmRun(name, request.graph, parts, self._driver, staged=staged)
        with self._lock:
            self._runs[name] = self._runs[request.id] = run
            if request.id in self._cancelled:
                run.cancel()
        try:
            if not self._driver.alive:  # whoever died before the run was noted did not end it
                self._died(RuntimeError("vLLM had died before"))
            run.follow(emit)
        finally:
            with self._lock:
                del self._runs[name], self._runs[request.id]
                self._cancelled.discard(request.id)

    def cancel(self, run_id: str) -> None:
        """End a run: its requests are aborted, the worker forgets it."""
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                self._cancelled.add(run_id)
        if run is not None:
            run.cancel()

    # ---------------------------------------------------------------- what the driver says

    def _hear(self, message: Message) -> None:
        run = self._runs.get(message.run)
        if run is not None:
            run.hear(message)

    def _ended(self, id: str, error: BaseException | None) -> None:
        if self._surveyed is not None:
            self._surveyed.ended(id, error)
        run = self._runs.get(id.partition("/")[0])
        if error is None:
            if run is not None:
                run.ended(id)
            return
        driver = self._driver
        if driver is not None and not driver.alive:
            self._died(error)
            return
        if run is not None:
            run.refused(id, error)

    def _died(self, error: BaseException) -> None:
        with self._lock:
            first, self._dead = not self._dead, True
        if first:
            self._lost()
        failed = EngineFailed("vLLM died.", hint=_AGAIN)
        failed.__cause__ = error
        self._fail_all(failed)

    def _fail_all(self, error: EngineFailed) -> None:
        with self._lock:
            runs = set(self._runs.values())
        for run in runs:
            run.lose(error)
