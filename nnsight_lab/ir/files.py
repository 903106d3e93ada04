"""Files that hold an experiment: a zip of a manifest, a graph, and raw bytes. No pickle is read.

    manifest.json    {"format": 1, "versions": {…}, and what else `models/experiment.py` says}
    graph.nnlg       the graph, as `Graph.to_bytes` writes it
    tensors.bin      the elements of tensors among the inputs, one after another
    functions.pkl    local functions; handed over as bytes, opened in `models/trusted.py` only

Parts are stored, not compressed, so a small file cannot become a large one. Sizes are checked
before anything is read. The usual ending is `.nnlab`; a bare graph (`.nnlg`) is read as well.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnsight_lab import __version__
from nnsight_lab.errors import BadBytes, LimitExceeded
from nnsight_lab.ir.limits import Limits

__all__ = ["FORMAT", "FUNCTIONS", "GRAPH", "TENSORS", "read_file", "versions_here", "write_file"]

FORMAT = 1
"""The version of the file's layout that this package writes, and the newest it reads."""
_MANIFEST, GRAPH, TENSORS, FUNCTIONS = (
    "manifest.json", "graph.nnlg", "tensors.bin", "functions.pkl",
)  # fmt: skip
_NAMES = frozenset({_MANIFEST, GRAPH, TENSORS, FUNCTIONS})
_BARE_GRAPH = b"NNLG"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""A time for every part, so that the same experiment is the same file."""


def versions_here() -> dict[str, str]:
    """The versions an experiment's numbers may depend on; nothing is imported to know them."""
    found = {"nnsight-lab": __version__}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_file(path: str | Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> Path:
    """Write a file of these parts, with the versions of this process in its manifest."""
    whole = {"format": FORMAT, "versions": versions_here(), **manifest}
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {_MANIFEST: text.encode(), **parts}.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), data)
    path = Path(path).expanduser()
    path.write_bytes(held.getvalue())
    return path


def read_file(path: Path, limits: Limits) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the other parts of a file, which may come from anybody.

    Raises:
        BadBytes: it is no such file, or one of a newer format.
        LimitExceeded: it is larger than `limits` allow.
    """
    with path.open("rb") as file:
        if file.read(4) == _BARE_GRAPH:
            return {"format": FORMAT, "versions": {}}, {GRAPH: _whole(path, limits)}
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {info.filename: _part(archive, info, limits) for info in _listed(archive)}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as exc:
        raise _bad(f"{path.name} is not a saved experiment.") from exc
    if not {_MANIFEST, GRAPH} <= set(parts):
        raise _bad(f"{path.name} is not a saved experiment.")
    return _manifest(parts.pop(_MANIFEST)), parts


def _whole(path: Path, limits: Limits) -> bytes:
    if path.stat().st_size > limits.bytes:
        raise _too_large(path.name, path.stat().st_size, limits.bytes)
    return path.read_bytes()


def _listed(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    listed = archive.infolist()
    names = [info.filename for info in listed]
    if len(set(names)) != len(names) or not set(names) <= _NAMES:
        raise _bad("The file holds parts that no saved experiment has.")
    return listed


def _part(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    most = limits.header_bytes if info.filename == _MANIFEST else limits.bytes
    if info.compress_type != zipfile.ZIP_STORED:
        raise _bad(f"{info.filename} is compressed, which parts of a saved experiment are not.")
    if info.file_size > most:
        raise _too_large(info.filename, info.file_size, most)
    return archive.read(info)


def _manifest(data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise _bad("The file's manifest is not JSON.") from exc
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if type(found) is not int or found < 1:
        raise _bad("The file's manifest does not say its format.")
    if found > FORMAT:
        raise BadBytes(
            f"The file has format {found}; this version reads up to format {FORMAT}.",
            hint="Install a newer nnsight-lab.",
        )
    whole: dict[str, Any] = manifest
    return whole


def _bad(message: str) -> BadBytes:
    return BadBytes(message, hint="graph.save(path) and run.save(path) make such files.")


def _too_large(name: str, size: int, most: int) -> LimitExceeded:
    return LimitExceeded(
        f"{name} has {size} bytes; {most} are read.",
        hint="A file of your own: nl.load(path, limits=nl.ir.Limits(bytes=…)).",
    )
