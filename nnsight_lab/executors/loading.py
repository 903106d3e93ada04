"""A name or a folder to a model and its tokenizer. Safetensors only, no code from the model's repo.

Names: one of the bundled models (`tiny`), a local folder, or a Hugging Face id that is cached or
can be downloaded. Foreign errors are translated here, once.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.errors import ModelNotFound
from nnsight_lab.settings import Settings

__all__ = ["load_model", "resolve_name", "tokenizer_files"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


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


def _names_hint(settings: Settings) -> str:
    bundled = ", ".join(repr(known) for known in settings.bundled)
    return f"Give a bundled name ({bundled}), a folder, or a Hugging Face id."


def load_model(name: str, settings: Settings, **options: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in evaluation mode, and its tokenizer.

    options: passed on to `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, …).

    Raises:
        ModelNotFound: no such model here, and none could be fetched.
    """
    where, local = resolve_name(name, settings)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"use_safetensors": True, "trust_remote_code": False, **options}
    try:
        with _quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
            model = AutoModelForCausalLM.from_pretrained(where, local_files_only=local, **options)
    except Exception as exc:  # a seam: whatever a broken or missing file makes a loader raise
        raise ModelNotFound(
            f"No model {name!r} could be loaded: {[*str(exc).splitlines(), ''][0]}",
            hint=_names_hint(settings),
        ) from exc
    module: torch.nn.Module = model.eval()
    return module, tokenizer


@contextmanager
def _quiet_loading() -> Any:
    """Loading a small model needs no progress bar; leave the user's own choice as it was."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def tokenizer_files(tokenizer: Any) -> dict[str, str]:
    """The files a client needs to rebuild a fast tokenizer, by name."""
    import tempfile

    if tokenizer is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = (Path(folder) / name for name in _TOKENIZER_FILES)
        return {path.name: path.read_text(encoding="utf-8") for path in found if path.is_file()}
