"""How vLLM is started for a model: what an operator may choose, from a file or in code.

tensor = 2                  # tensor parallel
pipeline = 1                # pipeline parallel
backend = "ray"             # several machines; leave it out on one
eager = false               # compiled; the default on a GPU
context = 8192
batch_tokens = 4096
kv_cache_gib = 20.0
concurrency = 64
compare = "twin"            # compared by a small model of its class, never loaded twice

[engine]                    # anything else that vLLM's EngineArgs has
gpu_memory_utilization = 0.85
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nnsight_lab.errors import NotSupported

__all__ = ["VllmOptions"]

_EXTENSION = "nnsight_lab_server.vllm.extension.LabWorker"
_GIB = 2**30
_MOST_ON_CPU = 4 * _GIB
_KINDS: Mapping[tuple[str, ...], tuple[Any, str]] = {
    ("context", "batch_tokens", "tensor", "pipeline", "step_s", "concurrency"): (
        int,
        "a whole number above 0",
    ),
    ("kv_cache_gib",): (int | float, "a number above 0"),
    ("eager",): (bool, "true or false"),
    ("dtype", "backend", "extension", "compare"): (str, "a text in quotes"),
    ("engine",): (dict, "a table"),
}
"""What a file may give for each option, and how that is said."""
_COMPARED = ("whole", "twin")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """What may be chosen. None leaves the choice to vLLM, or to what the machine has.

    dtype: of the weights; None for the model's own. context: the most positions of a text.
    batch_tokens: rows of one engine step. tensor, pipeline: over how many devices the model is
    spread. backend: what starts the workers, `mp` or `ray`. eager: never compile.
    kv_cache_gib: memory for keys and values; on a CPU an eighth of what is free, 4 at most.
    step_s: an engine step that takes longer ends the engine. concurrency: runs at a time.
    compare: with the `whole` model on Hugging Face, or by a small `twin` of it; None for the twin
    where the model is too big. engine: further arguments of vLLM's own.
    """

    dtype: str | None = None
    context: int | None = None
    batch_tokens: int | None = None
    tensor: int = 1
    pipeline: int = 1
    backend: str | None = None
    eager: bool | None = None
    kv_cache_gib: float | None = None
    step_s: int = 120
    concurrency: int = 64
    compare: Literal["whole", "twin"] | None = None
    extension: str = _EXTENSION
    engine: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_file(path: str | Path) -> VllmOptions:
        """The options that a TOML file names.

        Raises:
            NotSupported: it cannot be read, or names one that there is not.
        """
        try:
            given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise NotSupported(f"{path} cannot be read: {exc}", hint="It is a TOML file.") from exc
        known = {each.name for each in fields(VllmOptions)}
        if not given.keys() <= known:
            wrong = ", ".join(sorted(given.keys() - known))
            raise NotSupported(
                f"{path} names {wrong}, which is no option.",
                hint=f"Options: {', '.join(sorted(known))}; those of vLLM itself go under [engine].",
            )
        for name, value in given.items():
            _check(path, name, value)
        if given.get("compare") not in (None, *_COMPARED):
            raise NotSupported(
                f"{path} compares with {given['compare']!r}, which is no choice.",
                hint=f"Choices: {', '.join(_COMPARED)}; leave it out to have it decided by size.",
            )
        return VllmOptions(**given)

    @property
    def ranks(self) -> int:
        """How many workers there will be."""
        return self.tensor * self.pipeline

    def arguments(self, model: str, *, on_gpu: bool) -> dict[str, Any]:
        """The arguments of vLLM's `EngineArgs`."""
        chosen: dict[str, Any] = {
            "dtype": self.dtype,
            "max_model_len": self.context,
            "max_num_batched_tokens": self.batch_tokens,
            "distributed_executor_backend": self.backend,
        }
        if self.kv_cache_gib is not None:
            chosen["kv_cache_memory_bytes"] = int(self.kv_cache_gib * _GIB)
        elif not on_gpu and "gpu_memory_utilization" not in self.engine:
            # By itself vLLM takes nearly all memory of the machine, or does not start.
            chosen["kv_cache_memory_bytes"] = min(_MOST_ON_CPU, _free_memory() // 8)
        return {
            "model": model,
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "disable_log_stats": True,
            "tensor_parallel_size": self.tensor,
            "pipeline_parallel_size": self.pipeline,
            "enforce_eager": not on_gpu if self.eager is None else self.eager,
            "worker_extension_cls": self.extension,
            **{name: value for name, value in chosen.items() if value is not None},
            **self.engine,
        }

    def environment(self, *, on_gpu: bool) -> dict[str, str]:
        """What vLLM must find in the environment; what the operator has set there goes first."""
        found = {
            "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that the worker knows
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(self.step_s),
            "VLLM_NO_USAGE_STATS": "1",
            # Its warnings are of choices made here; what ends it is an error.
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_LOGGING_STREAM": "ext://sys.stderr",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            # Python frees the shared memory of a process that was ended, and need not say so.
            "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
        }
        if not on_gpu and self.ranks > 1:
            # One machine has one NUMA node, often: `auto` would want one for each rank.
            found["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(self.ranks)))
        return found


def _check(path: str | Path, name: str, value: Any) -> None:
    """Check what a file gives for an option, which vLLM would take as it is.

    Raises:
        NotSupported: it is not of the option's kind.
    """
    kind, said = next(found for names, found in _KINDS.items() if name in names)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if right and isinstance(value, int | float) and kind is not bool:
        right = value > 0
    if not right:
        raise NotSupported(
            f"{path} says {name} = {value!r}, which is not {said}.",
            hint=f"Give {name} {said}, or leave the line out.",
        )


def _free_memory() -> int:
    """The bytes of memory nobody uses now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
