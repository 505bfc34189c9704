"""Docstrings name classes and functions by roles, ``:func:`x```, as editors understand them; on a page they are code."""

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Takes the roles away."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":(?:class|func|meth|mod|attr):(`[^`]+`)", r"\1", obj.docstring.value)
