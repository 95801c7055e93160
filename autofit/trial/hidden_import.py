"""Hides a package from import for a while.

``from transformers import Trainer`` imports peft where it is installed, peft imports bitsandbytes, and
bitsandbytes asks the device's capability when it is imported. That opens CUDA, after which no forked
child can use it. So the trial server imports everything with bitsandbytes hidden, and each child shows
it again before it needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Cached answers to "is it installed?" that were given while it was hidden.
_CACHED_QUESTIONS = ("is_bitsandbytes_available", "is_bnb_available", "is_bnb_4bit_available")


class _Blind:
    """A meta-path finder that finds what another finds, except one package."""

    def __init__(self, finder: Any, package: str) -> None:
        self.finder = finder
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] == self.package:
            return None
        spec: ModuleSpec | None = self.finder.find_spec(name, path, target)
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide(package: str) -> None:
    """From now on ``import package`` fails as if it were not installed."""
    sys.meta_path[:] = [_Blind(finder, package) for finder in sys.meta_path]


def show(package: str) -> None:
    """Undo ``hide``, and forget what other packages concluded meanwhile."""
    sys.meta_path[:] = [
        finder.finder if isinstance(finder, _Blind) and finder.package == package else finder
        for finder in sys.meta_path
    ]
    for module in list(sys.modules.values()):
        for question in _CACHED_QUESTIONS:
            forget = getattr(vars(module).get(question), "cache_clear", None)
            if forget is not None:
                forget()
