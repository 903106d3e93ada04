"""A name or a folder to a model and its tokenizer. Safetensors only, no code from the model's repo.

Names: one of the bundled models (`tiny`), a local folder, or a Hugging Face id that is cached or
can be downloaded. Foreign errors are translated here, once.
"""

from __future__ import annotations

import difflib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.errors import ModelNotFound
from nnsight_lab.settings import Settings

__all__ = [
    "heed_the_soft_cap",
    "load_model",
    "load_weightless",
    "one_at_a_time",
    "resolve_name",
    "tokenizer_files",
]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_FOLDER_HINT = (
    "The folder needs config.json, weights as safetensors, and the tokenizer's files:"
    " tokenizer.save_pretrained(folder) writes those."
)

# transformers imports its classes when they are first asked for, which two threads at once must
# not do; loading also switches settings of torch's and of its own that every thread sees.
one_at_a_time = threading.Lock()


def resolve_name(name: str, settings: Settings) -> tuple[str, bool]:
    """Where a model's files are, and whether that is a folder on this machine.

    Raises:
        ModelNotFound: it looks like a folder, but there is none.
    """
    bundled = settings.bundled.get(name)
    if bundled is not None:
        return str(bundled), True
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), True
    looks_local = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_local or not name.strip():
        raise ModelNotFound(f"There is no folder {name!r}.", hint=_names_hint(settings))
    return name, False


def _names_hint(settings: Settings, near: str | None = None) -> str:
    bundled = ", ".join(repr(known) for known in settings.bundled)
    nearest = f"Nearest: {near!r}. " if near else ""
    return f"{nearest}Give a bundled name ({bundled}), a folder, or a Hugging Face id."


def _nearest_bundled(name: str, settings: Settings) -> str | None:
    """The bundled model that was probably meant; a name with a slash means one on the hub."""
    near = difflib.get_close_matches(name.lower(), settings.bundled, 1, 0.7)
    return near[0] if near and "/" not in name else None


def load_model(name: str, settings: Settings, **options: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in evaluation mode, and its tokenizer.

    options: passed on to `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, …).

    Raises:
        ModelNotFound: no such model here, and none could be fetched.
    """
    return _found(name, settings, lambda where, local: _loaded(where, local=local, options=options))


def load_weightless(name: str, settings: Settings) -> tuple[torch.nn.Module, Any]:
    """The model on the `meta` device, whose weights are never read, and its tokenizer.

    Raises:
        ModelNotFound: no such model here, and none could be fetched.
    """
    return _found(name, settings, lambda where, local: _described(where, local=local))


def _found(
    name: str, settings: Settings, load: Callable[[str, bool], tuple[torch.nn.Module, Any]]
) -> tuple[torch.nn.Module, Any]:
    """What `load` makes of the files of a name; it is told where they are, and whether here."""
    where, local = resolve_name(name, settings)
    near = None if local else _nearest_bundled(name, settings)
    try:
        with one_at_a_time:
            # What is nearly a bundled name is a slip of the hand: not worth waiting for a network.
            module, tokenizer = load(where, local or near is not None)
    except Exception as exc:  # a seam: whatever a broken or missing file makes a loader raise
        reason = "" if near else f" could be loaded: {[*str(exc).splitlines(), ''][0]}"
        hint = (
            _FOLDER_HINT if name.strip() and Path(where).is_dir() else _names_hint(settings, near)
        )
        raise ModelNotFound(f"No model {name!r}{reason or ' here.'}", hint=hint) from exc
    return module, tokenizer


def _loaded(where: str, *, local: bool, options: dict[str, Any]) -> tuple[torch.nn.Module, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"use_safetensors": True, "trust_remote_code": False, **options}
    with _quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
        model = AutoModelForCausalLM.from_pretrained(where, local_files_only=local, **options)
    if "attn_implementation" not in options:
        heed_the_soft_cap(model)
    module: torch.nn.Module = model.eval()
    return module, tokenizer


def _described(where: str, *, local: bool) -> tuple[torch.nn.Module, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with _quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
        config = AutoConfig.from_pretrained(where, local_files_only=local, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32)
        with suppress(OSError):  # few old models have no such file
            model.generation_config = GenerationConfig.from_pretrained(
                where, local_files_only=local
            )
    module: torch.nn.Module = model.eval()
    return module, tokenizer


def heed_the_soft_cap(model: Any) -> None:
    """Attend as Gemma 2 was trained to.

    Before 5.20 or so, `transformers` chooses `sdpa` for it, which has no soft-cap and leaves it out
    without a word; later ones choose `eager`, as we do here.
    """
    config = model.config.get_text_config()
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if capped and getattr(config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation("eager")


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Neither a progress bar nor a line for each retry; the user's own choices stay as they were."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        if was_enabled:
            transformers_logging.enable_progress_bar()


def tokenizer_files(tokenizer: Any) -> dict[str, str]:
    """The files a client needs to rebuild a fast tokenizer, by name."""
    import tempfile

    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = (Path(folder) / name for name in _TOKENIZER_FILES)
        return {path.name: path.read_text(encoding="utf-8") for path in found if path.is_file()}
