"""All methods of the grid, in the order of its page."""

from __future__ import annotations

from tests.parity.editing import EDITING
from tests.parity.method import Method
from tests.parity.moving import MOVING
from tests.parity.reading import READING

__all__ = ["METHODS"]

METHODS: dict[str, Method] = {method.name: method for method in (*READING, *EDITING, *MOVING)}
