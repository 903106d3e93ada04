"""What is looked at and mended in a worker before the lab hangs on it.

missing(worker)             what this version of vLLM lacks of all we rely on, in words
mend_pipeline(runner)       a pipeline stage on a CPU has room for what the stage before hands on
relay_of(options, rank)     what a pipeline stage hears of the one before, and tells the next
sends(options, rank)        what takes the worker's messages; one worker speaks, all may say they failed
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from nnsight_lab_server.vllm.channel import sender_to
from nnsight_lab_server.vllm.messages import Failed, Message
from nnsight_lab_server.vllm.relay import Relay

__all__ = ["mend_pipeline", "missing", "relay_of", "sends"]

_RUNNER = (
    "execute_model", "get_model", "input_batch", "requests", "device", "model_config",
    "max_num_tokens",
)  # fmt: skip
_BATCH = ("req_ids", "num_computed_tokens_cpu")
_MODEL = ("compute_logits", "forward", "register_forward_pre_hook", "get_submodule")
_STEP = (
    "scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens", "finished_req_ids",
)  # fmt: skip
_NEW_REQUEST = ("req_id", "sampling_params", "prompt_token_ids", "num_computed_tokens")
_FIELDS = {
    ("vllm.v1.core.sched.output", "SchedulerOutput"): _STEP,
    ("vllm.v1.core.sched.output", "NewRequestData"): _NEW_REQUEST,
    ("vllm.forward_context", "ForwardContext"): ("skip_compiled",),
    ("vllm.sampling_params", "SamplingParams"): ("extra_args", "ignore_eos"),
}


def missing(worker: Any) -> list[str]:
    """What is not as we rely on; empty when all is. Each is one line to read."""
    runner = getattr(worker, "model_runner", None)
    if runner is None:
        return ["the worker has no model_runner"]
    found = [f"model_runner has no {name}" for name in _RUNNER if not hasattr(runner, name)]
    batch = getattr(runner, "input_batch", None)
    found += [f"input_batch has no {name}" for name in _BATCH if not hasattr(batch, name)]
    model = getattr(runner, "model", None)
    found += [f"the model has no {name}" for name in _MODEL if not hasattr(model, name)]
    for (module, kind), names in _FIELDS.items():
        try:
            known = _names(getattr(import_module(module), kind))
        except (ImportError, AttributeError):
            found.append(f"vLLM has no {module}.{kind}")
        else:
            found += [f"{kind} has no {name}" for name in names if name not in known]
    config = getattr(runner, "vllm_config", None)
    if getattr(config, "speculative_config", None) is not None:
        found.append("speculative decoding is on, with which rows come more than once")
    return found


def _names(kind: type) -> frozenset[str]:
    fields = [*getattr(kind, "__dataclass_fields__", ()), *getattr(kind, "__struct_fields__", ())]
    return frozenset([*fields, *dir(kind)])


def mend_pipeline(runner: Any) -> None:
    """Where no warm-up ran, a later stage has nowhere to put what it is handed."""
    from vllm.distributed import get_pp_group

    if get_pp_group().world_size == 1 or get_pp_group().is_first_rank:
        return
    if getattr(runner, "intermediate_tensors", None) is None:
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens,
            dtype=runner.model_config.dtype,
            device=runner.device,
        )


def relay_of(options: dict[str, Any], rank: int) -> Relay:
    """A worker's place in the pipeline. options: the `channel`, beside which the stages' own are."""
    from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size

    stage, stages = get_pp_group().rank_in_group, get_pp_group().world_size
    if stages == 1:
        return Relay()
    base, step = options["channel"], get_tensor_model_parallel_world_size()
    before = None if stage == 0 else f"{base}-stage-{rank}"
    after = None if stage + 1 == stages else f"{base}-stage-{rank + step}"
    return Relay(stage, before, after)


def sends(options: dict[str, Any], rank: int) -> Callable[[Message], None]:
    """Where messages go. options: a `channel`, by address, or a function to `send` with."""
    given: Callable[[Message], None] | None = options.get("send")
    send = given if given is not None else sender_to(options["channel"]).send
    if rank == int(options.get("speaker", 0)):
        return send
    # What went wrong in one worker only is heard as well: the run would be wrong without it.
    return lambda message: send(message) if isinstance(message, Failed) else None
