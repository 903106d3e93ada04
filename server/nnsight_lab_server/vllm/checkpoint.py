"""`Checkpoint`: a model's parameters as Hugging Face has them, read from the files vLLM loaded.

vLLM merges, pads, shards and repacks its weights, and on some machines drops the originals. So a
weight that a graph asks for is read from the files again, one tensor at a time, and kept while
there is room. Names in files are not always the model's: a prefix may be missing or added, a head
may be tied to the embedding, `transformers` renames some when it loads.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.errors import NotSupported

__all__ = ["Checkpoint", "checkpoint_folder"]

_ELSEWHERE = "Run it on the transformers engine, which holds the parameters themselves."
_KEPT_BYTES = 1 << 30


class Checkpoint:
    """The parameters in a folder of safetensors files, by the names the model has for them.

    config: the model's own, which says whether its head is tied and how names were changed.
    dtype, device: what a parameter is given as, those of the model in vLLM.
    """

    def __init__(
        self, folder: Path, config: Any, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._folder = folder
        self._config = config
        self._dtype = dtype
        self._device = torch.device(device)
        self._files: dict[str, Path] | None = None
        self._names: dict[str, str] = {}
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def read(self, name: str) -> torch.Tensor:
        """One parameter, by its full name in the Hugging Face model.

        Raises:
            NotSupported: the files have none of that name.
        """
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = self._read(self._key_of(name))
            self._make_room()
        self._kept.move_to_end(name)
        return kept

    def has(self, name: str) -> bool:
        """Whether a parameter of this name can be read."""
        return self._found(name) is not None

    def _read(self, key: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._index()[key], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
        if tensor.is_floating_point():
            return tensor.to(self._device, self._dtype)
        return tensor.to(self._device)

    def _make_room(self) -> None:
        """The last one stays, however big."""
        while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)

    def _key_of(self, name: str) -> str:
        found = self._found(name)
        if found is None:
            raise NotSupported(
                f"The checkpoint of this model has no {name} by itself, so it cannot be read here.",
                hint=_ELSEWHERE,
            )
        return found

    def _found(self, name: str) -> str | None:
        self._index()
        names = [name, _tied_to(self._config, name)]
        keys = [self._key(each) for each in names if each is not None]
        return next((key for key in keys if key is not None), None)

    def _key(self, name: str) -> str | None:
        """The name in the files; they may have the base model's prefix too little or too much."""
        if name in self._names:
            return self._names[name]
        _, _, bare = name.partition(".")
        if "." in bare and bare in self._names:
            return self._names[bare]
        if "." not in name:  # a parameter of the whole model has no prefix to lose
            return None
        longer = [key for full, key in self._names.items() if full.partition(".")[2] == name]
        return longer[0] if len(longer) == 1 else None

    def _index(self) -> dict[str, Path]:
        """Which file has which key. Fills in the names the model has for them."""
        if self._files is None:
            self._files = _files_of(self._folder)
            renamings = _renamings(self._config)
            self._names = {_renamed(key, renamings): key for key in self._files}
        return self._files


def checkpoint_folder(model_config: Any) -> Path:
    """Where the files of a model that vLLM has loaded are on this machine."""
    name = str(model_config.model)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    found: str = snapshot_download(
        name,
        revision=model_config.revision,
        local_files_only=True,
        allow_patterns=["*.safetensors", "*.safetensors.index.json", "config.json"],
    )
    return Path(found)


def _files_of(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {key: folder / file for key, file in weight_map.items()}
    found: dict[str, Path] = {}
    whole = folder / "model.safetensors"
    for path in [whole] if whole.is_file() else sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    if not found:
        raise NotSupported(f"{folder.name} has no safetensors files.", hint=_ELSEWHERE)
    return found


def _tied_to(config: Any, name: str) -> str | None:
    """The parameter that this one is another name of, where the model ties them."""
    import transformers

    if not getattr(config.get_text_config(), "tie_word_embeddings", False):
        return None
    for architecture in config.architectures or ():
        kind: Any = getattr(transformers, architecture, None)
        tied = getattr(kind, "_tied_weights_keys", None)
        if isinstance(tied, dict):
            # A checkpoint may hold either of the two.
            return tied.get(name) or {of: one for one, of in tied.items()}.get(name)
    return None


def _renamings(config: Any) -> list[Any]:
    """What `transformers` renames when it loads a model of this kind; merging is no renaming."""
    from transformers import conversion_mapping as mapping
    from transformers.core_model_loading import WeightRenaming

    kinds = [*(config.architectures or ()), config.model_type]
    known = (mapping.get_checkpoint_conversion_mapping(kind) for kind in kinds)
    changes: list[Any] = next((each for each in known if each is not None), [])
    return [each for each in changes if isinstance(each, WeightRenaming)]


def _renamed(key: str, renamings: list[Any]) -> str:
    for renaming in renamings:
        key, _ = renaming.rename_source_key(key)
    return key
