"""Law of the pages: what they show is what happens. Their examples are taken out and run here.

A block marked `python` in README.md or docs/ must at least be Python. Those that need nothing but
the bundled model are run; those of the error pages must end in the error of that page.
"""

from __future__ import annotations

import ast
import linecache
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from tests.architecture.house import ROOT

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: Pages whose blocks, one after another, run on the bundled model and nothing else.
RUNNABLE = (
    "docs/reference/background.md",
    "README.md",
    "docs/index.md",
    "docs/explanation/what-a-graph-cannot-say.md",
    "docs/how-to/read-and-edit.md",
    "docs/how-to/read-what-is-shown.md",
    "docs/how-to/save-and-rerun-a-graph.md",
    "docs/reference/generation.md",
    "docs/reference/sessions.md",
    "docs/reference/control-flow.md",
    "docs/reference/peeks.md",
    "docs/reference/compat.md",
    "docs/reference/cache.md",
    "docs/reference/compat.md",
    "docs/reference/control-flow.md",
    "docs/reference/cost.md",
    "docs/reference/files.md",
    "docs/reference/generation.md",
    "docs/reference/gradients.md",
    "docs/reference/invokes.md",
    "docs/reference/local-functions.md",
    "docs/reference/module-source.md",
    "docs/reference/peeks.md",
    "docs/reference/reading-and-editing.md",
    "docs/reference/recipes.md",
    "docs/reference/recorded-values.md",
    "docs/reference/rename.md",
    "docs/reference/scan.md",
    "docs/reference/sessions.md",
    "docs/reference/show-save-stop.md",
    "docs/reference/sliders.md",
    "docs/reference/skip.md",
    "docs/reference/stored-edits.md",
    "docs/reference/tracing.md",
    "docs/reference/user-modules.md",
)

#: Error pages whose example needs no server and no interruption.
RAISES = (
    "address-not-found",
    "bad-bytes",
    "bad-input",
    "model-not-found",
    "never-reached",
    "not-saved",
    "not-trusted",
    "op-failed",
    "op-not-allowed",
    "peek-contradicted",
    "server-unreachable",
    "shape-mismatch",
    "value-not-known",
    "write-too-early",
)


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return [found["code"] for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def pages_with_code() -> list[Path]:
    """The pages that show any."""
    return [page for page in PAGES if "_build" not in page.parts and blocks(page)]


def run_block(code: str, names: dict[str, Any], file: str) -> None:
    """Run a block as a cell: its source is at hand, its names stay."""
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), names)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader of a page has at hand."""
    monkeypatch.chdir(tmp_path)  # a page may write a file
    return {
        "__name__": "__main__",
        "nl": nl,
        "torch": torch,
        "lm": nl.LanguageModel("tiny"),
        "prompt": "The capital of France is",
        "clean": "When Mary and John went to the store, John gave a drink to",
        "corrupt": "When Mary and John went to the store, Mary gave a drink to",
        "direction": torch.tensor(0.5),
    }


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_marked_python_is_python(page: Path) -> None:
    for code in blocks(page):
        ast.parse(code)


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_examples_of_a_page_run(page: str, names: dict[str, Any]) -> None:
    found = blocks(ROOT / page)

    assert found
    for number, code in enumerate(found):
        # A page on reading shows lines from inside a block, without the `with` around them.
        bare = "lm." in code and not re.search(
            r"lm\.(trace|run|generate|scan|edit|session)\(", code
        )
        inside = "with lm.trace(prompt):\n" + re.sub("^", "    ", code, flags=re.MULTILINE)
        run_block(inside if bare else code, names, f"<{page}, block {number}>")


@pytest.mark.parametrize("code", RAISES)
def test_the_example_of_an_error_page_ends_in_that_error(code: str, names: dict[str, Any]) -> None:
    example = blocks(ROOT / "docs" / "errors" / f"{code}.md")[0]
    file = f"<{code}>"

    with pytest.raises(errors.LabError) as caught:
        run_block(example, names, file)

    assert caught.value.code == code
    assert caught.value.hint
    if issubclass(caught.type, errors.GraphError) and code != "bad-bytes":
        assert caught.value.where is not None
        assert caught.value.where.file == file


@pytest.mark.parametrize("code", ["lab-error", "graph-error"])
def test_the_example_of_a_family_page_catches_a_member(
    code: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_block(blocks(ROOT / "docs" / "errors" / f"{code}.md")[0], names, f"<{code}>")

    assert "address-not-found" in capsys.readouterr().out


def test_the_second_example_on_writing_too_early_works(names: dict[str, Any]) -> None:
    run_block(blocks(ROOT / "docs" / "errors" / "write-too-early.md")[1], names, "<two traces>")

    assert isinstance(names["logits"], torch.Tensor)
