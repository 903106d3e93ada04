"""Laws of the written word: an error has its page, one version everywhere, no machine's paths."""

from __future__ import annotations

import re

import pytest

from nnsight_lab import errors
from tests.architecture.house import ROOT, pyproject, text_files

#: Folders of one machine, without their slashes, so that this file keeps its own law.
FOLDERS = ("work", "root", r"home/\w+")
MACHINE_PATH = re.compile(rf"(?<![\w.~/-])/(?:{'|'.join(FOLDERS)})/")
LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)[^)]*\)")
HEADING = re.compile(r"^# `?(?P<code>[a-z-]+)`?$", re.MULTILINE)


def machine_paths(text: str) -> list[str]:
    """Each place in a text that names a folder of one machine."""
    return [
        f"line {text.count(chr(10), 0, found.start()) + 1}" for found in MACHINE_PATH.finditer(text)
    ]


def error_classes() -> list[type[errors.LabError]]:
    """Every class of the exception tree."""
    classes = [getattr(errors, name) for name in errors.__all__]
    return [kind for kind in classes if issubclass(kind, errors.LabError)]


def test_every_error_code_has_a_page_and_every_page_a_code() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("*.md")} - {"index"}

    assert {kind.code for kind in error_classes()} == pages


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in error_classes()]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.code)
def test_an_error_page_names_its_code_its_class_and_what_to_do(kind: type[errors.LabError]) -> None:
    page = (ROOT / "docs" / "errors" / f"{kind.code}.md").read_text(encoding="utf-8")
    heading = HEADING.search(page)

    assert heading is not None
    assert heading["code"] == kind.code
    assert f"`{kind.__name__}`" in page
    assert "## What to do" in page


def test_no_file_names_a_folder_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path, text in text_files()
        for place in machine_paths(text)
    ]

    assert found == []


@pytest.mark.parametrize("folder", ["work", "root", "home/ada"])
def test_a_machine_path_is_seen(folder: str) -> None:
    assert machine_paths(f"open('/{folder}/notes.txt')") == ["line 1"]


def test_an_ordinary_path_is_not_a_machine_path() -> None:
    assert machine_paths("~/work/notes, our/root/node, https://example.org/work/x") == []


def test_links_outside_the_documentation_lead_somewhere() -> None:
    """Sphinx checks the pages it builds; these are read where they lie."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "labextension").glob("*.md")]
    broken = [
        f"{page.name}: {link['target']}"
        for page in pages
        for link in LINK.finditer(page.read_text(encoding="utf-8"))
        if not (page.parent / link["target"]).exists()
    ]

    assert pages
    assert broken == []


def test_one_version_everywhere() -> None:
    import nnsight_lab

    version = pyproject()["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert nnsight_lab.__version__ == version
    assert f"\nversion: {version}\n" in citation
    assert f"## [{version}]" in changelog
