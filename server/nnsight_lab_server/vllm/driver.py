"""vLLM, driven: requests of token ids in, no text out. Two ways, one `Driver`.

    AsyncDriver        vLLM in processes of its own, as a server has it   async_driver.py
    OneProcessDriver   vLLM stepped by a thread of this process           one_process.py

What a request computes is heard from the worker (`channel.py`), never read off vLLM's answers. A
driver only says when a request has ended and when the engine has died.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from nnsight_lab.errors import NotSupported
from nnsight_lab_server.vllm.halting import Halt
from nnsight_lab_server.vllm.messages import Message
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = [
    "Driver",
    "Ears",
    "Request",
    "check_arguments",
    "on_gpu",
    "prepare",
    "prompt",
    "sampling",
    "start",
]


@dataclass(frozen=True, slots=True)
class Request:
    """One row. extra: for the worker, under `lab`. salt: of the prefix cache; its own if traced."""

    id: str
    token_ids: tuple[int, ...]
    max_tokens: int
    salt: str
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ears:
    """Who listens to a driver, on threads of its own.

    message: what a worker says. ended: a request has, with an error or without.
    died: the engine has, once; every request it had is lost.
    """

    message: Callable[[Message], None]
    ended: Callable[[str, BaseException | None], None] = lambda _, __: None
    died: Callable[[BaseException], None] = lambda _: None


class Driver(Protocol):
    """A vLLM engine that has started."""

    @property
    def address(self) -> str:
        """Where its workers send what they have to say."""
        ...

    @property
    def folder(self) -> Path | None:
        """In shared memory, for what is too large for a request; None where all is one process."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        ...

    @property
    def under_way(self) -> int:
        """How many requests have not ended."""
        ...

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests, together. They end with `Ears.ended`."""
        ...

    def abort(self, ids: Iterable[str]) -> None:
        """End requests; those that have ended are no matter."""
        ...

    def tell(self, name: str, *args: Any) -> None:
        """Call a method of every worker between two steps, without waiting for it."""
        ...

    def rpc(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every worker between two steps; what each returns.

        Raises:
            Exception: what the method raised.
        """
        ...

    def close(self) -> None:
        """Stop it, dead or alive."""
        ...


_OURS: dict[str, str] = {}
"""What we have set in the environment ourselves."""


def on_gpu() -> bool:
    """Whether vLLM will find a GPU here."""
    import torch

    return torch.cuda.is_available()


def prepare(options: VllmOptions, *, processes: bool) -> None:
    """Set what vLLM reads from the environment when it starts. processes: of its own, or this.

    What an operator has set there stays; what an engine before this one was given does not.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if processes else "0"
    for name in [*_OURS]:
        if os.environ.get(name) == _OURS.pop(name):
            del os.environ[name]
    for name, value in options.environment(on_gpu=on_gpu()).items():
        if name not in os.environ:
            os.environ[name] = _OURS[name] = value


def check_arguments(options: VllmOptions) -> None:
    """Check that vLLM has the arguments of its own that an operator gives; takes as long as an import.

    Raises:
        NotSupported: it does not have one of them.
    """
    if not options.engine:
        return
    prepare(options, processes=True)  # what it logs is decided when it is imported
    from vllm import AsyncEngineArgs

    known = {each.name for each in fields(AsyncEngineArgs)}
    wrong = sorted(options.engine.keys() - known)
    if wrong:
        near = difflib.get_close_matches(wrong[0], known, 1)
        nearest = f"Did you mean {near[0]}? " if near else ""
        raise NotSupported(
            f"vLLM has no argument {', '.join(wrong)}, which is given under [engine].",
            hint=f"{nearest}They are those of its EngineArgs, with underscores.",
        )


def sampling(request: Request) -> Any:
    """VLLM's parameters of a request: it never stops by itself, and takes the likeliest token."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=request.max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=None if request.extra is None else {"lab": dict(request.extra)},
    )


def prompt(request: Request) -> Any:
    """A request's token ids as vLLM takes them."""
    from vllm import TokensPrompt

    return TokensPrompt(prompt_token_ids=list(request.token_ids), cache_salt=request.salt)


def start(
    model: str,
    options: VllmOptions,
    ears: Ears,
    *,
    halt: Halt | None = None,
    one_process: bool = False,
) -> Driver:
    """Start vLLM on a folder or a Hugging Face id; takes as long as that takes, unless halted.

    Raises:
        EngineFailed: it cannot be imported, does not start, or is not wanted any more.
    """
    if one_process:
        from nnsight_lab_server.vllm.one_process import OneProcessDriver

        return OneProcessDriver(model, options, ears)
    from nnsight_lab_server.vllm.async_driver import AsyncDriver

    return AsyncDriver(model, options, ears, halt)
