"""What came of a run, as a table: each saved value with its statistics and a thumbnail.

Runs, sessions, caches and scanned shapes. Nothing is computed anew: the numbers are those of the
saved tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from nnsight_lab.jupyter.body import LAST
from nnsight_lab.jupyter.reprs.html import FAINT, Markup, code, page, table, tag
from nnsight_lab.jupyter.reprs.tensors import NUMBERS, number_cells, picture_cell, tensor_html
from nnsight_lab.kernels.summary import summary_of
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import Shapes
from nnsight_lab.passes.shapes import describe
from nnsight_lab.tracing import Proxy
from nnsight_lab.tracing.caches import Cache, CachedModule
from nnsight_lab.tracing.envoy import path_of

__all__ = ["cache_html", "cached_html", "proxy_html", "run_html", "shapes_html", "values_html"]

_MOST = 60
_PROMPT = 300


def values_html(values: Iterable[tuple[str, Any]]) -> Markup:
    """A table of named values, one a row."""
    rows: list[list[str]] = []
    left = 0
    for name, value in values:
        if len(rows) < _MOST:
            rows.append(_row(name, value))
        else:
            left += 1
    made = table(("name", "shape", *NUMBERS, ""), rows)
    more = tag("div", f"… and {left} more", style=FAINT) if left else ""
    return tag("div", made, more, style="overflow-x: auto")


def _row(name: str, value: Any) -> list[str]:
    shown = "last line" if name == LAST else name
    found = summary_of(value)
    if found is not None:
        return [code(shown), code(found.head), *number_cells(found), picture_cell(value)]
    return [code(shown), code(_kind(value)), *("" for _ in NUMBERS), ""]


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list | dict):
        said = describe(value)
        return said if len(said) <= 80 else f"{type(value).__name__} of {len(value)}"
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:79]}…"


def _visible(prompt: Any) -> str:
    """A prompt with its ends to be seen; other inputs by their shapes."""
    if isinstance(prompt, str):
        return repr(prompt if len(prompt) <= _PROMPT else f"{prompt[:_PROMPT]}…")
    if isinstance(prompt, list | tuple):
        shown = ", ".join(map(_visible, prompt[:4]))
        return f"[{shown}{', …' if len(prompt) > 4 else ''}]"
    if isinstance(prompt, torch.Tensor):
        return describe(prompt)
    said = repr(prompt)
    return said if len(said) <= _PROMPT else f"{said[:_PROMPT]}…"


def run_html(run: Run) -> Markup:
    """A run: what ran, on what, how long it took, and what it saved."""
    took = f"{sum(run.seconds.values()) * 1e3:.1f} ms"
    where = run.model.card.capabilities
    peeks = str(run.peeks) if run.peeks.count else ""
    told = [f"{where.engine} ({where.device})", took, run.how_far, peeks]
    if run.sent_bytes:
        told.append(f"{run.sent_bytes:,} bytes sent")
    head = tag("div", tag("b", f"Run on {run.model.name}"), " ",
               tag("span", " · ".join(filter(None, told)), style=FAINT))  # fmt: skip
    parts = [head]
    if run.prompt is not None:
        parts.append(tag("div", tag("span", "prompt ", style=FAINT), code(_visible(run.prompt))))
    if run.why:
        parts.append(tag("div", f"ran on {run.engine}: {run.why}", style=FAINT))
    parts.append(values_html(run.items()) if len(run) else tag("div", "It saved nothing."))
    if run.missing:
        parts.append(tag("div", f"did not happen: {', '.join(run.missing)}", style=FAINT))
    return page("run", *parts)


def shapes_html(shapes: Shapes) -> Markup:
    """What a scan gave: shapes only."""
    rows = [(code(name), code(describe(meta))) for name, meta in shapes.items()]
    head = tag("div", tag("b", "Shapes"), " ", tag("span", "nothing ran", style=FAINT))
    return page("shapes", head, table(("name", "shape"), rows))


def _held(path: str, ports: Mapping[str, Proxy], cache: Cache) -> Iterator[tuple[str, Any]]:
    for port, proxy in ports.items():
        yield f"{path}.{port}".strip("."), cache.value(proxy) if proxy.came_back else None


def cache_html(cache: Cache) -> Markup | None:
    """A cache, module by module; its plain text says that it is not filled yet."""
    held = [pair for path in cache for pair in _held(path, cache.ports(path), cache)]
    if not held or any(value is None for _, value in held):
        return None
    head = tag("div", tag("b", "Cache"), " ", tag("span", f"{len(cache)} modules", style=FAINT))
    return page("cache", head, values_html(held))


def cached_html(module: CachedModule) -> Markup | None:
    """One module of a cache."""
    cache, path = module._cache, path_of(module._envoy)  # noqa: SLF001 - public names are modules
    held = list(_held(path, cache.ports(path), cache))
    if not held or any(value is None for _, value in held):
        return None
    return page("cache", values_html(held))


def proxy_html(value: Proxy) -> Markup | None:
    """A recorded value: what it will be, or the tensor it has become."""
    if value.came_back:
        return tensor_html(value.value)
    told = repr(value).strip("<>").removeprefix("recorded ")
    shape, _, where = told.partition(" at ")
    parts = [tag("b", "Recorded value"), " ", code(shape)]
    if where:
        parts += [" ", tag("span", f"at {where}", style=FAINT)]
    hint = "It has numbers after the block, if it is saved there: .save()"
    if not value.recorder.open:
        hint = "Its block has ended. Call .save() on it inside the block."
    return page("recorded", tag("div", *parts), tag("div", hint, style=FAINT))
