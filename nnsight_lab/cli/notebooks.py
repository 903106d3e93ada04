"""Where the notebooks are: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import nnsight_lab
from nnsight_lab.errors import NotSupported

__all__ = ["QUICKSTART", "find_notebooks", "working_folder"]

QUICKSTART = "01_quickstart.ipynb"
"""The notebook that `lab` opens and `demo` executes."""

_COPY = "nnsight-lab-notebooks"


def find_notebooks() -> Path:
    """The folder of the notebooks as they ship.

    Raises:
        NotSupported: this installation has none.
    """
    package = Path(nnsight_lab.__file__).parent
    for folder in (package.parent / "notebooks", package / "notebooks"):
        if (folder / QUICKSTART).is_file():
            return folder
    raise NotSupported(
        "This installation has no notebooks.", hint="Install from a wheel or a checkout."
    )


def working_folder(beside: Path) -> Path:
    """A copy of the notebooks in `beside`, to change as one likes; the originals stay clean.

    Notebooks that are in the copy already are left as they are.
    """
    target = beside / _COPY
    target.mkdir(exist_ok=True)
    for notebook in sorted(find_notebooks().glob("*.ipynb")):
        if not (target / notebook.name).exists():
            shutil.copyfile(notebook, target / notebook.name)
    return target
