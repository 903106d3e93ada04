"""Where the notebooks are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nnsight_lab
from nnsight_lab.errors import NotSupported

__all__ = ["QUICKSTART", "find_notebooks", "working_folder"]

QUICKSTART = "01_quickstart.ipynb"
"""The notebook that `lab` opens and `demo` executes."""

_COPY = "nnsight-lab-notebooks"


def find_notebooks() -> tuple[Path, bool]:
    """The folder of the notebooks, and whether it is a checkout's own.

    Raises:
        NotSupported: this installation has none.
    """
    package = Path(nnsight_lab.__file__).parent
    for folder, own in ((package.parent / "notebooks", True), (package / "notebooks", False)):
        if (folder / QUICKSTART).is_file():
            return folder, own
    raise NotSupported(
        "This installation has no notebooks.", hint="Install from a wheel or a checkout."
    )


def working_folder(beside: Path) -> Path:
    """A folder whose notebooks may be changed: the checkout's, or a copy in `beside`.

    Notebooks that are in the copy already are left as they are.
    """
    source, own = find_notebooks()
    if own and os.access(source, os.W_OK):
        return source
    target = beside / _COPY
    target.mkdir(exist_ok=True)
    for notebook in sorted(source.glob("*.ipynb")):
        if not (target / notebook.name).exists():
            shutil.copyfile(notebook, target / notebook.name)
    return target
