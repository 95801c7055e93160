"""Filling a file's template, and values as Python that is written into it."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from typing import Any


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with every ``@NAME@`` replaced: by name rather than formatted, as code is full of braces."""
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def in_docstring(text: str) -> str:
    """Text that ends no docstring and no line."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")


def literal(value: dict[str, Any]) -> str:
    """A dict as Python, in lines of at most 110 columns."""
    return pprint.pformat(value, width=110, sort_dicts=False)
