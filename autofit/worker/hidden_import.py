"""Hides packages from import for a while.

``from transformers import Trainer`` imports peft and torchao where they are installed, peft imports bitsandbytes, and
bitsandbytes and torchao (its prototype/mx_formats) ask for the device's capability when they are imported. That opens
CUDA, after which no forked child can use it. So the trial server imports everything with the two hidden, and each child
shows them again before it needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OPENING_DEVICES = ("bitsandbytes", "torchao")
# Cached answers to "is it installed?" that were given while it was hidden.
_CACHED_QUESTIONS = ("is_bitsandbytes_available", "is_bnb_available", "is_bnb_4bit_available", "is_torchao_available")


class _Blind:
    """A meta-path finder that finds what another finds, except the packages that open devices."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] in OPENING_DEVICES:
            return None
        spec: ModuleSpec | None = self.finder.find_spec(name, path, target)
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide() -> None:
    """From now on importing one of ``OPENING_DEVICES`` fails as if it were not installed."""
    sys.meta_path[:] = [_Blind(finder) for finder in sys.meta_path]


def show() -> None:
    """Undo ``hide``, and forget what other packages concluded meanwhile."""
    sys.meta_path[:] = [finder.finder if isinstance(finder, _Blind) else finder for finder in sys.meta_path]
    for module in list(sys.modules.values()):
        for question in _CACHED_QUESTIONS:
            forget = getattr(vars(module).get(question), "cache_clear", None)
            if forget is not None:
                forget()
