"""Laws of the source: style, types, a sign on every door, and files that fit a head."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.house import ROOT, python_files, run, text_files

LONGEST = 400

#: Files that may be longer, each with its reason. Splitting is better.
LONG_ON_PURPOSE: dict[str, str] = {}


def opens_with_a_docstring(source: str) -> bool:
    """Whether the first statement says what the module is for."""
    return bool((ast.get_docstring(ast.parse(source)) or "").strip())


def test_ruff_finds_nothing() -> None:
    checked = run("ruff", "check", "--quiet", "--output-format=concise", ".")

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_file_is_formatted() -> None:
    checked = run("ruff", "format", "--check", "--quiet", "--diff", ".")

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_types_hold_in_source_and_tests() -> None:
    checked = run("mypy")

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_module_opens_with_a_docstring() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if not opens_with_a_docstring(path.read_text(encoding="utf-8"))
    ]

    assert silent == []


@pytest.mark.parametrize("source", ["", "import os\n", "# only a comment\nx = 1\n", '"""  """\n'])
def test_a_silent_module_is_seen(source: str) -> None:
    assert not opens_with_a_docstring(source)


def unlisted(sign: str, files: set[str]) -> set[str]:
    """Files that the sign of a room forgets; one that names less than half of them lists none."""
    named = files & set(re.findall(r"\b([a-z_]+\.py)\b", sign))
    return files - named if 2 * len(named) >= len(files) else set()


def test_a_room_that_lists_its_files_lists_them_all() -> None:
    wrong: dict[str, set[str]] = {}
    for path in python_files():
        if path.name != "__init__.py" or "tests" in path.parts:
            continue
        sign = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        files = {each.name for each in path.parent.glob("*.py") if not each.name.startswith("__")}
        found = unlisted(sign, files)
        if found:
            wrong[str(path.relative_to(ROOT))] = found

    assert wrong == {}


@pytest.mark.parametrize(
    ("sign", "found"),
    [("one.py and two.py", set()), ("one.py, gone.py", {"two.py"}), ("a room", set())],
)
def test_a_forgotten_file_is_seen(sign: str, found: set[str]) -> None:
    assert unlisted(sign, {"one.py", "two.py"}) == found


def test_no_file_is_longer_than_a_head_can_hold() -> None:
    long = {
        str(path.relative_to(ROOT)): text.count("\n")
        for path, text in text_files()
        if path.suffix in {".py", ".ts", ".tsx", ".js"} and text.count("\n") > LONGEST
    }

    assert set(long) == set(LONG_ON_PURPOSE), long
