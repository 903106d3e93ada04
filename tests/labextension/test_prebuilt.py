"""The committed build is of the committed sources, small, and found by JupyterLab. No Node here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.house import ROOT, pyproject

SOURCES = ROOT / "labextension"
BUILT = ROOT / "nnsight_lab" / "labextension" / "nnsight-lab"
LARGEST = 300_000


def hashes(folder: Path) -> dict[str, str]:
    """The hash of each source, as `labextension/stamp.mjs` writes them down."""
    given = "package.json schema src stamp.mjs style tsconfig.json yarn.lock".split()
    files = [
        path
        for name in given
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if path.is_file()
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_build_is_of_these_sources() -> None:
    built_from = json.loads((BUILT / "built-from.json").read_text())

    assert built_from == hashes(SOURCES), "make labextension, and commit what it builds"


def test_another_source_is_seen(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "index.ts").write_text("one")
    before = hashes(tmp_path)
    (tmp_path / "src" / "index.ts").write_text("other")

    assert before.keys() == {"src/index.ts"}
    assert hashes(tmp_path) != before


def test_every_file_that_a_page_loads_is_there_and_no_other() -> None:
    about = json.loads((BUILT / "package.json").read_text())
    files = [path for path in BUILT.rglob("*") if path.is_file()]
    scripts = list((BUILT / "static").glob("remoteEntry.*.js"))

    assert (BUILT / about["jupyterlab"]["_build"]["load"]).is_file()
    assert len(scripts) == 1, "an older build is left behind"
    assert {path.suffix for path in files} == {".js", ".json"}
    assert sum(path.stat().st_size for path in files) < LARGEST


def test_nothing_is_loaded_from_elsewhere() -> None:
    said = "".join(path.read_text() for path in (BUILT / "static").glob("*.js"))

    assert "http://" not in said.replace("http://www.w3.org/", "")
    assert "https://" not in said


def test_the_wheel_puts_it_where_jupyterlab_looks() -> None:
    shared = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    name = json.loads((BUILT / "package.json").read_text())["name"]

    assert shared[str(BUILT.relative_to(ROOT))] == f"share/jupyter/labextensions/{name}"
    assert all((ROOT / path).exists() for path in shared)


def listed(*, path: Path) -> str:
    """What `jupyter labextension list` says where data lies at `path`; there is no Node."""
    found = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        env=os.environ | {"JUPYTER_PATH": str(path), "PATH": "/nowhere"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout + found.stderr


@pytest.mark.slow
def test_jupyterlab_lists_it_as_enabled(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    place = tmp_path / "labextensions"
    place.mkdir()
    (place / "nnsight-lab").symlink_to(BUILT)
    lines = [line for line in listed(path=tmp_path).splitlines() if "nnsight-lab" in line]

    assert any("enabled" in line and "OK" in line for line in lines), lines
