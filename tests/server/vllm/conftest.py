"""What tests of vLLM share with the others that run in the same process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def main_can_be_spawned() -> Iterator[None]:
    """Python starts processes from `__main__`; tests of notebooks leave one without a spec there."""
    main = sys.modules["__main__"]
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(main, "__spec__"):
            patch.setattr(main, "__spec__", None, raising=False)
        yield
