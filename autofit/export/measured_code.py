"""The code that a trial itself ran, as text: an exported file carries it, so that what was measured is what trains."""

from __future__ import annotations

import ast
from pathlib import Path

_RUNTIME = Path(__file__).parents[1] / "runtime"


def collator_source(name: str) -> str:
    """The class ``name`` of ``runtime/collators.py``."""
    return _definitions(_RUNTIME / "collators.py", {name})


def varlen_attention_source() -> str:
    """The functions of ``runtime/varlen_attention.py``, and the call that makes the attention known."""
    source = _definitions(_RUNTIME / "varlen_attention.py", None)
    return f'NAME = "torch_varlen"\n\n\n{source}\n\n\nregister()'


def _definitions(path: Path, names: set[str] | None) -> str:
    text = path.read_text(encoding="utf-8")
    found = [
        ast.get_source_segment(text, node) or ""
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and (names is None or node.name in names)
    ]
    return "\n\n\n".join(found)
