"""Laws of errors that nobody chose to make: each says what to do next."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.house import ROOT

ALWAYS_WITH_A_HINT = ("BadBytes", "EngineFailed")


def without_hint(source: str) -> list[int]:
    """The lines that make such an error and give no hint."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    made = [
        call
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in ALWAYS_WITH_A_HINT
    ]
    return [call.lineno for call in made if "hint" not in {word.arg for word in call.keywords}]


def test_every_bad_bytes_and_engine_failed_has_a_hint() -> None:
    sources = [*(ROOT / "nnsight_lab").rglob("*.py"), *(ROOT / "server").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources
        for line in without_hint(path.read_text(encoding="utf-8"))
    ]

    assert found == []


@pytest.mark.parametrize("source", ['raise BadBytes("x")', 'error = EngineFailed(f"{x}", node=1)'])
def test_an_error_without_a_hint_is_seen(source: str) -> None:
    assert without_hint(source) == [1]
